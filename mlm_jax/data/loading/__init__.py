"""From the token store to batches: order, mixing, curriculum."""
