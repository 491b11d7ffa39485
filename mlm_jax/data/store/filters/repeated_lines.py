"""``repeated_lines``: documents that repeat the same lines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mlm_jax.config.option import option
from mlm_jax.config.values import Number
from mlm_jax.data.store.filters.base import TextFilter


@dataclasses.dataclass(frozen=True)
class RepeatedLines(TextFilter):
    """Keep texts in which at most a share of the lines occurred before in the same text; blank lines do not count.

    Source: Rae et al. 2021 (Gopher), table A1, duplicate line fraction.
    """

    most: float = option(0.3, Number(0, 1), "Highest share of lines that occurred before.")

    def keeps_texts(self, texts: Sequence[str], language: str) -> Sequence[bool]:
        """Return which texts to keep."""
        return [self._keeps(text) for text in texts]

    def _keeps(self, text: str) -> bool:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return len(lines) - len(set(lines)) <= self.most * len(lines)
