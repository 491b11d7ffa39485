"""``function``: ``"module:function"`` that yields (text, label), (text, text, label) or ((text, text), label)."""

from __future__ import annotations

from collections.abc import Iterator

from mlm_jax.common.errors import UserError
from mlm_jax.data.text.labelled_formats.example import Asked, Example
from mlm_jax.data.text.libraries.function import called
from mlm_jax.data.text.reading import BLANK, brief, checked_text


def read(source: str, asked: Asked) -> Iterator[tuple[None, Example]]:
    """Yield (None, example): there are no lines.

    Raises:
      UserError: an example is neither (text, label) nor (text, text, label), or its label is no text.
    """
    for number, entry in called(source, asked.language, asked.split):
        where = f"example {number}"
        if not isinstance(entry, (tuple, list)) or len(entry) not in (2, 3):
            raise UserError(
                f"{where} is {brief(entry)}", file=source, remedy="yield (text, label) or (text, text, label)"
            )
        *texts, label = entry
        if len(texts) == 1 and isinstance(texts[0], (tuple, list)) and len(texts[0]) == 2:
            texts = [*texts[0]]  # ((text, text), label)
        if not isinstance(label, str) or not label:
            raise UserError(
                f"{where}: the label is {brief(label)}", file=source, remedy="yield labels that are texts, such as '1'"
            )
        checked = [checked_text(text, asked.most_bytes, source, where=where) for text in texts]
        if not all(text.strip() for text in checked):
            asked.skipped[BLANK] += 1
            continue
        yield None, Example(tuple(checked), (checked_text(label, asked.most_bytes, source, where=where),))
