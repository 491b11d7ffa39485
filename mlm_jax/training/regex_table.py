"""Regex tables over parameter paths: the first match wins, and every parameter must match."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax

from mlm_jax.errors import UserError, nearest


def path_name(path: Any) -> str:
    """Return "encoder/0/layers/attention/query/kernel" for a key path of a nested dict."""
    return "/".join(str(getattr(entry, "key", getattr(entry, "idx", entry))) for entry in path)


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
      UserError: a parameter matches no pattern, a pattern is not a regex, or one could match no parameter at all.
    """
    compiled = []
    for pattern, value in table:
        try:
            compiled.append((re.compile(pattern), value))
        except re.error as error:
            raise UserError(f"{key}: {pattern!r} is not a regular expression: {error}") from error
    names = parameter_names(params)
    for pattern, _ in compiled:
        if not any(pattern.fullmatch(name) for name in names):
            raise UserError(f"{key}: no parameter matches {pattern.pattern!r}{nearest(pattern.pattern, names)}")

    def value_of(path: Any, _: Any) -> Any:
        name = path_name(path)
        for pattern, value in compiled:
            if pattern.fullmatch(name):
                return value
        raise UserError(f"{key}: nothing matches the parameter {name!r}", remedy="end the table with ('.*', value)")

    return jax.tree_util.tree_map_with_path(value_of, params)
