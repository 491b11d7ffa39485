"""``tsv``: a line is ``text<TAB>label``, or ``text<TAB>text<TAB>label`` for a pair; commas separate several classes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mlm_jax.common.errors import UserError
from mlm_jax.data.text.labelled_formats.example import Asked, Example
from mlm_jax.data.text.reading import BLANK, lines


def read(file: Path, asked: Asked) -> Iterator[tuple[int, Example]]:
    """Yield (number of the line, example).

    Raises:
      UserError: a line does not have two or three columns, or one of them is empty; only the label column of a set of kind
        ``classes`` may be empty.
    """
    several = asked.kind == "classes"
    for number, line in enumerate(lines(file, asked.most_bytes), 1):
        if not line.strip():
            asked.skipped[BLANK] += 1
            continue
        columns = line.split("\t")
        needed = columns[:-1] if several else columns
        if len(columns) not in (2, 3) or not all(column.strip() for column in needed):
            raise UserError(
                "not 'text<TAB>label' or 'text<TAB>text<TAB>label'",
                file=file,
                line=number,
                remedy="separate text and label by one tab",
            )
        labels = [label.strip() for label in (columns[-1].split(",") if several else columns[-1:])]
        yield number, Example(tuple(columns[:-1]), tuple(label for label in labels if label))
