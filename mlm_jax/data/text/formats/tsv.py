"""``.tsv`` of parallel text: two columns per line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mlm_jax.common.errors import UserError
from mlm_jax.data.text.reading import Wanted, lines


def read(file: Path, wanted: Wanted) -> Iterator[tuple[str, str]]:
    """Yield the two columns of each line; both are "" for a blank line.

    Raises:
      UserError: a line does not have two columns; or as :func:`lines`.
    """
    for number, line in enumerate(lines(file, wanted.most_bytes), 1):
        columns = line.split("\t") if line.strip() else ["", ""]
        if len(columns) != 2:
            raise UserError(
                f"{len(columns)} columns, but a pair has 2",
                file=file,
                line=number,
                remedy="separate the two sides by one tab",
            )
        yield columns[0], columns[1]
