"""Lines of text from files, pipes and keyboards, as streams whose memory does not grow."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import queue
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from mlm_jax.common.addresses import refuse_to_read
from mlm_jax.common.errors import UserError

MOST_BYTES = 1 << 24  # of one line, or of one document
BLOCK = 1 << 16  # bytes of a file that are read at once
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
EMPTY = "empty"  # name under which lines without text are counted
Item = TypeVar("Item")
PATIENCE = 0.1  # seconds that a text waits for further texts to share its batch


def read_lines(path: str) -> Iterator[str]:
    """Yield the lines of a text file in UTF-8 without their ends and a byte order mark; "-" is standard input.

    Raises:
      UserError: the file cannot be read, is an address, or for the reasons of :func:`decoded_lines`.
    """
    refuse_to_read(path)
    name = input_name(path)
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            yield from decoded_lines(file, name, MOST_BYTES, "split the line")
    except OSError as error:
        raise UserError(f"cannot read: {error.strerror}", file=name) from error


def decoded_lines(stream: BinaryIO, file: str | Path, most_bytes: int, remedy: str) -> Iterator[str]:
    """Yield lines in UTF-8 without their ends, and without a byte order mark before the first; memory stays bounded.

    Args:
      stream: an opened file or pipe.
      file: its name in messages.
      most_bytes: the limit for one line.
      remedy: the remedy in the error about a longer line.

    Raises:
      UserError: a line is too long, not UTF-8 or contains NUL, or the lines end in CR alone.
      OSError: the stream cannot be read.
    """
    number = 0
    for block in _whole_lines(stream, most_bytes):
        plain = _plain_lines(block) if number and len(block) <= most_bytes else None
        if plain is not None:
            number += len(plain)
            yield from plain
            continue
        for line in io.BytesIO(block):
            number += 1
            yield _decoded(line, file, number, most_bytes, remedy)


def _whole_lines(stream: BinaryIO, most_bytes: int) -> Iterator[bytes]:
    """Yield lines, many at once: what of them has come. One that is too long is not read to its end, and is the last."""
    begun = bytearray()  # of a line
    while block := stream.read1(BLOCK):  # type: ignore[attr-defined]
        end = block.rfind(b"\n") + 1
        if end:
            yield bytes(begun + block[:end])
            begun.clear()
        begun += block[end:]
        if len(begun) > most_bytes:
            break
    if begun:
        yield bytes(begun)


def _plain_lines(block: bytes) -> list[str] | None:
    """Return the lines of a block; None if there is anything in it that must be looked at line by line."""
    if b"\r" in block or b"\0" in block:
        return None
    try:
        found = block.decode().split("\n")
    except UnicodeDecodeError:
        return None
    if not found[-1]:  # behind the end of the last line
        found.pop()
    return found


def _decoded(line: bytes, file: str | Path, number: int, most_bytes: int, remedy: str) -> str:
    convert = "convert the text to UTF-8, for example with iconv"
    if number == 1 and line.startswith(UTF16_MARKS):
        raise UserError("this is UTF-16 and not UTF-8", file=file, line=1, remedy=convert)
    if number == 1 and not line.endswith(b"\n") and b"\r" in line.rstrip(b"\r"):
        raise UserError(
            "the lines end in CR alone (classic Mac), so this is one line",
            file=file,
            line=1,
            remedy=r"convert the text, for example with tr '\r' '\n'",
        )
    if len(line) > most_bytes:
        raise UserError(f"the line has more than {most_bytes:,} bytes", file=file, line=number, remedy=remedy)
    try:
        text = line.decode("utf-8" if number > 1 else "utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"this is not UTF-8 (byte {error.start + 1} of the line)", file=file, line=number, remedy=convert
        ) from error
    if "\0" in text:
        raise UserError(f"NUL in line {number}: is this UTF-16?", file=file, line=number, remedy=convert)
    return text


def input_name(input: str) -> str:
    """Return the name of a text file, or of standard input ("-"), in messages."""
    return "standard input" if input == "-" else input


def counting_empty(lines: Iterable[str], counts: Counter[str]) -> Iterator[str]:
    """Yield lines, and count those without text as ``EMPTY``."""
    for line in lines:
        counts[EMPTY] += not line.strip()
        yield line


class Arriving:
    """Lines that arrive one by one from a keyboard or another program; a thread reads ahead.

    Args:
      lines: the lines; reading the next one may block.
    """

    def __init__(self, lines: Iterator[str]):
        self._lines = lines

    def __iter__(self) -> Iterator[str]:
        return self._lines

    def windows(self, size: int) -> Iterator[list[str]]:
        """Yield the lines that have arrived, at least one and at most ``size`` at a time."""
        read: queue.Queue[str | None | BaseException] = queue.Queue(size)

        def reads_ahead() -> None:
            try:
                for line in self._lines:
                    read.put(line)
                read.put(None)
            except BaseException as error:  # raised again in the thread that asked for the lines
                read.put(error)

        threading.Thread(target=reads_ahead, daemon=True).start()
        last: str | None | BaseException = ""
        while isinstance(last, str):
            window: list[str] = []
            until: float | None = None
            with contextlib.suppress(queue.Empty):
                while len(window) < size and isinstance(
                    last := read.get(timeout=until and max(until - time.monotonic(), 0)), str
                ):
                    window.append(last)
                    until = until or time.monotonic() + PATIENCE
            if window:
                yield window
        if last is not None:
            raise last


def arriving(lines: Iterator[str], path: str) -> Iterable[str]:
    """Return lines as :class:`Arriving` if ``path`` is standard input that is not a file; else unchanged."""
    return Arriving(lines) if path == "-" and not stat.S_ISREG(os.fstat(0).st_mode) else lines


def bounded_windows(items: Iterable[Item], size: int, weight: Callable[[Item], int], most: int) -> Iterator[list[Item]]:
    """Yield up to ``size`` items at a time, or fewer if their weights reach ``most``, to bound the memory of large items."""
    window: list[Item] = []
    total = 0
    for item in items:
        window.append(item)
        total += weight(item)
        if len(window) == size or total >= most:
            yield window
            window, total = [], 0
    if window:
        yield window


def windows(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield ``size`` items at a time; of :class:`Arriving` lines, those that have arrived, without waiting for more."""
    if isinstance(items, Arriving):
        yield from items.windows(size)
        return
    remaining = iter(items)
    while window := list(itertools.islice(remaining, size)):
        yield window
