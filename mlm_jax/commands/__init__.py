"""The verbs of the command line, a file each: parser, help, and what it prints."""
