"""Untrusted files: they are read only if they are regular, small enough, and of the expected format.

Values of JSON take more memory than their text, up to 25 times as much (``[[],[],…]``). That is limited as well.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlm_jax.common.errors import UserError, one_line

# The largest published files are far smaller: config.json 0.1 MB, a header of tensors 2 MB, Gemma's tokenizer.json 34 MB.
MOST_JSON, MOST_TOKENIZER = 16_000_000, 128_000_000  # bytes
DEEPEST = 10  # nested folders of an array
MOST_PARSED = 800_000_000  # bytes of memory that the values of one JSON text may take
# An escape in JSON for a half of a character. Most are followed by the other half.
HALF = re.compile(r"\\u[dD][89a-fA-F]")
HALF_IN_BYTES = re.compile(HALF.pattern.encode())
OF_A_VALUE = 100  # bytes of memory that a value takes at most in addition to its text


def check_file(file: Path, most: float = math.inf) -> None:
    """Check that a file is regular, or a link to a regular file (as in the Hub's cache), and has at most ``most`` bytes.

    Raises:
      UserError: the file is not regular, or is larger.
    """
    if not file.is_file():
        raise UserError("this is not a regular file", file=file)
    size = file.stat().st_size
    if size > most:
        raise UserError(
            f"the file has {size:,} bytes, but at most {most:,} are read",
            file=file,
            remedy="check the origin of the file",
        )


def check_folder(folder: Path, depth: int = DEEPEST) -> None:
    """Check that all files in a folder and its subfolders are regular: reading a pipe or a device would never end.

    Raises:
      UserError: a file is not regular, or there are more than ``depth`` levels of folders.
    """
    if depth == 0:
        raise UserError("folders are nested too deeply", file=folder)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                check_folder(Path(entry.path), depth - 1)
            elif not entry.is_file():
                raise UserError("this is not a regular file", file=entry.path)


def check_memory(text: str, file: Path) -> None:
    """Check that the values of a JSON text take at most ``MOST_PARSED`` bytes of memory.

    Raises:
      UserError: they may take more.
    """
    size = 2 * sys.getsizeof(text) + OF_A_VALUE * sum(map(text.count, ",:[{"))
    if size > MOST_PARSED:
        problem = f"its values may take {size:,} bytes of memory, and at most {MOST_PARSED:,} are allowed"
        raise UserError(problem, file=file, remedy="split the file, or check where it comes from")


def check_characters(text: str | bytes, value: Any) -> None:
    """Check that the texts in a parsed JSON value can be written as UTF-8: a ``HALF`` may lack its other half.

    Raises:
      ValueError: one of them cannot.
    """
    escape = HALF.search(text) if isinstance(text, str) else HALF_IN_BYTES.search(text)
    if escape:
        json.dumps(value, ensure_ascii=False).encode()


def parse_json(text: str | bytes, file: Path, **options: Any) -> Any:
    """Return the value of a JSON text; ``options`` are passed to ``json.loads``.

    Raises:
      UserError: the text is not JSON in UTF-8, is nested too deeply, has half a character, or its values may take more than
        MOST_PARSED bytes.
    """
    again = "download it again"
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        check_memory(text, file)
        value = json.loads(text, **options)
        check_characters(text, value)
        return value
    except RecursionError as error:
        raise UserError("the JSON is nested too deeply to be read", file=file, remedy=again) from error
    except ValueError as error:  # includes UnicodeDecodeError
        raise UserError(f"this is not JSON: {one_line(error)}", file=file, remedy=again) from error


def read_json(
    file: Path, *, object_hook: Callable[[dict[str, Any]], Any] | None = None, most: float = MOST_JSON
) -> Any:
    """Return the value of a JSON file of at most ``most`` bytes.

    Raises:
      UserError: the file is not regular, too large, not JSON, or nested too deeply.
    """
    check_file(file, most)
    try:
        return parse_json(file.read_bytes(), file, object_hook=object_hook)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", file=file) from error


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dictionary; for ``json.loads(object_pairs_hook=…)``.

    Raises:
      ValueError: a key occurs twice, so that two readers could understand the object differently.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return found
