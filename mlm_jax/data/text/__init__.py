"""Text as users have it: readers of its formats, labelled sets, languages."""
