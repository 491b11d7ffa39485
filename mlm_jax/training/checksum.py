"""Checksums of arrays: what a checkpoint's files do not notice about themselves, a flipped bit, is noticed here."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mlm_jax.training.regex_table import path_name


def checksums(tree: Any) -> dict[str, int]:
    """Return {path: checksum} of every array: Σ_i bits_i · (2i + 1) modulo 2³², i the position in the whole array.

    Integers that wrap around add up to the same number in any order, so on any mesh. A single flipped bit always changes
    it, as the factors are odd.

    Args:
      tree: arrays of at most 32 bits a value.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    mesh = next(
        (leaf.sharding.mesh for _, leaf in leaves if isinstance(getattr(leaf, "sharding", None), NamedSharding)), None
    )
    everywhere = None if mesh is None else NamedSharding(mesh, P())
    numbers = jax.jit(_checksums, out_shardings=everywhere)([leaf for _, leaf in leaves])
    return {path_name(path): int(number) for (path, _), number in zip(leaves, jax.device_get(numbers))}


def _checksums(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([_checksum(leaf) for leaf in leaves])  # [leaves]


def _checksum(leaf: jax.Array) -> jax.Array:
    bits = leaf.astype(jnp.uint8) if leaf.dtype == jnp.bool_ else leaf.view(f"uint{8 * leaf.dtype.itemsize}")
    position = jnp.zeros(leaf.shape, jnp.uint32)
    for axis in range(leaf.ndim):
        stride = jnp.uint32(math.prod(leaf.shape[axis + 1 :]) % 2**32)
        position += stride * jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    return (bits.astype(jnp.uint32) * (2 * position + 1)).sum(dtype=jnp.uint32)
