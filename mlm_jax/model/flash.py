"""Flash attention for GPUs that skips other documents of a packed row, and keys beyond a window.

Scores exist for one block of queries and keys at a time, in registers (Dao et al. 2022; Dao 2023). The mask is computed there
from segments and positions. Blocks in which every pair is masked are not visited. The kernels (:mod:`mlm_jax.model.flash_kernels`)
are written in Pallas and compiled by Triton; the backward pass has one for queries and one for keys and values.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from mlm_jax.model.flash_kernels import (
    FIRST,
    Masking,
    Tile,
    all_of,
    angles_of,
    block_of,
    forward_kernel,
    key_kernel,
    parameters,
    part_of_head,
    part_of_row,
    query_kernel,
    row_of,
)
from mlm_jax.model.layers import pad_length


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
    where = (segment_ids, kv_segment_ids, first)
    mixed, log_z = attend(options, (query, key, value), where)
    return mixed, (query, key, value, *where, mixed, log_z)


def _backward(options: Options, kept: Any, gradient: jax.Array) -> tuple[jax.Array | None, ...]:
    query, key, value, segment_ids, kv_segment_ids, first, mixed, log_z = kept
    where, arrays = (segment_ids, kv_segment_ids, first), (query, key, value)
    query_gradient, mean = gradient_of_queries(options, arrays, where, mixed, log_z, gradient)
    group = query.shape[2] // key.shape[2]

    def of_group(x: jax.Array) -> jax.Array:  # heads → kv_heads
        if group == 1:
            return x
        return x.reshape(*key.shape[:3], group, key.shape[3]).sum(axis=3, dtype=jnp.float32).astype(x.dtype)

    key_gradient, value_gradient = gradients_of_keys(options, arrays, where, log_z, mean, gradient)
    return query_gradient, of_group(key_gradient), of_group(value_gradient), None, None, None


_flash.defvjp(_forward, _backward)

Arrays = Sequence[jax.Array]  # queries, keys and values; or one array three times: [rows, length, 3, heads, head_dim]
Where = tuple[jax.Array, jax.Array, jax.Array]  # segments of queries, of keys, and the position of the first query
Angles = tuple[jax.Array, ...]  # cosine and sine of RoPE, both [rows, length, head_dim / 2]; or nothing


def _sizes(arrays: Arrays) -> tuple[int, int, int, int, int]:
    """Return length, kv_length, heads, the number of query heads of a key head, and head_dim."""
    query, key, _ = arrays
    return query.shape[1], key.shape[1], query.shape[-2], query.shape[-2] // key.shape[-2], query.shape[-1]


def _parts(arrays: Arrays) -> tuple[int | None, int | None, int | None]:
    """Return which part of its array the queries, keys and values are; None if each is an array of its own."""
    return (0, 1, 2) if arrays[0].ndim == 5 else (None, None, None)


def attend(options: Options, arrays: Arrays, where: Where) -> tuple[jax.Array, jax.Array]:
    """Return attention ``[rows, length, heads, head_dim]``, and log₂ of the sums of exponentials ``[rows, heads, length]``."""
    masking, scale, tiles, interpret = options
    tile, rows = tiles.forward, len(arrays[0])
    length, kv_length, heads, group, head_dim = _sizes(arrays)
    of_query, of_key, of_value = _parts(arrays)
    begin, end = visited(*where, masking, tile.queries, tile.keys)
    mixed, log_z = pl.pallas_call(
        functools.partial(forward_kernel, masking=masking, scale=scale, tile=tile),
        grid=(length // tile.queries, heads, rows),
        in_specs=[
            block_of(tile.queries, head_dim, 1, of_query),
            all_of(kv_length, head_dim, group, of_key),
            all_of(kv_length, head_dim, group, of_value),
            part_of_row(tile.queries),
            row_of(kv_length),
            row_of(begin.shape[1]),
            row_of(end.shape[1]),
            FIRST,
        ],
        out_specs=[block_of(tile.queries, head_dim), part_of_head(tile.queries)],
        out_shape=[
            jax.ShapeDtypeStruct((rows, length, heads, head_dim), arrays[0].dtype),
            jax.ShapeDtypeStruct((rows, heads, length), jnp.float32),
        ],
        compiler_params=parameters(tile),
        interpret=interpret,
        name="flash_forward",
    )(*arrays, where[0], where[1], begin, end, where[2])
    return mixed, log_z


def gradient_of_queries(
    options: Options,
    arrays: Arrays,
    where: Where,
    mixed: jax.Array,
    log_z: jax.Array,
    gradient: jax.Array,
    angles: Angles = (),
) -> tuple[jax.Array, jax.Array]:
    """Return the gradient of the queries, and the mean slope of each query's scores ``[rows, heads, length]``.

    Args:
      options: of the kernels.
      arrays: queries, keys and values. If they are one array, the gradient has its shape, and only the queries' part is written.
      where: segments and position.
      mixed: ``[rows, length, heads, head_dim]``, the output of :func:`attend`.
      log_z: ``[rows, heads, length]``, its other output.
      gradient: ``[rows, length, heads, head_dim]``, of ``mixed``.
      angles: if given, the queries were turned by these angles, and the gradient is turned back.
    """
    masking, scale, tiles, interpret = options
    tile, rows = tiles.queries, len(gradient)
    length, kv_length, heads, group, head_dim = _sizes(arrays)
    of_query, of_key, of_value = _parts(arrays)
    begin, end = visited(*where, masking, tile.queries, tile.keys)
    query_gradient, mean = pl.pallas_call(
        functools.partial(query_kernel, masking=masking, scale=scale, tile=tile),
        grid=(length // tile.queries, heads, rows),
        in_specs=[
            block_of(tile.queries, head_dim, 1, of_query),
            all_of(kv_length, head_dim, group, of_key),
            all_of(kv_length, head_dim, group, of_value),
            block_of(tile.queries, head_dim),
            block_of(tile.queries, head_dim),
            part_of_head(tile.queries),
            part_of_row(tile.queries),
            row_of(kv_length),
            row_of(begin.shape[1]),
            row_of(end.shape[1]),
            FIRST,
            *(angles_of(tile.queries, each) for each in angles),
        ],
        out_specs=[block_of(tile.queries, head_dim, 1, of_query), part_of_head(tile.queries)],
        out_shape=[
            jax.ShapeDtypeStruct(arrays[0].shape, arrays[0].dtype),
            jax.ShapeDtypeStruct((rows, heads, length), jnp.float32),
        ],
        compiler_params=parameters(tile),
        interpret=interpret,
        name="flash_backward_queries",
    )(*arrays, gradient, mixed, log_z, where[0], where[1], begin, end, where[2], *angles)
    return query_gradient, mean


def gradients_of_keys(
    options: Options,
    arrays: Arrays,
    where: Where,
    log_z: jax.Array,
    mean: jax.Array,
    gradient: jax.Array,
    angles: Angles = (),
    joint_gradient: jax.Array | None = None,
) -> list[jax.Array]:
    """Return the gradients of keys and values for each query head, both ``[rows, kv_length, heads, head_dim]``.

    Args:
      options: of the kernels.
      arrays: queries, keys and values.
      where: segments and position.
      log_z: ``[rows, heads, length]``, of :func:`attend`.
      mean: ``[rows, heads, length]``, of :func:`gradient_of_queries`.
      gradient: ``[rows, length, heads, head_dim]``, of the output.
      angles: if given, the keys were turned by these angles, and their gradient is turned back.
      joint_gradient: if ``arrays`` are one array, the gradient of :func:`gradient_of_queries`. Both gradients are written into it,
        and it is the only array that is returned.
    """
    masking, scale, tiles, interpret = options
    tile, rows = tiles.keys, len(gradient)
    length, kv_length, heads, group, head_dim = _sizes(arrays)
    of_query, of_key, of_value = _parts(arrays)
    begin, end = visited(*where, masking, tile.queries, tile.keys, by_keys=True)
    of_row = pl.BlockSpec((None, None, length), lambda i, head, row: (row, head, 0))
    in_specs = [
        all_of(length, head_dim, 1, of_query),
        block_of(tile.keys, head_dim, group, of_key),
        block_of(tile.keys, head_dim, group, of_value),
        all_of(length, head_dim, 1),
        of_row,
        of_row,
        row_of(length),
        part_of_row(tile.keys),
        row_of(begin.shape[1]),
        row_of(end.shape[1]),
        FIRST,
        *(angles_of(tile.keys, each) for each in angles),
    ]
    operands = [*arrays, gradient, log_z, mean, where[0], where[1], begin, end, where[2], *angles]
    of_head = jax.ShapeDtypeStruct((rows, kv_length, heads, head_dim), arrays[1].dtype)
    out_specs, out_shape, aliases = [block_of(tile.keys, head_dim)] * 2, [of_head] * 2, {}
    if joint_gradient is not None:
        three = pl.BlockSpec((None, tile.keys, 3, None, head_dim), lambda i, head, row: (row, i, 0, head, 0))
        out_specs, out_shape = [three], [jax.ShapeDtypeStruct(joint_gradient.shape, joint_gradient.dtype)]
        aliases = {len(operands): 0}
        in_specs, operands = [*in_specs, three], [*operands, joint_gradient]
    return pl.pallas_call(
        functools.partial(key_kernel, masking=masking, scale=scale, tile=tile, turned=bool(angles)),
        grid=(kv_length // tile.keys, heads, rows),
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=out_shape,
        input_output_aliases=aliases,
        compiler_params=parameters(tile),
        interpret=interpret,
        name="flash_backward_keys",
    )(*operands)


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
