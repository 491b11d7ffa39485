"""Formats of labelled text: one module each, with ``read(file, asked)``; the table is in ``labelled``."""
