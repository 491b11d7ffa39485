"""Checks of one example of a function or a data set library: a text, or the two sides of a pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlm_jax.common.errors import UserError
from mlm_jax.data.text.reading import Wanted, brief, checked_text


def from_columns(entry: Mapping[str, Any], number: int, source: str, wanted: Wanted) -> str | tuple[str, str]:
    """Return the text, or the two sides, of an example with columns.

    Args:
      entry: example with a column "text", or a column for each side, which may be inside "translation".
      number: number of the example, from 1.
      source: name of the data set, for messages.
      wanted: what the reader is asked for.

    Raises:
      UserError: a column is missing or does not contain text.
    """
    if not wanted.sides:
        if "text" not in entry:
            raise UserError(
                f'an example has no "text", only {", ".join(entry)}', file=source, remedy='rename its column to "text"'
            )
        return _text(entry["text"], number, source, wanted)
    texts = entry.get("translation", entry)
    if not isinstance(texts, Mapping):
        raise UserError(
            f'example {number}: "translation" is {brief(texts)}', file=source, remedy="write {language: text}"
        )
    first, second = wanted.sides
    if first not in texts or second not in texts:
        raise UserError(
            f"an example has no sides {first!r} and {second!r}, only {', '.join(texts)}",
            file=source,
            remedy="rename its languages to those of the pair",
        )
    return _text(texts[first], number, source, wanted), _text(texts[second], number, source, wanted)


def _text(value: Any, number: int, source: str, wanted: Wanted) -> str:
    if isinstance(value, bytes):  # text of TensorFlow Datasets
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise UserError(f"example {number}: the text is not UTF-8", file=source, remedy="leave it out") from error
    return checked_text(value, wanted.most_bytes, source, where=f"example {number}")
