"""Users' text: readers of text formats, labelled sets, languages."""
