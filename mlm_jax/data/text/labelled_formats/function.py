"""``function``: a ``"module:function"`` that yields (text, label), (text, text, label) or ((text, text), label)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mlm_jax.common.errors import UserError
from mlm_jax.data.text.labelled_formats.example import Asked, Example
from mlm_jax.data.text.libraries.function import called
from mlm_jax.data.text.reading import BLANK, brief, checked_text

WANTED = {  # {kind of label: (what a label must be, remedy)}
    "class": ("a text", "yield labels that are texts, such as '1'"),
    "classes": ("a tuple of texts", "yield a tuple of labels, () for none"),
    "number": ("a number", "yield numbers, such as 4.5"),
}


def read(source: str, asked: Asked) -> Iterator[tuple[None, Example]]:
    """Yield (None, example), since there are no line numbers.

    Raises:
      UserError: an example is neither (text, label) nor (text, text, label), or its label is not of the set's kind.
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
        labels = _labels(label, asked.kind)
        if labels is None:
            wanted, remedy = WANTED[asked.kind]
            raise UserError(f"{where}: the label is {brief(label)}, not {wanted}", file=source, remedy=remedy)
        checked = [checked_text(text, asked.most_bytes, source, where=where) for text in texts]
        if not all(text.strip() for text in checked):
            asked.skipped[BLANK] += 1
            continue
        named = [checked_text(name, asked.most_bytes, source, where=where) for name in labels]
        yield None, Example(tuple(checked), tuple(named))


def _labels(label: Any, kind: str) -> list[str] | None:
    """Return the labels of an example as texts; None if they are not of the set's kind."""
    if kind == "classes":
        several = isinstance(label, (tuple, list)) and all(isinstance(name, str) and name for name in label)
        return [*label] if several else None
    if kind == "number":
        is_number = isinstance(label, (int, float, np.number)) and not isinstance(label, bool)
        return [repr(float(label))] if is_number else None
    return [label] if isinstance(label, str) and label else None
