"""``near_duplicates``: texts that are nearly the same as an earlier text of the same language, by MinHash."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlm_jax.common.errors import UserError
from mlm_jax.common.extras import install_command
from mlm_jax.config.option import option
from mlm_jax.config.values import whole
from mlm_jax.data.store.filters.base import CopyFilter

SEED = 1
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio, odd


@dataclasses.dataclass(frozen=True)
class NearDuplicates(CopyFilter):
    """Keep the first of texts that share a band of MinHash values, and so have nearly the same set of character n-grams.

    Two texts whose sets have the Jaccard similarity s share a band with probability 1 − (1 − s^rows)^bands: by default 0.99 for
    s = 0.85, 0.77 for 0.75 and 0.21 for 0.6. A later text is also compared with dropped texts, so a chain of copies keeps only its
    first text.

    Raises:
      UserError: the library rensa is not installed.

    Source: Broder 1997; Lee et al. 2022, Deduplicating training data makes language models better.
    """

    bands: int = option(14, whole(1), "Number of bands; texts that share one are copies.")
    rows: int = option(8, whole(1), "MinHash values of a band.")
    characters: int = option(8, whole(1), "Length n of the n-grams, of characters without white space and case.")

    def __post_init__(self) -> None:
        self._minhash()

    def keys(self, texts: Sequence[str]) -> np.ndarray:
        """Return a hash of each band of each text: ``[texts, bands]`` uint64."""
        hashes, starts = self._strings(texts)
        matrix = self._minhash().digest_matrix_from_flat_token_hashes(hashes, starts, self.bands * self.rows, SEED)
        values = np.array(matrix.to_rows(), np.uint64).reshape(len(texts), self.bands, self.rows)
        keys = np.broadcast_to(np.arange(1, self.bands + 1, dtype=np.uint64), (len(texts), self.bands))
        for row in range(self.rows):
            keys = _mixed((keys ^ values[:, :, row]) * FACTOR)
        return keys

    def _strings(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the hashes of all n-grams of all texts, and ``[texts + 1]`` where those of each text begin, and the end."""
        size = self.characters
        plain = ["".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts]
        codes = np.frombuffer(
            "".join(text.ljust(size, "\0") for text in plain).encode("utf-32-le", "surrogatepass"), "<u4"
        )
        lengths = np.array([max(len(text), size) for text in plain])
        count = len(codes) - size + 1
        hashes = np.zeros(count, np.uint64)
        for offset in range(size):
            hashes = hashes * FACTOR + codes[offset : offset + count]
        ends = np.repeat(np.cumsum(lengths), lengths)[:count]
        left = ends - np.arange(count)  # characters of the text from here to its end
        return _mixed(hashes[left >= size]), np.concatenate([[0], np.cumsum(lengths - size + 1)]).astype(np.uint64)

    @staticmethod
    def _minhash() -> Any:
        try:
            from rensa import RMinHash
        except ImportError as error:
            raise UserError(
                "rensa is not installed, and the filter 'near_duplicates' needs it", remedy=install_command("filters")
            ) from error
        return RMinHash


def _mixed(values: np.ndarray) -> np.ndarray:
    """Return uint64 values whose low bits depend on the high bits too."""
    values = (values ^ (values >> np.uint64(32))) * FACTOR
    return values ^ (values >> np.uint64(29))
