"""``.jsonl``: a JSON object a line, whose "text" is a document."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

from mlm_jax.common.errors import UserError, one_line
from mlm_jax.data.text.reading import Wanted, checked_text, lines


def read(file: Path, wanted: Wanted) -> Generator[str, None, None]:
    """Yield the "text" of each line, "" for a blank one.

    Raises:
      UserError: a line is not a JSON object with a string "text"; or as :func:`lines`.
    """
    for number, line in enumerate(lines(file, wanted.most_bytes), 1):
        if not line.strip():
            yield ""
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:  # an endless number is only a ValueError
            raise UserError(
                f"this is not JSON: {getattr(error, 'msg', error)}",
                file=file,
                line=number,
                remedy="write one JSON object a line",
            ) from error
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
            found = (
                {key: type(value).__name__ for key, value in entry.items()}
                if isinstance(entry, dict)
                else type(entry).__name__
            )
            raise UserError(
                f'no string "text" here, only {one_line(found)}', file=file, line=number, remedy='name the field "text"'
            )
        yield checked_text(entry["text"], wanted.most_bytes, file, number)
