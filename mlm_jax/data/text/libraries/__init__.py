"""Sources that are no files: one module each, with ``read(rest, wanted)`` and ``fingerprint(rest, source)``."""
