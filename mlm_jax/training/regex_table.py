"""Regex tables over parameter paths: the first match wins, and every parameter must match."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax

from mlm_jax.errors import UserError, nearest

CATCH_ALL = ".*"
KEYS = ("key", "idx", "name")  # where JAX's entries of a path keep it: of dictionaries, sequences, named tuples


def path_name(path: Any) -> str:
    """Return "encoder/0/layers/attention/query/kernel" for a key path of a tree."""
    return "/".join(str(next(getattr(entry, name) for name in KEYS if hasattr(entry, name))) for entry in path)


def parameter_names(params: Any) -> list[str]:
    """Return the path of every parameter, in tree order."""
    return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]


def apply_table(table: Sequence[tuple[str, Any]], params: Any, key: str) -> Any:
    """Return a tree like ``params`` with the value of the first pattern that matches each whole path.

    Args:
      table: (regex, value) pairs.
      params: a nested dict.
      key: the config key of the table, for messages.

    Raises:
      UserError: a parameter matches no pattern; a pattern is not a regex, matches no parameter, or only ones that
        earlier patterns have taken (a last ``.*`` may have nothing left).
    """
    names = parameter_names(params)
    patterns = [compiled(pattern, key) for pattern, _ in table]
    chosen = {}
    for name in names:
        first = next((index for index, pattern in enumerate(patterns) if pattern.fullmatch(name)), None)
        if first is None:
            raise UserError(
                f"{key}: nothing matches the parameter {name!r}", remedy=f"end the table with ('{CATCH_ALL}', value)"
            )
        chosen[name] = first
    for index, pattern in enumerate(patterns):
        check_matches(pattern, names, key)
        if index not in chosen.values() and pattern.pattern != CATCH_ALL:
            raise UserError(f"{key}: earlier patterns take every parameter that {pattern.pattern!r} matches",
                            remedy="put it before them: the first match wins")  # fmt: skip
    return jax.tree_util.tree_map_with_path(lambda path, _: table[chosen[path_name(path)]][1], params)


def compiled(pattern: str, key: str) -> re.Pattern[str]:
    """Compile a pattern of the config.

    Raises:
      UserError: it is not a regex.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"{key}: {pattern!r} is not a regular expression: {error}") from error


def check_matches(pattern: re.Pattern[str], names: Sequence[str], key: str) -> None:
    """Check that a pattern matches a parameter.

    Raises:
      UserError: it does not; the message names the part of a path that looks most like it.
    """
    if not any(pattern.fullmatch(name) for name in names):
        parts = {"/".join(name.split("/")[:depth]) for name in names for depth in range(1, name.count("/") + 2)}
        plain = re.sub(r"[\\^$.*+?()|\[\]]", "", pattern.pattern).strip("/")
        raise UserError(f"{key}: no parameter matches {pattern.pattern!r}{nearest(plain, sorted(parts))}")
