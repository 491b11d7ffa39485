"""``letters``: texts that are mostly digits, punctuation or symbols."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections import Counter
from collections.abc import Sequence

from mlm_jax.config.option import option
from mlm_jax.config.values import Number
from mlm_jax.data.store.filters.base import TextFilter


@dataclasses.dataclass(frozen=True)
class Letters(TextFilter):
    """Keep texts of which this share of all characters but white space are letters of any script, with their marks."""

    least: float = option(0.5, Number(0, 1), "Share of letters and marks at least.")

    def keeps_texts(self, texts: Sequence[str], language: str) -> Sequence[bool]:
        """Return which texts to keep."""
        return [letters(text) >= self.least * max(sum(map(len, text.split())), 1) for text in texts]


def letters(text: str) -> int:
    """Return how many characters are letters, or marks such as vowel signs, which many scripts write as often."""
    return sum(count for character, count in Counter(text).items() if unicodedata.category(character)[0] in "LM")
