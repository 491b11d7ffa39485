"""Batches on the mesh: rows split over data and fsdp, length over sequence."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from mlm_jax.common.errors import UserError
from mlm_jax.parallel.rules import partition_spec

log = logging.getLogger(__name__)


def batch_sharding(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array ``[rows, …]`` or ``[rows, length, …]`` of a batch on the mesh."""
    return NamedSharding(mesh, partition_spec(("rows", "length")[: len(shape)], mesh, shape))


@functools.lru_cache
def row_group(mesh: Mesh) -> tuple[int, int]:
    """Return (part, number of parts) of a batch's rows that this process reads: the rows of its own devices.

    Processes whose devices share rows, for example because ``tensor`` is larger than a host, read the same rows.

    Raises:
      UserError: the mesh does not give every process the same number of rows.
    """
    data, fsdp = mesh.devices.shape[:2]
    part_of = np.broadcast_to(np.arange(data * fsdp).reshape(data, fsdp, 1, 1), mesh.devices.shape)
    parts: dict[int, set[int]] = {}
    for device, part in zip(mesh.devices.flat, part_of.flat):
        parts.setdefault(device.process_index, set()).add(int(part))
    groups = sorted({tuple(sorted(mine)) for mine in parts.values()})
    if sum(map(len, groups)) != data * fsdp or len({len(group) for group in groups}) != 1:
        raise UserError(
            f"a mesh with data={data} and fsdp={fsdp} gives the {len(parts)} processes unequal shares of the rows",
            remedy="make mesh.data · mesh.fsdp a multiple of the processes, or one of its divisors",
        )
    return groups.index(tuple(sorted(parts[jax.process_index()]))), len(groups)


def check_rows(tasks: Mapping[str, Mapping[str, Any]], mesh: Mesh, microbatches: int, groups: int) -> None:
    """Warn if a task's rows cannot be divided evenly: every device then computes all rows, or the whole microbatch.

    Args:
      tasks: ``config.tasks``.
      mesh: the mesh of the run.
      microbatches: ``config.training.microbatches``.
      groups: number of parts of a batch that different processes read, from :func:`row_group`.

    Raises:
      UserError: several processes read the rows, so that uneven shares cannot be put together.
    """
    shares = mesh.shape["data"] * mesh.shape["fsdp"]
    for task, entry in tasks.items():
        if entry["rows"] % shares and groups > 1:
            raise UserError(
                f"the {entry['rows']} rows of task {task!r} cannot be shared by mesh.data · mesh.fsdp = {shares}",
                remedy="make them a multiple of it",
            )
        multiple = shares * microbatches * entry.get("same_language_rows", 1)
        if shares > 1 and entry["rows"] % multiple:
            log.warning(
                "task %s: %d rows in %d microbatches cannot be shared by mesh.data · mesh.fsdp = %d: every device computes all; "
                "make the rows a multiple of %d",
                task,
                entry["rows"],
                microbatches,
                shares,
                multiple,
            )


def to_devices(batch: Any, mesh: Mesh) -> Any:
    """Turn this process's rows into global arrays on the mesh, without waiting until they are copied.

    Args:
      batch: a tree of arrays ``[rows of this process, …]``.
      mesh: devices of all processes.
    """
    _, groups = row_group(mesh)

    def send(leaf: np.ndarray) -> jax.Array:
        leaf = np.asarray(leaf)
        shape = (leaf.shape[0] * groups, *leaf.shape[1:])
        return jax.make_array_from_process_local_data(batch_sharding(shape, mesh), leaf, shape)

    return jax.tree.map(send, batch)


def shapes_of(batch: Any) -> Any:
    """Return the shapes, types and shardings of arrays on a mesh, without the arrays."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), batch)
