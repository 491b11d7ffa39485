"""Text files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from mlm_jax.errors import UserError


def write_whole(file: str | Path, text: str) -> None:
    """Write a text in UTF-8; whoever reads the file meanwhile, or after a crash, finds the old text or the new one."""
    scratch = Path(f"{file}.incomplete")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)


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
    scratch = Path(f"{output}.incomplete")
    try:
        with scratch.open("w", encoding="utf-8") as file:
            yield file
        os.replace(scratch, output)
    except OSError as error:
        raise UserError(f"cannot write: {error.strerror}", file=output) from error
    finally:
        scratch.unlink(missing_ok=True)
