"""File formats of text and of parallel text: one module each, with ``read(file, wanted)``; the tables are in ``corpora``."""
