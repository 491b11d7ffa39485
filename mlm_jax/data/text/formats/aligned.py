"""Parallel text in two aligned files: document n of one is the translation of document n of the other."""

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
      first: file of the first side; a file with an unknown ending, such as ``a.de``, is read as plain lines.
      second: file of the second side.
      wanted: what the reader is asked for.
      readers: {ending: reader of text}.

    Raises:
      UserError: the files have different lengths; or as their readers.
    """
    streams = [readers.get(ending(file), txt.read)(file, wanted) for file in (first, second)]
    with contextlib.closing(streams[0]), contextlib.closing(streams[1]):
        yield from in_step(streams[0], streams[1], first, second)


def in_step(left: Iterator[str], right: Iterator[str], first: Path, second: Path) -> Iterator[tuple[str, str]]:
    """Yield the texts of two files in pairs.

    Args:
      left: texts of the first file.
      right: texts of the second file.
      first: name of the first file.
      second: name of the second file.

    Raises:
      UserError: one ends before the other.
    """
    missing = object()
    number = 0
    while True:
        number += 1
        one, other = next(left, missing), next(right, missing)
        if one is missing and other is missing:
            return
        if one is missing or other is missing:
            shorter, longer = (first, second) if one is missing else (second, first)
            raise UserError(
                f"the file ends where {longer} has line {number}: the two are not aligned",
                file=shorter,
                line=number,
                remedy="align them line by line",
            )
        yield one, other  # type: ignore[misc]
