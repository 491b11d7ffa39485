"""``identical_sides``: pairs whose two sides are the same text, and so not translations."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from mlm_jax.data.store.filters.base import Filter
from mlm_jax.data.store.same_text import whole_fingerprints


@dataclasses.dataclass(frozen=True)
class IdenticalSides(Filter):
    """Keep pairs whose sides differ after NFKC, ignoring white space and case."""

    of_pairs: ClassVar[bool] = True

    def keeps(self, examples: Sequence[Any], languages: tuple[str, ...]) -> np.ndarray:
        """Return which pairs to keep: ``[examples]`` bool."""
        hashes = whole_fingerprints([side.casefold() for pair in examples for side in pair]).hashes.reshape(-1, 2)
        return hashes[:, 0] != hashes[:, 1]
