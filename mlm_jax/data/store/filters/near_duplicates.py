"""``near_duplicates``: texts that are nearly one that stood before in the same language, by MinHash."""

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
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, with bits all over


@dataclasses.dataclass(frozen=True)
class NearDuplicates(CopyFilter):
    """Keep the first of texts that share a band of MinHash values: nearly the same set of short strings of characters.

    Two texts whose sets have the Jaccard similarity s share a band with probability 1 − (1 − s^rows)^bands: by default 0.99 at
    0.85, 0.77 at 0.75 and 0.21 at 0.6. A text that was dropped counts as one that stood before: a chain of copies keeps its first.

    Raises:
      UserError: the library rensa is not installed.

    Source: Broder 1997; Lee et al. 2022, Deduplicating training data makes language models better.
    """

    bands: int = option(14, whole(1), "Bands; a shared one makes a copy.")
    rows: int = option(8, whole(1), "MinHash values of a band.")
    characters: int = option(8, whole(1), "Characters of the short strings, of the text without white space and case.")

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
        """Return hashes of all strings of so many characters of all texts, and where those of each text begin, and the end."""
        size = self.characters
        plain = ["".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts]
        codes = np.frombuffer(
            "".join(text.ljust(size, "\0") for text in plain).encode("utf-32-le", "surrogatepass"), "<u4"
        )
        lengths = np.array([max(len(text), size) for text in plain])
        places = len(codes) - size + 1
        hashes = np.zeros(places, np.uint64)
        for offset in range(size):
            hashes = hashes * FACTOR + codes[offset : offset + places]
        left = np.repeat(np.cumsum(lengths), lengths)[:places] - np.arange(
            places
        )  # characters of the text from here on
        return _mixed(hashes[left >= size]), np.concatenate([[0], np.cumsum(lengths - size + 1)]).astype(np.uint64)

    @staticmethod
    def _minhash() -> Any:
        try:
            from rensa import RMinHash
        except ImportError as error:
            raise UserError(
                "rensa, which near_duplicates needs, is not installed", remedy=install_command("filters")
            ) from error
        return RMinHash


def _mixed(values: np.ndarray) -> np.ndarray:
    """Return uint64 whose low bits depend on the high ones too."""
    values = (values ^ (values >> np.uint64(32))) * FACTOR
    return values ^ (values >> np.uint64(29))
