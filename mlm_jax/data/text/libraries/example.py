"""One example of a function or a data set library, checked: a text, or the two sides of a pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlm_jax.common.errors import UserError
from mlm_jax.data.text.reading import Wanted, brief, checked_text


def from_columns(entry: Mapping[str, Any], number: int, place: str, wanted: Wanted) -> str | tuple[str, str]:
    """Return the text, or the two sides, of an example that has columns.

    Args:
      entry: with the column "text", or a column for each side (in "translation", if there is one).
      number: of the example, counted from 1.
      place: data set, for messages.
      wanted: what the reader is asked for.

    Raises:
      UserError: a column is missing or holds no text.
    """
    if not wanted.sides:
        if "text" not in entry:
            raise UserError(
                f'an example has no "text", only {", ".join(entry)}', file=place, remedy='rename its column to "text"'
            )
        return _text(entry["text"], number, place, wanted)
    texts = entry.get("translation", entry)
    if not isinstance(texts, Mapping):
        raise UserError(
            f'example {number}: "translation" is {brief(texts)}', file=place, remedy="write {language: text}"
        )
    first, second = wanted.sides
    if first not in texts or second not in texts:
        raise UserError(
            f"an example has no sides {first!r} and {second!r}, only {', '.join(texts)}",
            file=place,
            remedy="rename its languages to those of the pair",
        )
    return _text(texts[first], number, place, wanted), _text(texts[second], number, place, wanted)


def _text(value: Any, number: int, place: str, wanted: Wanted) -> str:
    if isinstance(value, bytes):  # as TensorFlow Datasets hands text over
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise UserError(f"example {number}: the text is not UTF-8", file=place, remedy="leave it out") from error
    return checked_text(value, wanted.most_bytes, place, where=f"example {number}")
