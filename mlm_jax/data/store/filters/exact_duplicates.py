"""``exact_duplicates``: texts that occurred before in the same language."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mlm_jax.data.store.filters.base import CopyFilter
from mlm_jax.data.store.same_text import whole_fingerprints


@dataclasses.dataclass(frozen=True)
class ExactDuplicates(CopyFilter):
    """Keep the first of texts that are equal after NFKC and without white space, by 64-bit hashes."""

    def keys(self, texts: Sequence[str]) -> np.ndarray:
        """Return the hash of each text: ``[texts, 1]`` uint64."""
        return whole_fingerprints(texts).hashes[:, None]
