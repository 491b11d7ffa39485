"""Checksums of arrays, which detect flipped bits in a checkpoint's files."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mlm_jax.training.paths import by_path

BLOCK = 2**22  # values


def checksums(tree: Any) -> dict[str, int]:
    """Return {path: checksum} of every array: Σ_i bits_i · (2i + 1) modulo 2³², i the position in the whole array.

    Integers that wrap around add up to the same number in any order, so on any mesh. A single flipped bit always changes
    it, as the factors are odd.

    Args:
      tree: arrays of at most 32 bits a value.
    """
    leaves = by_path(tree)
    shardings = (getattr(leaf, "sharding", None) for leaf in leaves.values())
    mesh = next((sharding.mesh for sharding in shardings if isinstance(sharding, NamedSharding)), None)
    everywhere = None if mesh is None else NamedSharding(mesh, P())
    add_up = jax.jit(_checksums, static_argnames="in_blocks", out_shardings=everywhere)
    numbers = add_up(list(leaves.values()), in_blocks=mesh is None)
    return dict(zip(leaves, jax.device_get(numbers).tolist()))


def _checksums(leaves: list[jax.Array], in_blocks: bool) -> jax.Array:
    return jnp.stack([_in_blocks(leaf) if in_blocks else _checksum(leaf) for leaf in leaves])  # [leaves]


def _in_blocks(leaf: jax.Array) -> jax.Array:
    """Return an array's checksum block by block along its first axis.

    XLA's CPU compiler makes a complete copy of an array before it sums the elements, which would double the memory of a large
    model. An array that is sharded over a mesh is not cut into blocks, because its first axis may be sharded.
    """
    if leaf.ndim < 2 or leaf.size <= BLOCK:
        return _checksum(leaf)
    row = leaf.size // leaf.shape[0]
    rows = max(n for n in range(1, max(BLOCK // row, 1) + 1) if leaf.shape[0] % n == 0)
    blocks = leaf.reshape(-1, rows, *leaf.shape[1:])  # [blocks, rows, …]

    def add(total: jax.Array, numbered: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        number, block = numbered
        return total + _checksum(block, first=number * jnp.uint32(rows * row % 2**32)), None

    return jax.lax.scan(add, jnp.uint32(0), (jnp.arange(len(blocks), dtype=jnp.uint32), blocks))[0]


def _checksum(leaf: jax.Array, first: jax.Array | int = 0) -> jax.Array:
    """Return the checksum of an array whose first value is at position ``first``."""
    bits = leaf.astype(jnp.uint8) if leaf.dtype == jnp.bool_ else leaf.view(f"uint{8 * leaf.dtype.itemsize}")
    position = jnp.full(leaf.shape, first, jnp.uint32)
    for axis in range(leaf.ndim):
        stride = jnp.uint32(math.prod(leaf.shape[axis + 1 :]) % 2**32)
        position += stride * jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    return (bits.astype(jnp.uint32) * (2 * position + 1)).sum(dtype=jnp.uint32)
