"""Sources other than files: one module each, with ``read(rest, wanted)`` and ``fingerprint(rest, source)``."""
