"""Basics for all other packages: errors, files, lines of text, processes, the console."""
