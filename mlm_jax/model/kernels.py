"""Attention kernels of the platforms: our flash attention or cuDNN's on GPUs, Pallas's splash attention on TPUs.

Under a mesh, kernels run inside ``shard_map``: a device has its own rows and heads and, if rows are split along their length,
its own part of the queries, but all keys.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mlm_jax.model.choice import LANES
from mlm_jax.model.flash import flash_attention
from mlm_jax.model.flash_joint import flash_joint as flash_joint_attention
from mlm_jax.model.layers import pad_length
from mlm_jax.model.masks import BLOCKS_AT_LEAST, in_windows, seen
from mlm_jax.model.positions import Rotation
from mlm_jax.parallel.rules import partition_spec, split_by, splitting_mesh

LARGEST_BLOCK = 512  # of splash attention
REACH = 64  # the number of keys on either side of a block in cuDNN's windowed attention is a multiple of this
LARGEST_MASK = 2**22  # the largest mask of a row, in pairs of a query and a key: 8 MB in bfloat16


def flash(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    kv_segment_ids: jax.Array,
    *,
    window: int,
    causal: bool,
    scale: float,
    interpret: bool = False,
) -> jax.Array:
    """Return attention by :mod:`mlm_jax.model.flash`; shapes as in :func:`mlm_jax.model.attention.attention`.

    ``interpret`` runs the kernel without a GPU, slowly, for tests.
    """

    def part(
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        segment_ids: jax.Array,
        kv_segment_ids: jax.Array,
        positions: jax.Array,
    ) -> jax.Array:
        return flash_attention(
            query,
            key,
            value,
            segment_ids,
            kv_segment_ids,
            window=window,
            causal=causal,
            scale=scale,
            first=positions[0],
            interpret=interpret,
        )

    return _by_queries(part, query, key, value, segment_ids, kv_segment_ids)


def flash_joint(
    joint: jax.Array,
    angles: Rotation | None,
    segment_ids: jax.Array,
    *,
    window: int,
    causal: bool,
    scale: float,
    interpret: bool = False,
) -> jax.Array:
    """Return self-attention by :mod:`mlm_jax.model.flash_joint`, if no mesh axis splits heads or the length of rows."""
    options = {"window": window, "causal": causal, "scale": scale, "interpret": interpret}
    part: Callable[..., jax.Array] = functools.partial(flash_joint_attention, **options)  # type: ignore[arg-type]
    mesh = splitting_mesh()
    if mesh is None:
        return part(joint, angles, segment_ids)
    rows = partition_spec(("rows",), mesh, joint.shape[:1])
    return _on_shards(part, mesh, (rows, rows, rows), rows)(joint, angles, segment_ids)


def cudnn(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    kv_segment_ids: jax.Array,
    *,
    window: int,
    causal: bool,
    scale: float,
) -> jax.Array:
    """Return attention by cuDNN's flash attention; shapes as in :func:`mlm_jax.model.attention.attention`.

    cuDNN's own windows are causal only, and its packed layout has no windows, so each call gets a mask. Windows are computed in
    blocks of 128 queries and 256 keys (for a window of 128), and long rows in blocks of queries, so that the masks in memory
    stay small.
    """
    block, reach = cudnn_window_block(window)
    mesh, q_spec, kv_spec = specs(query, key)
    if window and query.shape[1] == key.shape[1] >= BLOCKS_AT_LEAST * block:

        def in_blocks(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
            flat = (x.reshape(-1, *x.shape[2:]) for x in (query, key, value, mask))  # [rows · blocks, …]
            return fused(*flat, scale=scale).reshape(query.shape)

        if mesh is not None:
            # A block is on the device that has its part of the length; neighbouring devices exchange the keys at their borders.
            blocks = -(-query.shape[1] // block)
            along = q_spec[1] if blocks % split_by(mesh, q_spec[1]) == 0 else None
            split, kv_split = (P(q_spec[0], along, None, spec[2], None) for spec in (q_spec, kv_spec))
            in_blocks = _on_shards(in_blocks, mesh, (split, kv_split, kv_split, P(*split[:2])), split)
        return in_windows(
            in_blocks, query, key, value, segment_ids, window=window, causal=causal, block=block, reach=reach
        )

    def whole(
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        segment_ids: jax.Array,
        kv_segment_ids: jax.Array,
        positions: jax.Array,
    ) -> jax.Array:
        def some(query: jax.Array, segment_ids: jax.Array, positions: jax.Array) -> jax.Array:
            mask = seen(segment_ids, kv_segment_ids, window=window, causal=causal, positions=positions)
            return fused(query, key, value, mask, scale=scale)

        return in_query_blocks(some, query, segment_ids, positions, block=query_block(key.shape[1]))

    return _by_queries(whole, query, key, value, segment_ids, kv_segment_ids)


def fused(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, *, scale: float) -> jax.Array:
    """Return attention over the keys in ``mask`` ``[rows, length, kv_length]`` by one call of cuDNN."""
    return jax.nn.dot_product_attention(query, key, value, mask=mask[:, None], scale=scale, implementation="cudnn")


def cudnn_window_block(window: int) -> tuple[int, int]:
    """Return the number of queries in a block of windowed attention, and the number of keys on either side of it."""
    reach = max(REACH, -(-(window // 2) // REACH) * REACH)
    return 2 * reach, reach


def query_block(kv_length: int) -> int:
    """Return the number of queries of a row with a mask of at most ``LARGEST_MASK`` pairs, a multiple of ``LANES``."""
    return max(LARGEST_MASK // kv_length // LANES, 1) * LANES


def in_query_blocks(
    attend: Callable[..., jax.Array], query: jax.Array, segment_ids: jax.Array, positions: jax.Array, *, block: int
) -> jax.Array:
    """Return ``attend(query, segment_ids, positions)``, one block of queries after another.

    The backward pass computes each block's mask again, but reuses cuDNN's outputs.

    Args:
      attend: a function of ``[rows, block, …]`` queries, ``[rows, block]`` segments and ``[block]`` positions.
      query: ``[rows, length, heads, head_dim]``.
      segment_ids: ``[rows, length]``.
      positions: ``[length]``.
      block: number of queries in a block.
    """
    rows, length = query.shape[:2]
    count = -(-length // block)
    if count == 1:
        return attend(query, segment_ids, positions)

    def blocks(x: jax.Array) -> jax.Array:  # [rows, length, …] → [blocks, rows, block, …]
        padded = pad_length(x, 0, count * block - length)
        return jnp.moveaxis(padded.reshape(len(x), count, block, *x.shape[2:]), 1, 0)

    again = jax.checkpoint(lambda part: attend(*part), policy=_is_of_cudnn)
    parts = blocks(query), blocks(segment_ids), blocks(positions[None])[:, 0]
    mixed = jnp.moveaxis(jax.lax.map(again, parts), 0, 1)  # [rows, blocks, block, heads, head_dim]
    return mixed.reshape(rows, count * block, *query.shape[2:])[:, :length]


def _is_of_cudnn(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name.startswith("dot_product_attention")


def splash(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    kv_segment_ids: jax.Array,
    *,
    window: int,
    causal: bool,
    interpret: bool = False,
) -> jax.Array:
    """Return attention by splash attention, which skips the blocks that are masked by the window or by causality.

    Args:
      query: scaled queries; shapes of all arrays are those of :func:`mlm_jax.model.attention.attention`.
      key: the keys.
      value: the values.
      segment_ids: segments of the queries.
      kv_segment_ids: segments of the keys.
      window: as in :func:`mlm_jax.model.attention.attention`.
      causal: as in :func:`mlm_jax.model.attention.attention`.
      interpret: run without a TPU, slowly, for tests.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    length, heads = query.shape[1], query.shape[2]
    mesh, q_spec, kv_spec = specs(query, key)
    length_shards, head_shards = (1, 1) if mesh is None else (split_by(mesh, q_spec[1]), split_by(mesh, q_spec[2]))

    def pad(x: jax.Array, multiple: int) -> jax.Array:
        return pad_length(x, 0, -x.shape[1] % multiple)

    query, segment_ids = pad(query, LANES * length_shards), pad(segment_ids, LANES * length_shards)
    key, value, kv_segment_ids = pad(key, LANES), pad(value, LANES), pad(kv_segment_ids, LANES)

    shape = (query.shape[1], key.shape[1])
    reach = window // 2 if window else None
    sides = (reach, 0 if causal else reach)
    everything = not (window or causal)
    # Without window and causality each part of the queries has the same mask, and the kernel is made for one part: the library
    # cannot split a mask without masked blocks.
    part = (shape[0] // length_shards, shape[1])
    mask: masks.Mask = masks.FullMask(part) if everything else masks.LocalMask(shape, sides, offset=0)
    q_block, kv_block = block_size(shape[0] // length_shards), block_size(shape[1])
    attend = kernel.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        head_shards=head_shards,
        interpret=interpret,
        q_seq_shards=1 if everything else length_shards,
        block_sizes=kernel.BlockSizes(
            block_q=q_block,
            block_kv=kv_block,
            block_q_dkv=q_block,
            block_kv_dkv=kv_block,
            block_q_dq=q_block,
            block_kv_dq=kv_block,
        ),
    )

    def rows(attend: Any, *arrays: jax.Array) -> jax.Array:
        query, key, value, segment_ids, kv_segment_ids = arrays
        by_head = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))  # [rows, heads, length, head_dim]
        return jnp.swapaxes(jax.vmap(attend)(*by_head, kernel.SegmentIds(segment_ids, kv_segment_ids)), 1, 2)

    arrays = (query, key, value, segment_ids, kv_segment_ids)
    if mesh is None:
        return rows(attend, *arrays)[:, :length]
    attend_spec = attend.manual_sharding_spec(NamedSharding(mesh, P(q_spec[2], None if everything else q_spec[1])))
    array_specs = (q_spec, kv_spec, kv_spec, P(*q_spec[:2]), P(*kv_spec[:2]))
    return _on_shards(rows, mesh, (attend_spec, *array_specs), q_spec)(attend, *arrays)[:, :length]


def specs(query: jax.Array, key: jax.Array) -> tuple[Any, P, P]:
    """Return (mesh, partition of queries, partition of keys and values); the mesh is None if nothing is split."""
    mesh = splitting_mesh()
    if mesh is None:
        return None, P(), P()
    # If the heads of keys cannot be split, those of queries are not split either, so that each stays with its key head.
    absent = (None,) * 4  # a specification leaves out the axes at its end that are not split
    kv_rows, _, kv_heads, *_ = *partition_spec(("rows", None, "activation_heads", None), mesh, key.shape), *absent
    rows, length, *_ = *partition_spec(("rows", "length", None, None), mesh, query.shape), *absent
    return mesh, P(rows, length, kv_heads, None), P(kv_rows, None, kv_heads, None)


def _by_queries(
    attend: Callable[..., jax.Array],
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    kv_segment_ids: jax.Array,
) -> jax.Array:
    """Return attention by ``attend`` on each device: its own rows, heads and queries, and all keys of its rows.

    Args:
      attend: a function of a device's part of the five arrays, and the positions ``[length]`` of its queries among the keys.
      query: ``[rows, length, heads, head_dim]``.
      key: ``[rows, kv_length, kv_heads, head_dim]``.
      value: ``[rows, kv_length, kv_heads, head_dim]``.
      segment_ids: ``[rows, length]``.
      kv_segment_ids: ``[rows, kv_length]``.
    """
    mesh, q_spec, kv_spec = specs(query, key)
    arrays = (query, key, value, segment_ids, kv_segment_ids, jnp.arange(query.shape[1]))
    if mesh is None:
        return attend(*arrays)
    array_specs = (q_spec, kv_spec, kv_spec, P(*q_spec[:2]), P(q_spec[0]), P(q_spec[1]))
    return _on_shards(attend, mesh, array_specs, q_spec)(*arrays)


def _on_shards(function: Callable, mesh: Any, in_specs: Any, out_specs: Any) -> Callable:
    # check_vma is off because Pallas calls do not declare the mesh axes over which their results vary.
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def block_size(length: int) -> int:
    """Return the largest block up to ``LARGEST_BLOCK`` that divides a length, which is a multiple of ``LANES``."""
    return max(size for size in range(LANES, LARGEST_BLOCK + 1, LANES) if length % size == 0)
