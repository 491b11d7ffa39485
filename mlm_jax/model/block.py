"""One Transformer layer: self-attention, attention to a memory (in decoders), feed-forward, and an adapter if asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from mlm_jax.model.attention import attention, reference_by_head, seen
from mlm_jax.model.layers import Dense, FeedForward, Norm, activation_of, dropout, parameter, split_key
from mlm_jax.model.positions import Relative, Rotation, rotate
from mlm_jax.model.sharing import Indexed, each_row
from mlm_jax.parallel.rules import constrain

KeysValues = tuple[jax.Array, jax.Array]  # both [rows, length, kv_heads, head_dim], or by head in a cache


class Scope(NamedTuple):
    """What the layers of a stack see beside the hidden states; a pytree.

    Attributes:
      segment_ids: ``[rows, length]``; 0 is padding.
      whole: angles of the positions in layers that see everything, or None without RoPE.
      windowed: angles of the positions in layers with a window, or None without RoPE.
      bias: attention bias ``[1, heads, length, length]`` of all layers, or None.
      memory: ``[rows, memory length, width]`` that a decoder attends to, or None.
      memory_segment_ids: ``[rows, memory length]``, or None.
      layer_index: ``[runs]`` of rows of the same language, or ``()`` for all rows, that picks language-indexed layers, or None.
      adapter_index: likewise, that picks language-indexed adapters, or None.
    """

    segment_ids: jax.Array
    whole: Rotation | None = None
    windowed: Rotation | None = None
    bias: jax.Array | None = None
    memory: jax.Array | None = None
    memory_segment_ids: jax.Array | None = None
    layer_index: jax.Array | None = None
    adapter_index: jax.Array | None = None


def by_head(both: KeysValues) -> KeysValues:
    """Return keys and values ``[rows, kv_heads, length, head_dim]`` of ``[rows, length, kv_heads, head_dim]``."""
    return jnp.swapaxes(both[0], 1, 2), jnp.swapaxes(both[1], 1, 2)


class Attention(nnx.Module):
    """Multi-head attention with grouped key/value heads (Vaswani et al. 2017; Ainslie et al. 2023)."""

    def __init__(self, config: ConfigDict, *, relative: Relative | None, rngs: nnx.Rngs):
        heads, kv_heads = config.heads, config.kv_heads or config.heads
        head_dim = config.head_width or config.width // config.heads
        width, options = {"embed": config.width}, {"bias": "attention" in config.biases, "stddev": config.initializer_stddev}
        self.query = Dense(width, {"heads": heads, "head_dim": head_dim}, rngs=rngs, **options)
        self.key = Dense(width, {"kv_heads": kv_heads, "head_dim": head_dim}, rngs=rngs, **options)
        self.value = Dense(width, {"kv_heads": kv_heads, "head_dim": head_dim}, rngs=rngs, **options)
        self.output = Dense({"heads": heads, "head_dim": head_dim}, width, rngs=rngs, **options)
        table = (config.relative["buckets"], heads), ("positions", "heads"), config.initializer_stddev
        self.relative = parameter(rngs, *table) if relative and config.relative["per_layer"] else None
        self.buckets = relative
        self.scale = head_dim**-0.5 if config.attention_scale else 1.0
        self.implementation = config.attention

    def keys_values(self, x: jax.Array, angles: Rotation | None = None) -> KeysValues:
        """Return keys and values of ``[rows, length, width]``; every query sees all of them, wherever it is computed."""
        key, value = self.key(x), self.value(x)
        key = key if angles is None else rotate(key, angles)
        axes = ("rows", None, "activation_heads", None)
        return constrain(key, *axes), constrain(value, *axes)

    def __call__(self, x: jax.Array, seen: KeysValues, *, angles: Rotation | None = None, bias: jax.Array | None = None,
                 **mask: Any) -> jax.Array:  # fmt: skip
        """Return ``[rows, length, width]``; ``mask`` is what :func:`attention` takes."""
        query = self.query(x) if angles is None else rotate(self.query(x), angles)
        query = constrain(query, "rows", "length", "activation_heads", None)
        mixed = attention(query, *seen, bias=bias, scale=self.scale, implementation=self.implementation, **mask)
        return self.output(mixed)

    def of_cache(self, x: jax.Array, cached: KeysValues, mask: jax.Array, *, angles: Rotation | None = None,
                 bias: jax.Array | None = None) -> jax.Array:  # fmt: skip
        """Return ``[rows, 1, width]`` of one token a row that sees keys and values by head (:func:`by_head`).

        Args:
          x: ``[rows, 1, width]``.
          cached: ``[rows, kv_heads, kv_length, head_dim]``.
          mask: ``[rows, 1, kv_length]`` bool.
          angles: of the token's position.
          bias: ``[1, heads, 1, kv_length]``.
        """
        query = self.query(x) if angles is None else rotate(self.query(x), angles)
        mixed = reference_by_head(jnp.swapaxes(query, 1, 2) * self.scale, *cached, mask, bias)
        return self.output(jnp.swapaxes(mixed, 1, 2))

    def own_bias(
        self, shared: jax.Array | None, rows: int, keys: int, position: jax.Array | None = None
    ) -> jax.Array | None:
        """Return this layer's own bias of all ``keys`` queries or of the one at ``position``, or the shared one."""
        if self.relative is None or self.buckets is None:
            return shared
        return self.buckets.bias(each_row(self.relative[...], 2, rows), keys, position)


class Adapter(nnx.Module):
    """Bottleneck adapter: norm, down, activation, up (Houlsby et al. 2019; Pfeiffer et al. 2020); zero at first."""

    def __init__(self, config: ConfigDict, size: int, *, norm: bool, rngs: nnx.Rngs):
        width, inner = {"embed": config.width}, {"adapter": size}
        self.norm = Norm(config, rngs=rngs) if norm else None
        self.activation = activation_of(config)
        self.down = Dense(width, inner, bias=True, stddev=config.initializer_stddev, rngs=rngs)
        self.up = Dense(inner, width, bias=True, stddev=0, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return ``[rows, length, width]`` to add to ``x``."""
        return self.up(self.activation(self.down(x if self.norm is None else self.norm(x))))


class Block(nnx.Module):
    """A layer, with its norms before or after each part.

    Args:
      config: ``config.model``.
      decoder: whether it is causal and attends to a memory.
      relative: how distances fall into buckets, or None.
      adapter: width of its adapter; 0 is none.
      adapter_groups: how many adapters there are to choose from; 0 is one for all.
      reuse_norm: the adapter has no norm of its own, and the feed-forward layer's comes before and after it, as in X-MOD
        (Pfeiffer et al. 2022), which is not the identity at first; for norms after each part.
      rngs: of the initial weights.
    """

    def __init__(self, config: ConfigDict, *, decoder: bool = False, relative: Relative | None = None, adapter: int = 0,
                 adapter_groups: int = 0, reuse_norm: bool = False, rngs: nnx.Rngs):  # fmt: skip
        self.post, self.rate, self.window = config.norm_position == "post", config.dropout, config.window
        self.causal, self.reuse_norm = decoder, reuse_norm
        self.attention_norm = Norm(config, rngs=rngs)
        self.attention = Attention(config, relative=relative, rngs=rngs)
        self.memory_norm = Norm(config, rngs=rngs) if decoder else None
        self.memory_attention = Attention(config, relative=None, rngs=rngs) if decoder else None
        self.mlp_norm = Norm(config, rngs=rngs)
        self.mlp = FeedForward(config, rngs=rngs)
        make = lambda rngs: Adapter(config, adapter, norm=not reuse_norm, rngs=rngs)  # noqa: E731
        self.adapter = (
            None if not adapter else Indexed(make, adapter_groups, rngs=rngs) if adapter_groups else make(rngs)
        )

    def __call__(self, x: jax.Array, scope: Scope, *, see_all: bool, bare: jax.Array | None = None,
                 key: jax.Array | None = None) -> jax.Array:  # fmt: skip
        """Return ``[rows, length, width]``.

        Args:
          x: ``[rows, length, width]``.
          scope: what all layers see.
          see_all: whether this layer has no window.
          bare: ``()`` bool, whether self-attention reads ``x`` itself instead of its norm.
          key: of dropout; None is none.
        """
        keys = split_key(key, 4)
        angles, window = (scope.whole, 0) if see_all else (scope.windowed, self.window)

        def attend(h: jax.Array) -> jax.Array:
            bias = self.attention.own_bias(scope.bias, h.shape[0], h.shape[1])
            return self.attention(h, self.attention.keys_values(h, angles), angles=angles, bias=bias,
                                  segment_ids=scope.segment_ids, window=window, causal=self.causal)  # fmt: skip

        x = self._part(x, self.attention_norm, attend, keys[0], bare)
        if self.memory_attention is not None:
            assert scope.memory is not None and self.memory_norm is not None
            remembered = self.remember(scope.memory)
            recall = lambda h: self.memory_attention(h, remembered, segment_ids=scope.segment_ids,  # noqa: E731
                                                     kv_segment_ids=scope.memory_segment_ids)  # fmt: skip
            x = self._part(x, self.memory_norm, recall, keys[1])
        return self._finish(x, scope, keys[2:])

    def remember(self, memory: jax.Array) -> KeysValues:
        """Return a decoder layer's keys and values of a memory ``[rows, memory length, width]``."""
        assert self.memory_attention is not None
        return self.memory_attention.keys_values(memory)

    def step(self, x: jax.Array, scope: Scope, position: jax.Array, write: Callable[[KeysValues], KeysValues],
             remembered: KeysValues) -> jax.Array:  # fmt: skip
        """Return ``[rows, 1, width]`` of the token at one position, which sees itself and what was written before.

        Args:
          x: ``[rows, 1, width]``.
          scope: ``segment_ids`` are ``[rows, 1]``; angles and bias are those of the position.
          position: ``()`` int32.
          write: puts this token's key and value ``[rows, kv_heads, 1, head_dim]`` into the cache, and returns all that this
            layer wrote, ``[rows, kv_heads, capacity, head_dim]``, right up to ``position``.
          remembered: keys and values of the memory, by head.
        """

        def attend(h: jax.Array) -> jax.Array:
            written = write(by_head(self.attention.keys_values(h, scope.whole)))
            capacity = written[0].shape[2]
            until_here = jnp.broadcast_to(jnp.arange(capacity) <= position, (len(h), 1, capacity))
            bias = self.attention.own_bias(scope.bias, len(h), capacity, position)
            return self.attention.of_cache(h, written, until_here, angles=scope.whole, bias=bias)

        def recall(h: jax.Array) -> jax.Array:
            assert self.memory_attention is not None and scope.memory_segment_ids is not None
            mask = seen(scope.segment_ids, scope.memory_segment_ids, window=0, causal=False)
            return self.memory_attention.of_cache(h, remembered, mask)

        assert self.memory_norm is not None
        x = self._part(x, self.attention_norm, attend, None)
        return self._finish(self._part(x, self.memory_norm, recall, None), scope, (None, None))

    def _part(self, x: jax.Array, norm: Norm, layer: Callable[[jax.Array], jax.Array], key: jax.Array | None,
              bare: jax.Array | None = None) -> jax.Array:  # fmt: skip
        """Return the residual sum of one part of the layer, with its norm before or after."""
        if self.post:
            return norm(x + dropout(layer(x), self.rate, key))
        normed = norm(x) if bare is None else jnp.where(bare, x, norm(x))
        return x + dropout(layer(normed), self.rate, key)

    def _finish(self, x: jax.Array, scope: Scope, keys: Any) -> jax.Array:
        x = self._part(x, self.mlp_norm, self.mlp, keys[0])
        if self.adapter is not None:
            adapter = self.adapter
            if isinstance(adapter, Indexed):
                adapter = adapter.pick(scope.adapter_index)
            x = x + dropout(adapter(x), self.rate, keys[1])
            x = self.mlp_norm(x) if self.reuse_norm else x
        return constrain(x, "rows", "length", "activation_embed")
