"""Statistics of how a vocabulary cuts text into tokens, to compare languages and vocabularies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mlm_jax.data.vocabulary.pieces import Vocabulary

BATCH = 1000  # texts that are encoded at a time


class Fertility(NamedTuple):
    """Counts of a text and its tokens.

    Attributes:
      tokens: number of tokens, without those around texts.
      words: number of words, which white space separates.
      characters: number of characters, before normalisation.
      in_bytes: number of tokens that are a byte, or bytes that are not a whole character (byte fallback).
      unknown: number of tokens for text that the vocabulary cannot spell.
      pieces: number of different pieces.
    """

    tokens: int
    words: int
    characters: int
    in_bytes: int
    unknown: int
    pieces: int

    @property
    def tokens_per_word(self) -> float:
        """Fertility (Rust et al. 2021). It means little for scripts without spaces."""
        return self.tokens / max(self.words, 1)

    @property
    def characters_per_token(self) -> float:
        """Mean length of a token."""
        return self.characters / max(self.tokens, 1)

    @property
    def byte_share(self) -> float:
        """Share of tokens that are bytes."""
        return self.in_bytes / max(self.tokens, 1)

    @property
    def unknown_share(self) -> float:
        """Share of tokens that are unknown."""
        return self.unknown / max(self.tokens, 1)


def fertility(vocabulary: Vocabulary, texts: Iterable[str]) -> Fertility:
    """Count the tokens of texts.

    Args:
      vocabulary: vocabulary of any kind.
      texts: texts of one language.
    """
    counts = np.zeros(vocabulary.size, np.int64)  # [pieces]
    words = characters = 0
    batch: list[str] = []

    def count() -> None:
        for ids in vocabulary.encode_batch(batch):
            np.add.at(counts, ids, 1)
        batch.clear()

    for text in texts:
        words += len(text.split())
        characters += len(text)
        batch.append(text)
        if len(batch) == BATCH:
            count()
    count()
    unknown = int(counts[vocabulary.unk_id]) if vocabulary.unk_id >= 0 else 0
    in_bytes = int(counts[vocabulary.is_byte].sum())
    return Fertility(int(counts.sum()), words, characters, in_bytes, unknown, int((counts > 0).sum()))


def parity(vocabulary: Vocabulary, pairs: Sequence[tuple[str, str]]) -> float:
    """Return the ratio of the tokens of a language to those of its translations (Petrov et al. 2023).

    Args:
      vocabulary: vocabulary of any kind.
      pairs: (text of the language, its translation into the other language).
    """
    first, second = (sum(map(len, vocabulary.encode_batch(side))) for side in zip(*pairs))
    return first / max(second, 1)
