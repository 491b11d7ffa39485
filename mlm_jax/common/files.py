"""Text files that are whole or not there."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from mlm_jax.common.errors import UserError


@contextlib.contextmanager
def _whole(place: str | Path) -> Iterator[TextIO]:
    """Open a text file in UTF-8; whoever reads it meanwhile, or after a crash, finds the old text or the new one."""
    scratch = Path(f"{place}.incomplete")
    try:
        with scratch.open("w", encoding="utf-8") as file:
            yield file
        scratch.replace(place)
    finally:
        scratch.unlink(missing_ok=True)


def write_whole(file: str | Path, text: str) -> None:
    """Write a text file that is there whole, or not at all."""
    with _whole(file) as opened:
        opened.write(text)


@contextlib.contextmanager
def writing(output: str) -> Iterator[TextIO]:
    """Open a text file that appears when it is whole, or standard output ("-").

    Raises:
      UserError: the file cannot be written.
    """
    if output == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    try:
        with _whole(output) as file:
            yield file
    except OSError as error:
        raise UserError(f"cannot write: {error.strerror}", file=output) from error
