"""Text to token ids and back: SentencePiece, bytes, published tokenizers."""
