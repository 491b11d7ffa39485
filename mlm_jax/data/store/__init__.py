"""The token store: text is tokenized once and kept as arrays."""
