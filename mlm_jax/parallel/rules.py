"""One table from logical axis names to mesh axes: how parameters, optimizer state and activations are sharded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import EllipsisType
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mlm_jax.common.errors import UserError, nearest

# Logical axis → mesh axes, or None to keep the axis whole. Each array uses a mesh axis once, for the first logical axis that
# names it: language-indexed weights split "groups" over fsdp, and so keep "embed" whole.
RULES: dict[str, tuple[str, ...] | None] = {
    # parameters
    "layers": None,  # a loop runs over them
    "groups": ("fsdp",),  # the languages, families or tasks that a stacked weight is indexed by
    "vocabulary": ("tensor",),
    "embed": ("fsdp",),
    "mlp": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "head_dim": None,
    "positions": None,
    "hashes": None,  # tables of hashed n-grams
    "norm": None,  # scales and biases: too small to be worth splitting
    "labels": None,
    "adapter": None,
    "rank": None,
    # activations
    "rows": ("data", "fsdp"),
    "length": ("sequence",),
    "activation_embed": None,
    "activation_mlp": ("tensor",),
    "activation_heads": ("tensor",),
    "activation_vocabulary": ("tensor",),
    "lookup_rows": ("data",),  # token ids, while each device of an fsdp group looks up its part of "embed"
    "lookup_embed": ("fsdp",),
}


def partition_spec(axes: Sequence[str | None], mesh: Any, shape: Sequence[int] | None = None) -> P:
    """Return how an array with these logical axes is split over the mesh.

    Args:
      axes: a logical name (or None) for each dimension.
      mesh: a ``Mesh`` or ``AbstractMesh``.
      shape: the array's shape; a dimension that the mesh axes do not divide is kept whole, as GSPMD requires.

    Raises:
      UserError: a logical axis has no rule.
    """
    used: set[str] = set()
    spec: list[Any] = []
    for dimension, axis in enumerate(axes):
        if axis is not None and axis not in RULES:
            raise UserError(f"no sharding rule for the logical axis {axis!r}{nearest(axis, RULES)}")
        candidates = (RULES[axis] if axis is not None else None) or ()
        wanted = tuple(name for name in candidates if name not in used and mesh.shape[name] > 1)
        if wanted and shape is not None and shape[dimension] % math.prod(mesh.shape[name] for name in wanted):
            wanted = ()
        used.update(wanted)
        spec.append(wanted[0] if len(wanted) == 1 else wanted or None)
    while spec and spec[-1] is None:
        spec.pop()
    return P(*spec)


def parameter_shardings(logical_axes: Any, shapes: Any, mesh: Mesh | AbstractMesh) -> Any:
    """Return a tree of ``NamedSharding`` for a tree of logical axes (tuples) and a tree of shapes or arrays like it."""

    def sharding(axes: Sequence[str | None], leaf: Any) -> NamedSharding:
        if len(axes) != len(leaf.shape):
            raise UserError(f"logical axes {tuple(axes)} do not match an array of shape {tuple(leaf.shape)}")
        return NamedSharding(mesh, partition_spec(axes, mesh, leaf.shape))

    return jax.tree.map(sharding, logical_axes, shapes, is_leaf=lambda node: isinstance(node, tuple))


def splitting_mesh() -> AbstractMesh | None:
    """Return the mesh that is set (``jax.set_mesh``); None if there is none, or if it has one device."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or math.prod(mesh.shape.values()) == 1 else mesh


def constrain(x: jax.Array, *axes: str | EllipsisType | None) -> jax.Array:
    """Pin an activation's sharding by its logical axes; the identity if no mesh is set (``jax.set_mesh``).

    The compiler chooses the sharding of the axes from ``...`` on.
    """
    mesh = splitting_mesh()
    if mesh is None:
        return x
    named = [axis for axis in axes if not isinstance(axis, EllipsisType)]
    spec = partition_spec(named, mesh, x.shape[: len(named)])
    if ... in axes:
        spec = P(*spec, *(None,) * (len(named) - len(spec)), *(P.UNCONSTRAINED,) * (x.ndim - len(named)))
    return jax.lax.with_sharding_constraint(x, spec)


def shards_of(axis: str, size: int) -> int:
    """Return the number of parts into which the current mesh splits a dimension of this size; 1 if no mesh is set."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return 1
    return split_by(mesh, (*partition_spec((axis,), mesh, (size,)), None)[0])


def shards_over(mesh_axis: str) -> int:
    """Return the number of devices along an axis of the current mesh; 1 if no mesh is set."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape.get(mesh_axis, 1)


def split_by(mesh: Any, entry: Any) -> int:
    """Return the number of parts into which an entry of a ``PartitionSpec`` (None, a mesh axis, or several) splits a dimension."""
    return math.prod(mesh.shape[axis] for axis in ((entry,) if isinstance(entry, str) else entry or ()))
