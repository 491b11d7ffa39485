"""Attention masks: of all pairs of queries and keys, or in blocks if a window makes that cheaper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mlm_jax.model.layers import pad_length

NEVER = -1e30  # score of a masked key; finite, so that the output of a query without any key stays finite
BLOCKS_AT_LEAST = 4  # rows of fewer blocks use one mask for their whole length, also with a window


def seen(
    segment_ids: jax.Array, kv_segment_ids: jax.Array, *, window: int, causal: bool, positions: jax.Array | None = None
) -> jax.Array:
    """Return the keys that each query attends to, ``[rows, length, kv_length]`` bool.

    Args:
      segment_ids: ``[rows, length]``.
      kv_segment_ids: ``[rows, kv_length]``; keys of segment 0 are always masked.
      window: a query attends to ``window // 2`` keys on either side only; 0 means all keys.
      causal: whether later keys are masked.
      positions: ``[length]`` positions of the queries among the keys; 0, 1, 2 … if not given.
    """
    mask = (segment_ids[:, :, None] == kv_segment_ids[:, None, :]) & (kv_segment_ids > 0)[:, None, :]
    # Not numpy: a constant of length² would take memory while the program is traced.
    own = jnp.arange(segment_ids.shape[1]) if positions is None else positions
    ahead = jnp.arange(kv_segment_ids.shape[1])[None, :] - own[:, None]  # [length, kv_length], key − query
    return mask & within(ahead, window=window, causal=causal)


def within(ahead: Any, *, window: int, causal: bool) -> Any:
    """Return whether a key that is so far ahead of the query may be seen: bool of the shape of ``ahead``, or True for all.

    No array is made here but from ``ahead``, since a Pallas kernel (``flash.py``) may not hold constants.

    Args:
      ahead: position of the key − position of the query; an array of JAX or of a kernel.
      window: as in :func:`seen`.
      causal: as in :func:`seen`.
    """
    near = abs(ahead) <= window // 2 if window else True
    earlier = ahead <= 0 if causal else True
    return near & earlier


def in_windows(
    attend: Callable[..., jax.Array],
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    *,
    window: int,
    causal: bool,
    block: int,
    reach: int,
) -> jax.Array:
    """Return windowed self-attention ``[rows, length, heads, head_dim]``: each block of queries gets only the keys near it.

    Args:
      attend: a function of queries ``[rows, blocks, block, heads, head_dim]``, keys and values
        ``[rows, blocks, block + 2 reach, kv_heads, head_dim]`` and a mask ``[rows, blocks, block, block + 2 reach]``.
      query: ``[rows, length, heads, head_dim]``.
      key: ``[rows, length, kv_heads, head_dim]``.
      value: ``[rows, length, kv_heads, head_dim]``.
      segment_ids: ``[rows, length]``.
      window: > 0.
      causal: as in :func:`seen`.
      block: number of queries in a block, a multiple of ``reach``.
      reach: number of keys on either side of a block, at least ``window // 2``.
    """
    rows, length = query.shape[:2]
    blocks, pieces = -(-length // block), block // reach
    after = blocks * block - length

    def own(x: jax.Array) -> jax.Array:  # [rows, length, …] → [rows, blocks, block, …]
        return pad_length(x, 0, after).reshape(rows, blocks, block, *x.shape[2:])

    def near(x: jax.Array) -> jax.Array:  # [rows, length, …] → [rows, blocks, block + 2 reach, …]
        padded = pad_length(x, reach, after + reach)
        parts = padded.reshape(rows, blocks * pieces + 2, reach, *x.shape[2:])  # a block is the parts i · pieces, …
        last = (blocks - 1) * pieces + 1
        return jnp.concatenate([parts[:, first : first + last : pieces] for first in range(pieces + 2)], axis=2)

    own_segments, near_segments = own(segment_ids), near(segment_ids)
    ahead = jnp.arange(-reach, block + reach)[None, :] - jnp.arange(block)[:, None]  # [block, block + 2 reach]
    mask = (own_segments[..., :, None] == near_segments[..., None, :]) & (near_segments > 0)[..., None, :]
    mixed = attend(own(query), near(key), near(value), mask & within(ahead, window=window, causal=causal))
    return mixed.reshape(rows, blocks * block, *query.shape[2:])[:, :length]
