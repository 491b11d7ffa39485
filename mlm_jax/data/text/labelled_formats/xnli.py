"""``xnli``: TSV with a header that names the columns, as of XNLI, MultiNLI, SNLI and STS-B."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mlm_jax.common.errors import UserError, nearest, one_line
from mlm_jax.data.text.labelled_formats.example import Asked, Example
from mlm_jax.data.text.reading import BLANK, lines

CONTRADICTION = {"contradictory": "contradiction"}  # XNLI's training file: {its spelling: that of XNLI's other files}
NO_CONSENSUS = "-"  # gold label of SNLI and MultiNLI if the annotators did not agree
UNDECIDED = "no gold label (-): the annotators did not agree"
COLUMNS = (("sentence1", "premise"), ("sentence2", "hypo", "hypothesis"), ("gold_label", "label", "score"))


def read(file: Path, asked: Asked) -> Iterator[tuple[int, Example]]:
    """Yield (number of the line, pair with its label).

    If there is a column "language", as in XNLI's own files of fifteen languages, only the lines of the set's language are read.
    Blank lines and pairs without a gold label are counted as skipped.

    Raises:
      UserError: a column is missing, or no line is in the set's language.
    """
    numbered = enumerate(lines(file, asked.most_bytes), 1)
    header = next(numbered, (1, ""))[1].split("\t")
    names = [next((name for name in options if name in header), None) for options in COLUMNS]
    if None in names:
        raise UserError(
            f"the header does not name premise, hypothesis and label or score, only {one_line(', '.join(header))}",
            file=file,
            line=1,
            remedy="see XNLI's files",
        )
    indices = [header.index(name) for name in names if name]
    spoken = header.index("language") if "language" in header else None
    others: dict[str, None] = {}
    found = 0
    for number, line in numbered:
        if not line.strip():
            asked.skipped[BLANK] += 1
            continue
        columns = line.split("\t")
        if len(columns) <= max(*indices, spoken or 0):
            raise UserError(
                f"{len(columns)} columns, but the header has {len(header)}",
                file=file,
                line=number,
                remedy="separate columns by one tab, without quotes",
            )
        if spoken is not None and columns[spoken] != asked.language:
            others[columns[spoken]] = None
            continue
        found += 1
        first, second, label = (columns[index] for index in indices)
        if label.strip() == NO_CONSENSUS and NO_CONSENSUS not in asked.labels:
            asked.skipped[UNDECIDED] += 1
            continue
        if not (first.strip() and second.strip() and label.strip()):
            raise UserError(
                "premise, hypothesis or label is empty", file=file, line=number, remedy="leave the line out"
            )
        yield number, Example((first, second), (CONTRADICTION.get(label, label),))
    if others and not found:
        raise UserError(
            f"no line is in {asked.language!r}, only {one_line(', '.join(others))}{nearest(asked.language, [*others])}",
            file=file,
        )
