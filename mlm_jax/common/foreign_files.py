"""Untrusted files: they are read only if they are regular, small enough, and of the expected format."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlm_jax.common.errors import UserError, one_line

# The largest published files are far smaller: config.json 0.1 MB, a header of tensors 2 MB, Gemma's tokenizer.json 34 MB.
MOST_JSON, MOST_TOKENIZER = 16_000_000, 128_000_000  # bytes


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


def parse_json(text: str | bytes, file: Path, **options: Any) -> Any:
    """Return the value of a JSON text; ``options`` are those of ``json.loads``.

    Raises:
      UserError: the text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text, **options)
    except RecursionError as error:
        raise UserError("the JSON is nested too deeply to be read", file=file, remedy="download it again") from error
    except ValueError as error:  # includes UnicodeDecodeError
        raise UserError(f"this is not JSON: {one_line(error)}", file=file, remedy="download it again") from error


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
