"""Checkpoints: write, verify, restore, begin from the weights of another run."""
