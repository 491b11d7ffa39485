"""Text to token ids and back: pieces, bytes, published tokenizers."""
