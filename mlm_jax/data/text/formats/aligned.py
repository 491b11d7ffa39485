"""Parallel text as two files, of which document n of one is the translation of document n of the other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path

from mlm_jax.common.errors import UserError
from mlm_jax.data.text.formats import txt
from mlm_jax.data.text.reading import Wanted, ending

Reader = Callable[[Path, Wanted], Generator[str, None, None]]


def read(first: Path, second: Path, wanted: Wanted, readers: Mapping[str, Reader]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of two files.

    Args:
      first: file of the first side; with an ending that none of ``readers`` has, it is plain lines (``a.de``).
      second: file of the second side.
      wanted: what the reader is asked for.
      readers: {ending: reader of text}.

    Raises:
      UserError: the files are not equally long; or as their readers.
    """
    missing = object()
    streams = [readers.get(ending(file), txt.read)(file, wanted) for file in (first, second)]
    with contextlib.closing(streams[0]), contextlib.closing(streams[1]):
        number = 0
        while True:
            number += 1
            left, right = (next(stream, missing) for stream in streams)
            if left is missing and right is missing:
                return
            if left is missing or right is missing:
                shorter, longer = (first, second) if left is missing else (second, first)
                raise UserError(
                    f"the file ends where {longer} has line {number}: the two are not aligned",
                    file=shorter,
                    line=number,
                    remedy="align them line by line",
                )
            yield left, right  # type: ignore[misc]
