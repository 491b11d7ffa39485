"""What every other package may use: errors, files, lines of text, processes, the console."""
