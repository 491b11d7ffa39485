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
    """Keep texts in which letters of any script, with their marks, are a high enough share of all characters but white space."""

    least: float = option(0.5, Number(0, 1), "Lowest share of letters and marks.")

    def keeps_texts(self, texts: Sequence[str], language: str) -> Sequence[bool]:
        """Return which texts to keep."""
        return [letters(text) >= self.least * max(sum(map(len, text.split())), 1) for text in texts]


def letters(text: str) -> int:
    """Return the number of letters and of marks, such as the vowel signs of many scripts."""
    return sum(count for character, count in Counter(text).items() if unicodedata.category(character)[0] in "LM")
