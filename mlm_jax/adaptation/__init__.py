"""Change the vocabulary of a trained model."""
