"""One Transformer layer: self-attention, attention to a memory (in decoders), feed-forward, and an adapter if asked."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from mlm_jax.model.attention import attention
from mlm_jax.model.layers import Dense, FeedForward, Norm, dropout, rotary
from mlm_jax.model.sharing import Indexed
from mlm_jax.parallel.rules import constrain


class Scope(NamedTuple):
    """What the layers of a stack see beside the hidden states; a pytree.

    Attributes:
      segment_ids, positions: ``[rows, length]``.
      bias: additive attention bias ``[1, heads, length, kv_length]`` or None.
      memory: ``[rows, memory length, width]`` that a decoder attends to, or None.
      memory_segment_ids: ``[rows, memory length]`` or None.
      index: ``[rows]`` that picks language-indexed weights, or None.
      adapter_index: ``[rows]`` likewise for adapters, or None.
    """

    segment_ids: jax.Array
    positions: jax.Array
    bias: Any = None
    memory: Any = None
    memory_segment_ids: Any = None
    index: Any = None
    adapter_index: Any = None


class Attention(nnx.Module):
    """Multi-head attention with grouped key/value heads (Vaswani et al. 2017; Ainslie et al. 2023)."""

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        heads, kv_heads = config.heads, config.kv_heads or config.heads
        head_dim = config.head_width or config.width // config.heads
        bias, stddev, width = "attention" in config.biases, config.initializer_stddev, {"embed": config.width}
        project = lambda name, count: Dense(width, {name: count, "head_dim": head_dim}, bias=bias, stddev=stddev, rngs=rngs)  # noqa: E731
        self.query = project("heads", heads)
        self.key = project("kv_heads", kv_heads)
        self.value = project("kv_heads", kv_heads)
        self.output = Dense({"heads": heads, "head_dim": head_dim}, width, bias=bias, stddev=stddev, rngs=rngs)
        self.scale = head_dim**-0.5 if config.attention_scale else 1.0
        self.rope = config.position == "rope"
        self.implementation = config.attention

    def __call__(self, x, memory, *, segment_ids, memory_segment_ids, positions=None, theta=None, window=0, causal=False,
                 bias=None, cache=None):  # fmt: skip
        query, key, value = self.query(x), self.key(memory), self.value(memory)  # [rows, length, heads, head_dim]
        if self.rope and theta is not None:
            query, key = rotary(query, positions, theta), rotary(key, positions, theta)
        heads = ("rows", "length", "activation_heads", None)
        query, key, value = constrain(query, *heads), constrain(key, *heads), constrain(value, *heads)
        mixed = attention(query, key, value, segment_ids=segment_ids, kv_segment_ids=memory_segment_ids, window=window,
                          causal=causal, bias=bias, scale=self.scale, implementation=self.implementation)  # fmt: skip
        return self.output(mixed)


class Adapter(nnx.Module):
    """Bottleneck adapter: norm, down, activation, up, residual (Houlsby et al. 2019; Pfeiffer et al. 2022)."""

    def __init__(self, config: ConfigDict, size: int, *, rngs: nnx.Rngs):
        self.norm = Norm(config.width, config, rngs=rngs)
        self.down = Dense({"embed": config.width}, {"adapter": size}, bias=True, stddev=config.initializer_stddev, rngs=rngs)
        self.up = Dense({"adapter": size}, {"embed": config.width}, bias=True, stddev=0, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.up(jax.nn.gelu(self.down(self.norm(x)), approximate=False))


class Block(nnx.Module):
    """A layer, pre-norm or post-norm."""

    def __init__(self, config: ConfigDict, *, decoder: bool, adapter: int, adapter_groups: int, rngs: nnx.Rngs):
        self.post = config.norm_position == "post"
        self.rate, self.causal = config.dropout, decoder
        self.attention_norm = Norm(config.width, config, rngs=rngs)
        self.attention = Attention(config, rngs=rngs)
        self.memory_norm = Norm(config.width, config, rngs=rngs) if decoder else None
        self.memory_attention = Attention(config, rngs=rngs) if decoder else None
        self.mlp_norm = Norm(config.width, config, rngs=rngs)
        self.mlp = FeedForward(config, rngs=rngs)
        make = lambda rngs: Adapter(config, adapter, rngs=rngs)  # noqa: E731
        if adapter and adapter_groups:
            self.adapter = Indexed(make, adapter_groups, rngs=rngs)
        else:
            self.adapter = make(rngs) if adapter else None

    def __call__(self, x: jax.Array, scope: Scope, *, theta: float | None, window: int, key: jax.Array | None,
                 attention_norm: jax.Array | bool = True) -> jax.Array:  # fmt: skip
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)

        def residual(x, norm, layer, key, use_norm=True):
            if self.post:
                return norm(x + dropout(layer(x), self.rate, key))
            normed = norm(x) if use_norm is True else jnp.where(use_norm, norm(x), x)
            return x + dropout(layer(normed), self.rate, key)

        attend = lambda h: self.attention(h, h, segment_ids=scope.segment_ids, memory_segment_ids=scope.segment_ids,  # noqa: E731
                                          positions=scope.positions, theta=theta, window=window, causal=self.causal,
                                          bias=scope.bias)  # fmt: skip
        x = residual(x, self.attention_norm, attend, keys[0], attention_norm)
        if self.memory_attention is not None:
            recall = lambda h: self.memory_attention(h, scope.memory, segment_ids=scope.segment_ids,  # noqa: E731
                                                     memory_segment_ids=scope.memory_segment_ids)  # fmt: skip
            x = residual(x, self.memory_norm, recall, keys[1])
        x = residual(x, self.mlp_norm, self.mlp, keys[2])
        if isinstance(self.adapter, Indexed):
            x = self.adapter(scope.adapter_index, x)
        elif self.adapter is not None:
            x = self.adapter(x)
        return constrain(x, "rows", "length", "activation_embed")
