"""Filters of text: one file for each, and one row of ``filtering.FILTERS``."""
