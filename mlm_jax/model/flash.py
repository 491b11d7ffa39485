"""Flash attention for GPUs that skips other documents of a packed row, and keys beyond a window.

Scores exist for one block of queries and keys at a time, in registers (Dao et al. 2022; Dao 2023). The mask is computed there
from segments and positions. Blocks in which every pair is masked are not visited. Written in Pallas, compiled by
Triton; the backward pass has one kernel for queries and one for keys and values.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from mlm_jax.model.layers import pad_length
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


class Tiles(NamedTuple):
    """The block sizes of the forward kernel and of the two kernels of the backward pass."""

    forward: Tile
    queries: Tile
    keys: Tile


# The fastest block sizes among those tried on an H100 with heads of 64 (docs/training.md). For wider heads, blocks are smaller and
# need as much shared memory.
WHOLE = Tiles(Tile(128, 64, stages=3), Tile(128, 64, stages=3), Tile(64, 64, stages=3))
WINDOWED = Tiles(Tile(64, 64), Tile(64, 64, stages=3), Tile(64, 64, stages=3))
WIDE = Tiles(Tile(64, 64), Tile(64, 32), Tile(32, 64))


def tiles_of(head_dim: int, window: int) -> Tiles:
    """Return the block sizes of the kernels for heads of this width, with a window or without (0)."""
    return WIDE if head_dim > 64 else WINDOWED if window else WHOLE


class Masking(NamedTuple):
    """The keys that a query attends to within its segment; static.

    Attributes:
      window: only ``window // 2`` keys on either side; 0 means all keys.
      causal: whether later keys are masked.
    """

    window: int
    causal: bool


def flash_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    kv_segment_ids: jax.Array,
    *,
    window: int,
    causal: bool,
    scale: float,
    first: jax.Array | int = 0,
    tiles: Tiles | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Return attention ``[rows, length, heads, head_dim]``; 0 for a query whose keys are all masked.

    Args:
      query: ``[rows, length, heads, head_dim]``; ``head_dim`` is a power of two from 16 on.
      key: ``[rows, kv_length, kv_heads, head_dim]``.
      value: ``[rows, kv_length, kv_heads, head_dim]``.
      segment_ids: ``[rows, length]``.
      kv_segment_ids: ``[rows, kv_length]``; keys of segment 0 are always masked.
      window: attend to ``window // 2`` keys on either side only; 0 means all keys.
      causal: attend to no later key.
      scale: factor on the scores.
      first: ``()`` int32, position of the first query among the keys.
      tiles: block sizes of the kernels; :func:`tiles_of` if not given.
      interpret: run without a GPU, slowly, for tests.
    """
    length = query.shape[1]
    tiles = tiles or tiles_of(query.shape[-1], window)
    multiple, kv_multiple = (math.lcm(*(tile[axis] for tile in tiles)) for axis in (0, 1))

    def pad(x: jax.Array, multiple: int) -> jax.Array:
        return pad_length(x, 0, -x.shape[1] % multiple)

    query, segment_ids = pad(query, multiple), pad(segment_ids, multiple)
    key, value, kv_segment_ids = pad(key, kv_multiple), pad(value, kv_multiple), pad(kv_segment_ids, kv_multiple)
    options = (Masking(window, causal), scale, tiles, interpret)
    where = (segment_ids, kv_segment_ids, jnp.asarray(first, jnp.int32).reshape(1))
    return _flash(options, query, key, value, *where)[:, :length]


Options = tuple[Masking, float, Tiles, bool]
_FIRST = pl.BlockSpec((1,), lambda i, head, row: (0,))  # the position of the first query, for every program


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _flash(
    options: Options,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    kv_segment_ids: jax.Array,
    first: jax.Array,
) -> jax.Array:
    return _forward(options, query, key, value, segment_ids, kv_segment_ids, first)[0]


def _forward(
    options: Options,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    kv_segment_ids: jax.Array,
    first: jax.Array,
) -> tuple[jax.Array, Any]:
    masking, scale, tiles, interpret = options
    tile = tiles.forward
    rows, length, heads, head_dim = query.shape
    group = heads // key.shape[2]
    begin, end = visited(segment_ids, kv_segment_ids, first, masking, tile.queries, tile.keys)
    mixed, log_z = pl.pallas_call(
        functools.partial(_forward_kernel, masking=masking, scale=scale, tile=tile),
        grid=(length // tile.queries, heads, rows),
        in_specs=[
            _block(tile.queries, head_dim),
            _all(key.shape[1], head_dim, group),
            _all(key.shape[1], head_dim, group),
            _part(tile.queries),
            _row(key.shape[1]),
            _row(begin.shape[1]),
            _row(end.shape[1]),
            _FIRST,
        ],
        out_specs=[
            _block(tile.queries, head_dim),
            _part_of_head(tile.queries),
        ],
        out_shape=[
            jax.ShapeDtypeStruct(query.shape, query.dtype),
            jax.ShapeDtypeStruct((rows, heads, length), jnp.float32),
        ],
        compiler_params=_parameters(tile),
        interpret=interpret,
        name="flash_forward",
    )(query, key, value, segment_ids, kv_segment_ids, begin, end, first)
    return mixed, (query, key, value, segment_ids, kv_segment_ids, first, mixed, log_z)


def _backward(options: Options, kept: Any, gradient: jax.Array) -> tuple[jax.Array | None, ...]:
    masking, scale, tiles, interpret = options
    query, key, value, segment_ids, kv_segment_ids, first, mixed, log_z = kept
    rows, length, heads, head_dim = query.shape
    kv_length, kv_heads = key.shape[1:3]
    group = heads // kv_heads
    where = (segment_ids, kv_segment_ids, first)
    # Σ_k P dP of each query equals the product of its output and the gradient of its output (Dao et al. 2022, appendix B.2).
    mean = jnp.einsum("rqhd,rqhd->rhq", gradient, mixed, preferred_element_type=jnp.float32)

    tile = tiles.queries
    begin, end = visited(*where, masking, tile.queries, tile.keys)
    of_block = _part_of_head(tile.queries)
    query_gradient = pl.pallas_call(
        functools.partial(_query_kernel, masking=masking, scale=scale, tile=tile),
        grid=(length // tile.queries, heads, rows),
        in_specs=[
            _block(tile.queries, head_dim),
            _all(kv_length, head_dim, group),
            _all(kv_length, head_dim, group),
            _block(tile.queries, head_dim),
            of_block,
            of_block,
            _part(tile.queries),
            _row(kv_length),
            _row(begin.shape[1]),
            _row(end.shape[1]),
            _FIRST,
        ],
        out_specs=_block(tile.queries, head_dim),
        out_shape=jax.ShapeDtypeStruct(query.shape, query.dtype),
        compiler_params=_parameters(tile),
        interpret=interpret,
        name="flash_backward_queries",
    )(query, key, value, gradient, log_z, mean, segment_ids, kv_segment_ids, begin, end, first)

    tile = tiles.keys
    begin, end = visited(*where, masking, tile.queries, tile.keys, by_keys=True)
    of_row = pl.BlockSpec((None, None, length), lambda i, head, row: (row, head, 0))
    of_head = jax.ShapeDtypeStruct((rows, kv_length, heads, head_dim), key.dtype)
    key_gradient, value_gradient = pl.pallas_call(
        functools.partial(_key_kernel, masking=masking, scale=scale, tile=tile),
        grid=(kv_length // tile.keys, heads, rows),
        in_specs=[
            _all(length, head_dim, 1),
            _block(tile.keys, head_dim, group),
            _block(tile.keys, head_dim, group),
            _all(length, head_dim, 1),
            of_row,
            of_row,
            _row(length),
            _part(tile.keys),
            _row(begin.shape[1]),
            _row(end.shape[1]),
            _FIRST,
        ],
        out_specs=[_block(tile.keys, head_dim), _block(tile.keys, head_dim)],
        out_shape=[of_head, of_head],
        compiler_params=_parameters(tile),
        interpret=interpret,
        name="flash_backward_keys",
    )(query, key, value, gradient, log_z, mean, segment_ids, kv_segment_ids, begin, end, first)

    def of_group(x: jax.Array) -> jax.Array:  # heads → kv_heads
        if group == 1:
            return x
        return x.reshape(rows, kv_length, kv_heads, group, head_dim).sum(axis=3, dtype=jnp.float32).astype(x.dtype)

    return query_gradient, of_group(key_gradient), of_group(value_gradient), None, None, None


_flash.defvjp(_forward, _backward)


def visited(
    segment_ids: jax.Array,
    kv_segment_ids: jax.Array,
    first: jax.Array,
    masking: Masking,
    queries: int,
    keys: int,
    *,
    by_keys: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Return the first block of keys that each block of queries visits, and the block after the last one.

    A block is visited if the ranges of its segments and positions overlap. Within a block, each pair is masked separately, so
    the order of the segments does not matter.

    Args:
      segment_ids: ``[rows, length]``.
      kv_segment_ids: ``[rows, kv_length]``.
      first: ``[1]`` int32, position of the first query among the keys.
      masking: window and causality.
      queries: number of queries in a block.
      keys: number of keys in a block.
      by_keys: whether to return, the other way round, the blocks of queries that each block of keys visits.

    Returns:
      both ``[rows, blocks]`` int32.
    """
    largest = jnp.iinfo(jnp.int32).max

    def extent(segments: jax.Array, block: int) -> tuple[jax.Array, jax.Array]:  # both [rows, blocks]
        parts = segments.reshape(len(segments), -1, block)
        return jnp.where(parts > 0, parts, largest).min(axis=-1), parts.max(axis=-1)

    (low, high), (kv_low, kv_high) = extent(segment_ids, queries), extent(kv_segment_ids, keys)
    meet = (low[:, :, None] <= kv_high[:, None, :]) & (
        kv_low[:, None, :] <= high[:, :, None]
    )  # [rows, blocks, kv blocks]
    start = first + jnp.arange(low.shape[1])[:, None] * queries
    kv_start = jnp.arange(kv_low.shape[1])[None, :] * keys
    if masking.window:
        reach = masking.window // 2
        meet &= (kv_start <= start + queries - 1 + reach) & (kv_start + keys - 1 >= start - reach)
    if masking.causal:
        meet &= kv_start <= start + queries - 1
    if by_keys:
        meet = jnp.swapaxes(meet, 1, 2)
    some = meet.any(axis=-1)
    begin = jnp.where(some, jnp.argmax(meet, axis=-1), 0)
    end = jnp.where(some, meet.shape[-1] - jnp.argmax(meet[..., ::-1], axis=-1), 0)
    return begin.astype(jnp.int32), end.astype(jnp.int32)


def _forward_kernel(
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


def _query_kernel(
    query_ref: Any,  # [queries, head_dim]
    key_ref: Any,  # [kv_length, head_dim]
    value_ref: Any,  # [kv_length, head_dim]
    gradient_ref: Any,  # [queries, head_dim], of the output
    log_z_ref: Any,  # [queries]
    mean_ref: Any,  # [queries]
    segment_ref: Any,  # [queries]
    kv_segment_ref: Any,  # [kv_length]
    begin_ref: Any,  # [blocks of queries]
    end_ref: Any,  # [blocks of queries]
    first_ref: Any,  # [1]
    query_gradient_ref: Any,  # [queries, head_dim]
    *,
    masking: Masking,
    scale: float,
    tile: Tile,
) -> None:
    number = pl.program_id(0)
    query, gradient, segments = query_ref[...], gradient_ref[...], segment_ref[...]
    log_z, mean = log_z_ref[...], mean_ref[...]
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
    query_gradient_ref[...] = (total * scale).astype(query_gradient_ref.dtype)


def _key_kernel(
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
    key_gradient_ref: Any,  # [keys, head_dim]
    value_gradient_ref: Any,  # [keys, head_dim]
    *,
    masking: Masking,
    scale: float,
    tile: Tile,
) -> None:
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
    key_gradient_ref[...] = (of_key * scale).astype(key_gradient_ref.dtype)
    value_gradient_ref[...] = of_value.astype(value_gradient_ref.dtype)


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


def _block(size: int, head_dim: int, group: int = 1) -> pl.BlockSpec:
    """Return the block specification of a program's own part of ``[rows, length, heads, head_dim]``."""
    return pl.BlockSpec((None, size, None, head_dim), lambda i, head, row: (row, i, head // group, 0))


def _all(length: int, head_dim: int, group: int) -> pl.BlockSpec:
    """Return the block specification of one row and head of ``[rows, length, heads, head_dim]``, loaded a block at a time."""
    return pl.BlockSpec((None, length, None, head_dim), lambda i, head, row: (row, 0, head // group, 0))


def _part(size: int) -> pl.BlockSpec:
    """Return the block specification of a program's own part of ``[rows, length]``."""
    return pl.BlockSpec((None, size), lambda i, head, row: (row, i))


def _row(length: int) -> pl.BlockSpec:
    """Return the block specification of one row of ``[rows, length]``."""
    return pl.BlockSpec((None, length), lambda i, head, row: (row, 0))


def _part_of_head(size: int) -> pl.BlockSpec:
    """Return the block specification of a program's own part of ``[rows, heads, length]``."""
    return pl.BlockSpec((None, None, size), lambda i, head, row: (row, head, i))


def _parameters(tile: Tile) -> Any:
    return triton.CompilerParams(num_warps=tile.warps, num_stages=tile.stages)
