"""Batches on the mesh: rows split over data and fsdp, length over sequence."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from mlm_jax.parallel.rules import partition_spec


def batch_sharding(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Return how an array ``[rows, …]`` or ``[rows, length, …]`` of a batch lies on the mesh."""
    return NamedSharding(mesh, partition_spec(("rows", "length")[: len(shape)], mesh, shape))


def to_devices(batch: Any, mesh: Mesh) -> Any:
    """Turn this process's rows into global arrays on the mesh, without waiting for the copy.

    Args:
      batch: a tree of arrays ``[rows of this process, …]``.
      mesh: devices of all processes.
    """
    processes = jax.process_count()

    def place(leaf: np.ndarray) -> jax.Array:
        leaf = np.asarray(leaf)
        shape = (leaf.shape[0] * processes, *leaf.shape[1:])
        return jax.make_array_from_process_local_data(batch_sharding(shape, mesh), leaf, shape)

    return jax.tree.map(place, batch)
