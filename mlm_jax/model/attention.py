"""Attention: one function, whose mask is given by segments, window and causality; the platform decides which kernel runs.

``reference`` is einsum and a float32 softmax, computed in blocks if a window makes that cheaper. It runs on every platform, and
the kernels (:mod:`mlm_jax.model.kernels`) are tested against it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mlm_jax.model import kernels
from mlm_jax.model.choice import choose
from mlm_jax.model.masks import BLOCKS_AT_LEAST, NEVER, in_windows, seen

SMALLEST_BLOCK = 32  # the smallest number of queries in a block of windowed attention


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    segment_ids: jax.Array,
    kv_segment_ids: jax.Array | None = None,
    window: int = 0,
    causal: bool = False,
    bias: jax.Array | None = None,
    scale: float | None = None,
    implementation: str = "auto",
) -> jax.Array:
    """Return softmax(scale · query keyᵀ + bias) value; a query attends to the keys of its own segment only.

    Args:
      query: ``[rows, length, heads, head_dim]``.
      key: ``[rows, kv_length, kv_heads, head_dim]``; each of its heads serves ``heads / kv_heads`` query heads.
      value: ``[rows, kv_length, kv_heads, head_dim]``.
      segment_ids: ``[rows, length]``; 0 is padding, whose output has no meaning.
      kv_segment_ids: ``[rows, kv_length]``, those of the queries if not given; keys of segment 0 are always masked.
      window: attend to ``window // 2`` keys on either side only (Beltagy et al. 2020); 0 means all keys.
      causal: attend to no later key.
      bias: ``[1 or rows, heads, length, kv_length]`` added to the scores.
      scale: factor on the scores; 1/√head_dim if not given.
      implementation: ``auto`` (the fastest possible one) | ``reference`` | ``flash`` (GPU) | ``cudnn`` (GPU) | ``splash``
        (TPU).

    Returns:
      ``[rows, length, heads, head_dim]``.

    Raises:
      UserError: the platform, or the kernel, cannot do what ``implementation`` asks for.
    """
    kv_segment_ids = segment_ids if kv_segment_ids is None else kv_segment_ids
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    chosen = choose(implementation, query, key, biased=bias is not None)
    if chosen == "splash":
        return kernels.splash(query * scale, key, value, segment_ids, kv_segment_ids, window=window, causal=causal)
    if chosen in ("flash", "cudnn"):
        kernel = kernels.flash if chosen == "flash" else kernels.cudnn
        return kernel(query, key, value, segment_ids, kv_segment_ids, window=window, causal=causal, scale=scale)
    block = reference_window_block(window)
    if window and bias is None and query.shape[1] == key.shape[1] >= BLOCKS_AT_LEAST * block:
        each_block = jax.vmap(reference, in_axes=1, out_axes=1)
        return in_windows(
            each_block, query * scale, key, value, segment_ids, window=window, causal=causal, block=block, reach=block
        )
    mask = seen(segment_ids, kv_segment_ids, window=window, causal=causal)
    return reference(query * scale, key, value, mask, bias)


def reference_window_block(window: int) -> int:
    """Return the number of queries in a block of the reference's windowed attention, which is also its keys on either side."""
    return max(window // 2, SMALLEST_BLOCK)


def reference(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
    """Return softmax(query keyᵀ + bias) value over the keys in ``mask`` ``[rows, length, kv_length]``, without a kernel."""
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))  # [rows, heads, length, head_dim]
    return jnp.swapaxes(reference_by_head(query, key, value, mask, bias), 1, 2)


def reference_by_head(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
    """Return :func:`reference` of arrays ``[rows, heads, length, head_dim]``, the order of axes in which they are multiplied.

    The cache of keys and values has this order: with any other, XLA would transpose the whole cache for every token.
    """
    rows, heads, length, head_dim = query.shape
    kv_heads = key.shape[1]
    grouped = query.reshape(rows, kv_heads, heads // kv_heads, length, head_dim)
    scores = jnp.einsum("rngqd,rnkd->rngqk", grouped, key, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias.reshape(-1, kv_heads, heads // kv_heads, *bias.shape[2:])
    weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, NEVER), axis=-1).astype(value.dtype)
    return jnp.einsum("rngqk,rnkd->rngqd", weights, value).reshape(query.shape)
