"""``.txt``: one document per line."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from mlm_jax.data.text.reading import Wanted, lines


def read(file: Path, wanted: Wanted) -> Generator[str, None, None]:
    """Return a file's lines."""
    return lines(file, wanted.most_bytes)
