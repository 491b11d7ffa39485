"""``length``: texts that are too short or too long."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mlm_jax.config.option import option
from mlm_jax.config.values import whole
from mlm_jax.data.store.filters.base import TextFilter


@dataclasses.dataclass(frozen=True)
class Length(TextFilter):
    """Keep texts of ``least`` to ``most`` characters, without white space around them."""

    least: int = option(1, whole(1), "Fewest characters.")
    most: int = option(1 << 30, whole(1), "Most characters.")

    def keeps_texts(self, texts: Sequence[str], language: str) -> Sequence[bool]:
        """Return which texts to keep."""
        return [self.least <= len(text.strip()) <= self.most for text in texts]
