"""Attention: one function, a mask specification, and an implementation for each platform."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp


def attention(query, key, value, *, segment_ids, kv_segment_ids=None, window=0, causal=False, bias=None, scale=None,
              implementation="reference"):
    """Return softmax(q·k) v where a query sees keys of its own segment, within the window, and not after it if causal.

    Args:
      query: ``[rows, length, heads, head_dim]``.
      key, value: ``[rows, kv_length, kv_heads, head_dim]``.
    """
    kv_segment_ids = segment_ids if kv_segment_ids is None else kv_segment_ids
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    mask = (segment_ids[:, :, None] == kv_segment_ids[:, None, :]) & (kv_segment_ids > 0)[:, None, :]
    q_index, k_index = jnp.arange(query.shape[1])[:, None], jnp.arange(key.shape[1])[None, :]
    if window:
        mask &= (jnp.abs(q_index - k_index) <= window // 2)[None]
    if causal:
        mask &= (k_index <= q_index)[None]
    groups = query.shape[2] // key.shape[2]
    if groups > 1:
        key, value = jnp.repeat(key, groups, axis=2), jnp.repeat(value, groups, axis=2)
    scores = jnp.einsum("bqhd,bkhd->bhqk", query * scale, key, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias
    scores = jnp.where(mask[:, None], scores, -1e30)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)
