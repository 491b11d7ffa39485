"""``.zip`` of OPUS in the Moses format: two aligned files of lines, whose endings are the languages, and notes on the corpus."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from mlm_jax.common.errors import UserError, one_line
from mlm_jax.common.lines import decoded_lines
from mlm_jax.data.text.formats.aligned import in_step
from mlm_jax.data.text.formats.codes import code_of, plain_code
from mlm_jax.data.text.reading import DAMAGED, TOO_LARGE, Wanted, unreadable

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MOST_AT_ONCE = 1 << 20  # bytes


def read(file: Path, wanted: Wanted) -> Iterator[tuple[str, str]]:
    """Yield pairs of lines from the files of the pair's languages, such as ``TED2020.de-en.de`` and ``TED2020.de-en.en``.

    Raises:
      UserError: the ZIP file is damaged, it does not have exactly one file of each language, or the files have different lengths;
        or as :func:`.decoded_lines`.
    """
    try:
        with _Small(file.open("rb", buffering=0)) as raw, zipfile.ZipFile(raw) as archive:
            first, second = _members(file, archive, wanted.sides)
            for name in (first, second):
                if archive.getinfo(name).compress_type not in METHODS:  # others may unpack into any amount of memory
                    raise UserError(f"{name} is not packed by deflate", file=file, remedy="pack it again: zip")
            with archive.open(first) as left, archive.open(second) as right:
                lines = [
                    decoded_lines(cast(BinaryIO, stream), f"{file}/{name}", wanted.most_bytes, TOO_LARGE)
                    for stream, name in ((left, first), (right, second))
                ]
                yield from in_step(lines[0], lines[1], Path(file, first), Path(file, second))
    # RuntimeError: the file has a password.
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, *DAMAGED) as error:
        raise unreadable(error, file) from error


class _Small(io.BufferedReader):
    """A file from which only little can be read at once, because a ZIP file itself states the length of its list of contents."""

    def read(self, size: int | None = -1) -> bytes:
        """Read bytes.

        Raises:
          BadZipFile: they are more than those of any list of a few files.
        """
        found = super().read(min(size if size is not None and size >= 0 else MOST_AT_ONCE + 1, MOST_AT_ONCE + 1))
        if len(found) > MOST_AT_ONCE:
            raise zipfile.BadZipFile(f"it has a list of contents of more than {MOST_AT_ONCE:,} bytes")
        return found


def _members(file: Path, archive: zipfile.ZipFile, sides: tuple[str, ...]) -> tuple[str, str]:
    """Return the names of the files of both sides.

    Raises:
      UserError: a side has no file, or several.
    """
    by_code: dict[str, list[str]] = {}
    for name in archive.namelist():
        by_code.setdefault(plain_code(name.rpartition(".")[2]), []).append(name)
    found = [code_of(plain_code(side), by_code) for side in sides]
    for side, code in zip(sides, found):
        names = by_code.get(code, [])
        if len(names) != 1 or found.count(code) > 1:
            there = one_line(", ".join(names or archive.namelist())) or "nothing"
            raise UserError(
                f"no single file of {side!r}, but {there}",
                file=file,
                remedy="name the pair by the endings of the files; a ZIP file must contain one pair only",
            )
    return by_code[found[0]][0], by_code[found[1]][0]
