"""The verbs of the command line, one file each: its parser, its help and its output."""
