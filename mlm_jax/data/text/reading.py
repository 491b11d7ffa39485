"""Open text files, plain or compressed, and read their lines and texts with bounded memory."""

from __future__ import annotations

import dataclasses
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mlm_jax.common.errors import UserError, one_line
from mlm_jax.common.lines import MOST_BYTES, decoded_lines

PACKINGS = (".gz", ".zst")
BLANK = "a blank line, or no text"  # why a document is left out
EMPTY_SIDE = "a side is empty"  # why a pair is left out
DAMAGED = (OSError, EOFError, zlib.error)  # exceptions of reading or decompressing a file
TOO_LARGE = "split the document, leave it out, or raise data.max_document_bytes"  # remedy for a large document


@dataclass(frozen=True)
class Wanted:
    """What a reader of text is asked for.

    Attributes:
      name: language or pair, as the config names it.
      split: train | validation; only functions and data set libraries use it.
      sides: the two languages of a pair; () for text of one language.
      most_bytes: most bytes of a document, a line or a unit.
      skipped: {reason: number of examples left out}, added to.
      field: field that holds the text, if documents have fields.
      where: {field: text that it must equal, or number that it must be at least}.
    """

    name: str
    split: str = "train"
    sides: tuple[str, ...] = ()
    most_bytes: int = MOST_BYTES
    skipped: Counter[str] = dataclasses.field(default_factory=Counter)
    field: str = "text"
    where: Mapping[str, str | float] = dataclasses.field(default_factory=dict)


def ending(file: Path) -> str:
    """Return ".txt" for both ``a.txt`` and ``a.txt.gz``."""
    suffixes = file.suffixes
    return suffixes[-2] if len(suffixes) > 1 and suffixes[-1] in PACKINGS else file.suffix


def open_file(file: Path) -> BinaryIO:
    """Open a file for reading; a compressed file is decompressed.

    Raises:
      UserError: a compressed file has no bytes.
      OSError: it cannot be opened.
    """
    if file.suffix not in PACKINGS:
        return file.open("rb")
    if not file.stat().st_size:
        raise UserError(
            f"a {file.suffix} file of 0 bytes: it was cut short", file=file, remedy="fetch or pack the file again"
        )
    if file.suffix == ".gz":
        return gzip.open(file)  # type: ignore[return-value]
    import pyarrow as pa  # unlike zstandard's reader, it raises an error if the file was cut short

    return io.BufferedReader(pa.input_stream(file, compression="zstd"))


def lines(file: Path, most_bytes: int = MOST_BYTES) -> Generator[str, None, None]:
    """Yield a file's lines without their ends, and without a byte order mark before the first.

    Args:
      file: file, plain or compressed.
      most_bytes: most bytes of a line, which bounds the memory.

    Raises:
      UserError: the file cannot be read or decompressed; or as :func:`mlm_jax.common.lines.decoded_lines`.
    """
    number = 0
    try:
        with open_file(file) as stream:
            for line in decoded_lines(stream, file, most_bytes, TOO_LARGE):
                number += 1
                yield line
    except DAMAGED as error:
        raise unreadable(error, file, number + 1) from error


def unreadable(error: Exception, file: Path, line: int | None = None) -> UserError:
    """Return the error for a file that cannot be opened or decompressed."""
    remedy = "fetch or pack the file again"
    if "too much memory" in str(error):  # the window of zstd is larger than decoders accept by default
        remedy = "the file was packed with a long window (zstd --long): unpack it with zstd -d --long=31, and pack it without"
    return UserError(f"cannot read it: {one_line(error)}", file=file, line=line, remedy=remedy)


def too_large(what: str, most_bytes: int, file: Any, line: int | None = None) -> UserError:
    """Return the error for a document that is larger than the limit."""
    return UserError(f"{what} has more than {most_bytes:,} bytes", file=file, line=line, remedy=TOO_LARGE)


def checked_text(text: Any, most_bytes: int, file: Any, line: int | None = None, *, where: str = "") -> str:
    """Return a text that did not come from a text file, after checking that it can be written in UTF-8.

    Args:
      text: value of a JSON field or of a column, or an object that a function yields.
      most_bytes: most bytes of the text.
      file: file, folder or function that it came from.
      line: line of the file.
      where: where the text is, for messages, such as "row 3".

    Raises:
      UserError: it is not a text, is too large, or contains NUL or half of a surrogate pair.
    """
    where = f"{where}: " if where else ""
    if not isinstance(text, str):
        raise UserError(
            f"{where}the text is {brief(text)}", file=file, line=line, remedy="leave such examples out, or write text"
        )
    if len(text) > most_bytes // 4 and len(text.encode(errors="replace")) > most_bytes:  # 4 bytes a character at most
        raise too_large(f"{where}the text", most_bytes, file, line)
    if "\0" in text:
        raise UserError(
            f"{where}character {text.index(chr(0)) + 1} of the text is NUL",
            file=file,
            line=line,
            remedy="leave the example out, or remove the NUL",
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}character {error.start + 1} of the text is half of a surrogate pair",
            file=file,
            line=line,
            remedy="leave it out, or fix what cut the text there",
        ) from error
    return text


def brief(value: Any) -> str:
    """Return a value for a message: its type and the beginning of its representation."""
    import reprlib

    return f"{reprlib.repr(value)} ({type(value).__name__})" if value is not None else "missing (None)"
