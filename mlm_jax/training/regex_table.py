"""Regex tables over parameter paths: the first match wins, and every parameter must match."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mlm_jax.common.errors import UserError, nearest
from mlm_jax.training.paths import by_path, map_by_path

CATCH_ALL = ".*"


def apply_table(table: Sequence[tuple[str, Any]], params: Any, key: str) -> Any:
    """Return a tree like ``params`` with the value of the first pattern that matches each whole path.

    Args:
      table: (regex, value) pairs.
      params: a nested dict.
      key: the config key of the table, for messages.

    Raises:
      UserError: a parameter matches no pattern, or a pattern is not a regex or matches no parameter that earlier patterns
        have left (except a last ``.*``).
    """
    names = list(by_path(params))
    patterns = [compiled(pattern, key) for pattern, _ in table]
    chosen = {}
    for name in names:
        first = next((index for index, pattern in enumerate(patterns) if pattern.fullmatch(name)), None)
        if first is None:
            raise UserError(
                f"{key}: no pattern matches the parameter {name!r}", remedy=f"end the table with ('{CATCH_ALL}', value)"
            )
        chosen[name] = first
    for index, pattern in enumerate(patterns):
        check_matches(pattern, names, key)
        if index not in chosen.values() and pattern.pattern != CATCH_ALL:
            raise UserError(
                f"{key}: earlier patterns take every parameter that {pattern.pattern!r} matches",
                remedy="put it before them: the first match wins",
            )
    return map_by_path(lambda name, _: table[chosen[name]][1], params)


def compiled(pattern: str, key: str) -> re.Pattern[str]:
    """Compile a pattern of the config.

    Raises:
      UserError: the pattern is not a regex.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"{key}: {pattern!r} is not a regular expression: {error}") from error


def check_matches(pattern: re.Pattern[str], names: Sequence[str], key: str) -> None:
    """Check that a pattern matches a parameter.

    Raises:
      UserError: the pattern matches no parameter; the message names a path of which it matches a part, or the most similar part
        of a path.
    """
    if not any(pattern.fullmatch(name) for name in names):
        parts = {"/".join(name.split("/")[:depth]) for name in names for depth in range(1, name.count("/") + 2)}
        plain = re.sub(r"[\\^$.*+?()|\[\]]", "", pattern.pattern).strip("/")
        problem = f"{key}: no parameter matches {pattern.pattern!r}"
        if part := next(filter(pattern.search, names), ""):
            remedy = f"a pattern matches a whole path, such as {part!r}: write {f'.*{pattern.pattern}.*'!r}"
            raise UserError(problem, remedy=remedy)
        raise UserError(f"{problem}{nearest(plain, sorted(parts))}")
