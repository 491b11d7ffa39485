"""``length_ratio``: pairs with one side much longer than the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from mlm_jax.config.option import option
from mlm_jax.config.values import Number, whole
from mlm_jax.data.store.filters.base import Filter


@dataclasses.dataclass(frozen=True)
class LengthRatio(Filter):
    """Keep pairs whose longer side has at most ``most`` times the bytes of the shorter side."""

    of_pairs: ClassVar[bool] = True
    most: float = option(
        3.0, Number(1), "Highest ratio of bytes in UTF-8, which vary less between scripts than characters do."
    )
    shortest: int = option(
        30, whole(0), "Fewest bytes of the longer side of a pair that is judged; shorter pairs stay."
    )

    def keeps(self, examples: Sequence[Any], languages: tuple[str, ...]) -> np.ndarray:
        """Return which pairs to keep: ``[examples]`` bool."""
        sizes = np.array([[len(side.strip().encode()) for side in pair] for pair in examples]).reshape(-1, 2)
        longer = sizes.max(axis=1)
        return (longer <= self.most * sizes.min(axis=1)) | (longer < self.shortest)
