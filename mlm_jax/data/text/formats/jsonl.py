"""``.jsonl``: one JSON object per line. The document is its field "text", unless the source names another field."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

from mlm_jax.common.errors import UserError
from mlm_jax.data.text.fields import fits, value_of
from mlm_jax.data.text.reading import Wanted, brief, checked_text, lines


def read(file: Path, wanted: Wanted) -> Generator[str, None, None]:
    """Yield the text of each line ("" for a blank line), except lines whose fields do not meet ``wanted.where``.

    Raises:
      UserError: a line is not a JSON object with text in this field; or as :func:`lines` and :func:`.fields.fits`.
    """
    for number, line in enumerate(lines(file, wanted.most_bytes), 1):
        if not line.strip():
            yield ""
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:  # a very long number raises a plain ValueError
            raise UserError(
                f"this is not JSON: {getattr(error, 'msg', error)}",
                file=file,
                line=number,
                remedy="write one JSON object a line",
            ) from error
        if wanted.where and not fits(entry, wanted, file, line=number):
            continue
        text = value_of(entry, wanted.field, file, "", number)
        if not isinstance(text, str):
            raise UserError(
                f"no string {json.dumps(wanted.field)} here, but {brief(text)}",
                file=file,
                line=number,
                remedy="write text in this field, or leave the line out",
            )
        yield checked_text(text, wanted.most_bytes, file, number)
