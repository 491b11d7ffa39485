"""How finely a vocabulary cuts the text of a language, compared with other languages and with other vocabularies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mlm_jax.data.vocabulary.pieces import Vocabulary

BATCH = 1000  # texts that are encoded at a time


class Fertility(NamedTuple):
    """Counts of a text that a vocabulary has cut.

    Attributes:
      tokens: in all, nothing put around texts.
      words: between white space.
      characters: of the text as it stands.
      in_bytes: tokens that stand for a byte, or for bytes that are no whole character (byte fallback).
      unknown: tokens that stand for text which the vocabulary cannot spell.
      pieces: different ones that occur.
    """

    tokens: int
    words: int
    characters: int
    in_bytes: int
    unknown: int
    pieces: int

    @property
    def tokens_per_word(self) -> float:
        """Fertility (Rust et al. 2021). It says little of scripts without spaces."""
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
    """Count what a vocabulary cuts texts into.

    Args:
      vocabulary: of any kind.
      texts: of one language.
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
    """Return how many tokens a language takes for each token of another one's translations (Petrov et al. 2023).

    Args:
      vocabulary: of any kind.
      pairs: (text of the language, its translation into the other one).
    """
    first, second = (sum(map(len, vocabulary.encode_batch(side))) for side in zip(*pairs))
    return first / max(second, 1)
