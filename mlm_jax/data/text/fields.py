"""Fields of documents: the one that holds the text, and conditions on the others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlm_jax.common.errors import UserError, one_line
from mlm_jax.data.text.reading import Wanted, brief

UNFIT = "its fields do not meet the source's `where`"  # why a document is left out


def value_of(entry: Any, name: str, file: Path, where: str, line: int | None = None) -> Any:
    """Return the value of a field such as "text", or "metadata.language" for a nested object.

    Raises:
      UserError: there is no such field.
    """
    value = entry
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            found = (
                {key: type(each).__name__ for key, each in entry.items()}
                if isinstance(entry, Mapping)
                else brief(entry)
            )
            raise UserError(
                f"{where}no field {name!r}, only {one_line(found)}",
                file=file,
                line=line,
                remedy='name the field in the source: {"files": …, "field": "content"}',
            )
        value = value[part]
    return value


def fits(entry: Any, wanted: Wanted, file: Path, where: str = "", line: int | None = None) -> bool:
    """Return whether the fields of a document meet ``wanted.where``; a document that does not is counted.

    A text must be equal, and a number at least as large. In a list of values, the first one, which is the best, must fit.

    Raises:
      UserError: there is no such field, or it is not a number but ``where`` has a number.
    """
    for name, asked in wanted.where.items():
        value = value_of(entry, name, file, where, line)
        value = (value[0] if value else None) if isinstance(value, list) else value
        if value is not None and not isinstance(asked, str) and not isinstance(value, (int, float)):
            raise UserError(
                f"{where}{name} is {brief(value)}, not a number",
                file=file,
                line=line,
                remedy="write a text in the source's `where`",
            )
        if value is None or (value != asked if isinstance(asked, str) else not value >= asked):
            wanted.skipped[UNFIT] += 1
            return False
    return True
