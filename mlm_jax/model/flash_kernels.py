"""The kernels of flash attention: what one program computes, and which part of each array it gets.

A program of the forward kernel, and of the one for the gradient of queries, has one block of queries of a row and a head. A program
of the kernel for the gradients of keys and values has one block of keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from mlm_jax.model.masks import NEVER, within

# Initial value of the running maximum: exp2(NEVER − LOWEST) is 0, so the output of a query without any key is 0.
LOWEST = NEVER / 2


class Tile(NamedTuple):
    """The block sizes of one kernel.

    Attributes:
      queries: number of queries in a block; a power of two.
      keys: number of keys in a block; a power of two.
      warps: the number of warps of a block's program.
      stages: number of blocks that are loaded ahead.
    """

    queries: int
    keys: int
    warps: int = 4
    stages: int = 2


class Masking(NamedTuple):
    """The keys that a query attends to within its segment; static.

    Attributes:
      window: only ``window // 2`` keys on either side; 0 means all keys.
      causal: whether later keys are masked.
    """

    window: int
    causal: bool


def forward_kernel(
    query_ref: Any,  # [queries, head_dim]
    key_ref: Any,  # [kv_length, head_dim]
    value_ref: Any,  # [kv_length, head_dim]
    segment_ref: Any,  # [queries]
    kv_segment_ref: Any,  # [kv_length]
    begin_ref: Any,  # [blocks of queries]
    end_ref: Any,  # [blocks of queries]
    first_ref: Any,  # [1]
    mixed_ref: Any,  # [queries, head_dim]
    log_z_ref: Any,  # [queries], log₂ of the sum of exponentials
    *,
    masking: Masking,
    scale: float,
    tile: Tile,
) -> None:
    """Write the attention of a block of queries, and log₂ of its sums of exponentials."""
    number = pl.program_id(0)
    query, segments = query_ref[...], segment_ref[...]
    start = first_ref[0] + number * tile.queries

    def visit(block: Any, carry: Any) -> Any:
        mixed, highest, total = carry
        part = pl.ds(block * tile.keys, tile.keys)
        scores = _scores(query, key_ref[part, :], scale)  # [queries, keys], to the base 2
        mask = _mask(segments, kv_segment_ref[part], start, block * tile.keys, masking)
        scores = jnp.where(mask, scores, NEVER)
        higher = jnp.maximum(highest, scores.max(axis=1))
        weights, shrink = jnp.exp2(scores - higher[:, None]), jnp.exp2(highest - higher)
        value = value_ref[part, :]
        mixed = mixed * shrink[:, None] + triton.dot(weights.astype(value.dtype), value)
        return mixed, higher, total * shrink + weights.sum(axis=1)

    nothing = (
        jnp.zeros(query.shape, jnp.float32),
        jnp.full((tile.queries,), LOWEST, jnp.float32),
        jnp.zeros((tile.queries,), jnp.float32),
    )
    mixed, highest, total = jax.lax.fori_loop(begin_ref[number], end_ref[number], visit, nothing)
    total = jnp.where(total == 0, 1.0, total)
    mixed_ref[...] = (mixed / total[:, None]).astype(mixed_ref.dtype)
    log_z_ref[...] = highest + jnp.log2(total)


def query_kernel(
    query_ref: Any,  # [queries, head_dim]
    key_ref: Any,  # [kv_length, head_dim]
    value_ref: Any,  # [kv_length, head_dim]
    gradient_ref: Any,  # [queries, head_dim], of the output
    mixed_ref: Any,  # [queries, head_dim], the output
    log_z_ref: Any,  # [queries]
    segment_ref: Any,  # [queries]
    kv_segment_ref: Any,  # [kv_length]
    begin_ref: Any,  # [blocks of queries]
    end_ref: Any,  # [blocks of queries]
    first_ref: Any,  # [1]
    *others: Any,  # cosine and sine [queries, head_dim / 2] if there are angles; the gradient and the mean that are written
    masking: Masking,
    scale: float,
    tile: Tile,
) -> None:
    """Write the gradient of a block of queries, and the mean slope of the scores of each query."""
    number = pl.program_id(0)
    *angles, query_gradient_ref, mean_ref = others
    query, gradient, segments, log_z = query_ref[...], gradient_ref[...], segment_ref[...], log_z_ref[...]
    # Σ_k P dP of each query equals the product of its output and the gradient of its output (Dao et al. 2022, appendix B.2).
    mean = (gradient.astype(jnp.float32) * mixed_ref[...].astype(jnp.float32)).sum(axis=1)
    mean_ref[...] = mean
    start = first_ref[0] + number * tile.queries

    def visit(block: Any, total: Any) -> Any:
        part = pl.ds(block * tile.keys, tile.keys)
        key = key_ref[part, :]
        mask = _mask(segments, kv_segment_ref[part], start, block * tile.keys, masking)
        scores = jnp.where(mask, _scores(query, key, scale), NEVER)
        weights = jnp.exp2(scores - log_z[:, None])
        slope = weights * (triton.dot(gradient, value_ref[part, :].T) - mean[:, None])
        return total + triton.dot(slope.astype(key.dtype), key)

    total = jax.lax.fori_loop(begin_ref[number], end_ref[number], visit, jnp.zeros(query.shape, jnp.float32))
    _write(query_gradient_ref, (), total * scale, angles)


def key_kernel(
    query_ref: Any,  # [length, head_dim]
    key_ref: Any,  # [keys, head_dim]
    value_ref: Any,  # [keys, head_dim]
    gradient_ref: Any,  # [length, head_dim], of the output
    log_z_ref: Any,  # [length]
    mean_ref: Any,  # [length]
    segment_ref: Any,  # [length]
    kv_segment_ref: Any,  # [keys]
    begin_ref: Any,  # [blocks of keys]
    end_ref: Any,  # [blocks of keys]
    first_ref: Any,  # [1]
    *others: Any,  # cosine and sine [keys, head_dim / 2] if turned; both gradients, or the joint one as input and as output
    masking: Masking,
    scale: float,
    tile: Tile,
    turned: bool,
) -> None:
    """Write the gradients of a block of keys and values."""
    number = pl.program_id(0)
    key, value, kv_segments = key_ref[...], value_ref[...], kv_segment_ref[...]
    kv_start = number * tile.keys

    def visit(block: Any, totals: Any) -> Any:  # all arrays here are transposed, [keys, queries]
        of_key, of_value = totals
        part = pl.ds(block * tile.queries, tile.queries)
        query, gradient = query_ref[part, :], gradient_ref[part, :]
        start = first_ref[0] + block * tile.queries
        mask = _mask(segment_ref[part], kv_segments, start, kv_start, masking, by_keys=True)
        scores = jnp.where(mask, _scores(key, query, scale), NEVER)
        weights = jnp.exp2(scores - log_z_ref[part][None, :])
        of_value += triton.dot(weights.astype(gradient.dtype), gradient)
        slope = weights * (triton.dot(value, gradient.T) - mean_ref[part][None, :])
        return of_key + triton.dot(slope.astype(query.dtype), query), of_value

    nothing = jnp.zeros(key.shape, jnp.float32)
    of_key, of_value = jax.lax.fori_loop(begin_ref[number], end_ref[number], visit, (nothing, nothing))
    angles, written = (others[:2], others[2:]) if turned else ((), others)
    joint = len(written[-1].shape) == 3  # [keys, 3, head_dim]
    _write(written[-1 if joint else 0], (1,) if joint else (), of_key * scale, angles)
    _write(written[-1], (2,) if joint else (), of_value, ())


def _write(ref: Any, part: tuple[int, ...], gradient: jax.Array, angles: Sequence[Any]) -> None:
    """Write a float32 gradient ``[size, head_dim]`` into an array or a part of it, turned back if there are angles."""
    if not angles:
        ref[:, *part, :] = gradient.astype(ref.dtype)
        return
    cos, sin = (each[...] for each in angles)
    left, right = jnp.split(gradient, 2, axis=1)
    half = left.shape[1]
    ref[:, *part, :half] = (left * cos + right * sin).astype(ref.dtype)
    ref[:, *part, half:] = (right * cos - left * sin).astype(ref.dtype)


def _scores(left: jax.Array, right: jax.Array, scale: float) -> jax.Array:
    """Return scores of all pairs to the base 2, because exp2 is one instruction."""
    return triton.dot(left, right.T) * (scale * math.log2(math.e))


def _mask(
    segments: jax.Array, kv_segments: jax.Array, start: Any, kv_start: Any, masking: Masking, *, by_keys: bool = False
) -> jax.Array:
    """Return which pairs of a block are not masked, ``[queries, keys]``, or ``[keys, queries]`` if ``by_keys``."""

    def spread(of_query: jax.Array, of_key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return (of_query[None, :], of_key[:, None]) if by_keys else (of_query[:, None], of_key[None, :])

    segment, kv_segment = spread(segments, kv_segments)
    mask = (segment == kv_segment) & (kv_segment > 0)
    if masking.window or masking.causal:
        own, other = spread(start + jnp.arange(len(segments)), kv_start + jnp.arange(len(kv_segments)))
        mask &= within(other - own, window=masking.window, causal=masking.causal)
    return mask


FIRST = pl.BlockSpec((1,), lambda i, head, row: (0,))  # the position of the first query, for every program


def block_of(size: int, head_dim: int, group: int = 1, part: int | None = None) -> pl.BlockSpec:
    """Return the block specification of a program's own part of ``[rows, length, heads, head_dim]``.

    With ``part``, the array is ``[rows, length, 3, heads, head_dim]``, of which this part is used.
    """
    if part is not None:
        return pl.BlockSpec((None, size, None, None, head_dim), lambda i, head, row: (row, i, part, head, 0))
    return pl.BlockSpec((None, size, None, head_dim), lambda i, head, row: (row, i, head // group, 0))


def all_of(length: int, head_dim: int, group: int, part: int | None = None) -> pl.BlockSpec:
    """Return the block specification of one row and head of such an array, loaded a block at a time."""
    if part is not None:
        return pl.BlockSpec((None, length, None, None, head_dim), lambda i, head, row: (row, 0, part, head, 0))
    return pl.BlockSpec((None, length, None, head_dim), lambda i, head, row: (row, 0, head // group, 0))


def angles_of(size: int, angles: jax.Array) -> pl.BlockSpec:
    """Return the block specification of a program's own part of ``[rows, length, head_dim / 2]``."""
    return pl.BlockSpec((None, size, angles.shape[-1]), lambda i, head, row: (row, i, 0))


def part_of_row(size: int) -> pl.BlockSpec:
    """Return the block specification of a program's own part of ``[rows, length]``."""
    return pl.BlockSpec((None, size), lambda i, head, row: (row, i))


def row_of(length: int) -> pl.BlockSpec:
    """Return the block specification of one row of ``[rows, length]``."""
    return pl.BlockSpec((None, length), lambda i, head, row: (row, 0))


def part_of_head(size: int) -> pl.BlockSpec:
    """Return the block specification of a program's own part of ``[rows, heads, length]``."""
    return pl.BlockSpec((None, None, size), lambda i, head, row: (row, head, i))


def parameters(tile: Tile) -> Any:
    """Return the compiler parameters of a kernel."""
    return triton.CompilerParams(num_warps=tile.warps, num_stages=tile.stages)
