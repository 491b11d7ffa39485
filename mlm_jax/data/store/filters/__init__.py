"""Filters of text: one file each, and one row of ``filtering.FILTERS``."""
