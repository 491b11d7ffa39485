"""What a filter is: a frozen dataclass that declares its options with ``option``, as an objective does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np


class Filter:
    """Judges examples in batches: documents are texts, pairs are (text, text).

    Attributes:
      of_pairs: whether only pairs can be judged; documents then stay.
    """

    of_pairs: ClassVar[bool] = False

    def keeps(self, examples: Sequence[Any], languages: tuple[str, ...]) -> np.ndarray:
        """Return which examples to keep: ``[examples]`` bool.

        Args:
          examples: texts, or pairs of texts, none of them blank.
          languages: language of the texts, or the two languages of the pairs.
        """
        raise NotImplementedError

    def cannot_judge(self, language: str) -> str:
        """Return why text of a language cannot be judged, so that it stays; "" if it can."""
        return ""


class TextFilter(Filter):
    """Judges texts; a pair is kept if both its sides are."""

    def keeps(self, examples: Sequence[Any], languages: tuple[str, ...]) -> np.ndarray:
        """Return which examples to keep: ``[examples]`` bool."""
        if len(languages) == 1:
            return np.asarray(self.keeps_texts(examples, languages[0]), bool)
        sides = [self.keeps_texts([pair[i] for pair in examples], languages[i]) for i in (0, 1)]
        return np.logical_and(*np.asarray(sides, bool))

    def keeps_texts(self, texts: Sequence[str], language: str) -> Sequence[bool]:
        """Return which texts of a language to keep."""
        raise NotImplementedError


class CopyFilter(Filter):
    """Drops copies: among the examples of a language or pair that share a key, only the first one stays."""

    def keys(self, texts: Sequence[str]) -> np.ndarray:
        """Return the keys of each text, ``[texts, keys]`` uint64; a pair is given as one text."""
        raise NotImplementedError


def joined(examples: Sequence[Any]) -> list[str]:
    """Return each of one or more examples as one text; the sides of a pair are joined by a line break."""
    return [*examples] if isinstance(examples[0], str) else ["\n".join(pair) for pair in examples]
