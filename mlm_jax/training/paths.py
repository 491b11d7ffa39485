"""Paths of parameters, such as ``encoder/0/layers/attention/query/kernel``: leaves of a tree by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

KEYS = ("key", "idx", "name")  # attributes of JAX's path entries: of dictionaries, sequences, named tuples


def by_path(tree: Any, *, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """Return {path: leaf} of a tree, in its order."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)}


def map_by_path(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Return a tree of ``function(path, leaf, …)``; further arguments are the leaves of other trees of the same structure."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: function(_name(path), *leaves), tree, *others)


def _name(path: Any) -> str:
    return "/".join(str(next(getattr(entry, key) for key in KEYS if hasattr(entry, key))) for entry in path)
