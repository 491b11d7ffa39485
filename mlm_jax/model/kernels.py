"""Attention kernels of the platforms: cuDNN's flash attention on GPUs, Pallas's splash attention on TPUs.

Under a mesh both run inside ``shard_map``: a device has its rows and heads and, if rows are split along their length,
its part of the queries, while it sees all keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mlm_jax.model.layers import pad_length
from mlm_jax.parallel.rules import partition_spec, split_by

LANES = 128  # the smallest block of splash attention
LARGEST_BLOCK = 512


def cudnn_obstacle(platform: str, query: jax.Array, key: jax.Array, bias: Any) -> str:
    """Return why cuDNN cannot attend with this query and these keys, or an empty string."""
    if platform != "gpu":
        return f"cuDNN runs on GPUs, not on {platform.upper()}s"
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        return f"cuDNN computes in 16 bits, not in {query.dtype}"
    if bias is not None:
        return "cuDNN gives no gradient for a position bias beside a mask (model.position='relative')"
    if query.shape[-1] % 8 or query.shape[-1] > 128:
        return f"cuDNN takes heads of a width that is a multiple of 8 up to 128, not of {query.shape[-1]}"
    odd = [length for length in (query.shape[1], key.shape[1]) if length % 2]
    if odd:
        return f"cuDNN takes rows of even length, not of {odd[0]}"
    return ""


def splash_obstacle(platform: str, query: jax.Array, key: jax.Array, bias: Any) -> str:
    """Return why splash attention cannot attend with this query and these keys, or an empty string."""
    if platform != "tpu":
        return f"splash attention runs on TPUs, not on {platform.upper()}s"
    if bias is not None:
        return "splash attention takes no position bias (model.position='relative')"
    return ""


def cudnn(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, *, scale: float) -> jax.Array:
    """Return attention by cuDNN's flash attention; shapes as in :func:`mlm_jax.model.attention.attention`.

    cuDNN's own windows only look back, and its own packing knows no windows, so the mask is passed as one bias
    ``[rows, 1, length, kv_length]`` for all heads.
    """

    def attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(query, key, value, mask=mask[:, None], scale=scale, implementation="cudnn")

    mesh, q_spec, kv_spec = specs(query, key)
    if mesh is None:
        return attend(query, key, value, mask)
    return _on_shards(attend, mesh, (q_spec, kv_spec, kv_spec, P(*q_spec[:2])), q_spec)(query, key, value, mask)


def splash(query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array, kv_segment_ids: jax.Array, *,
           window: int, causal: bool, interpret: bool = False) -> jax.Array:  # fmt: skip
    """Return attention by splash attention, which skips the blocks that no query of a window sees.

    Args:
      query: scaled; shapes as in :func:`mlm_jax.model.attention.attention`.
      key: as there.
      value: as there.
      segment_ids: as there.
      kv_segment_ids: as there.
      window: as there.
      causal: as there.
      interpret: run without a TPU, slowly: for tests.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    length, heads = query.shape[1], query.shape[2]
    mesh, q_spec, kv_spec = specs(query, key)
    length_shards, head_shards = (1, 1) if mesh is None else (split_by(mesh, q_spec[1]), split_by(mesh, q_spec[2]))
    pad = lambda x, multiple: pad_length(x, 0, -x.shape[1] % multiple)  # noqa: E731
    query, segment_ids = pad(query, LANES * length_shards), pad(segment_ids, LANES * length_shards)
    key, value, kv_segment_ids = pad(key, LANES), pad(value, LANES), pad(kv_segment_ids, LANES)

    shape = (query.shape[1], key.shape[1])
    reach = window // 2 if window else None
    sides = (reach, 0 if causal else reach)
    everything = not (window or causal)
    # Where all is seen, each part of the queries has the same mask, and the kernel is made for one part: the library
    # cannot split a mask of which every block is whole.
    part = (shape[0] // length_shards, shape[1])
    mask: masks.Mask = masks.FullMask(part) if everything else masks.LocalMask(shape, sides, offset=0)
    q_block, kv_block = block_size(shape[0] // length_shards), block_size(shape[1])
    attend = kernel.make_splash_mha(
        masks.MultiHeadMask([mask] * heads), head_shards=head_shards, interpret=interpret,
        q_seq_shards=1 if everything else length_shards,
        block_sizes=kernel.BlockSizes(
            block_q=q_block, block_kv=kv_block, block_q_dkv=q_block, block_kv_dkv=kv_block, block_q_dq=q_block,
            block_kv_dq=kv_block,
        ),
    )  # fmt: skip

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
    """Return (mesh, partition of queries, partition of keys and values); the mesh is None where nothing is split."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or math.prod(mesh.shape.values()) == 1:
        return None, P(), P()
    # Where the heads of keys cannot be split, those of queries are not either: each goes with its own keys' head.
    full = lambda spec: P(*spec, *(None,) * (4 - len(spec)))  # noqa: E731
    kv_spec = full(partition_spec(("rows", None, "activation_heads", None), mesh, key.shape))
    q_spec = full(partition_spec(("rows", "length", None, None), mesh, query.shape))
    return mesh, P(q_spec[0], q_spec[1], kv_spec[2], None), kv_spec


def _on_shards(function: Callable, mesh: Any, in_specs: Any, out_specs: Any) -> Callable:
    # Pallas calls do not say over which axes their results vary, hence check_vma.
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def block_size(length: int) -> int:
    """Return the largest block up to ``LARGEST_BLOCK`` that divides a length, which is a multiple of ``LANES``."""
    return max(size for size in range(LANES, LARGEST_BLOCK + 1, LANES) if length % size == 0)
