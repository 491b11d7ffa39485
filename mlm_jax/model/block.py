"""One Transformer layer: self-attention, attention to a memory (in decoders), feed-forward, and an adapter if asked."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from mlm_jax.model import kernels
from mlm_jax.model.attention import attention, reference_by_head
from mlm_jax.model.choice import choose
from mlm_jax.model.layers import Dense, FeedForward, Norm, activation_of, dropout, project, project_jointly, split_key
from mlm_jax.model.lora import add_low_rank
from mlm_jax.model.masks import seen
from mlm_jax.model.parameters import parameter
from mlm_jax.model.positions import Relative, Rotation, rotate
from mlm_jax.model.sharing import Indexed, each_row
from mlm_jax.parallel.rules import constrain, shards_over

KeysValues = tuple[jax.Array, jax.Array]  # both [rows, length, kv_heads, head_dim], or by head in a cache


class Scope(NamedTuple):
    """Inputs of the layers of a stack besides the hidden states; a pytree.

    Attributes:
      segment_ids: ``[rows, length]``; 0 is padding.
      whole: angles of the positions in layers without a window, or None without RoPE.
      windowed: angles of the positions in layers with a window, or None without RoPE.
      bias: attention bias ``[1, heads, length, length]`` of all layers, or None.
      memory: ``[rows, memory length, width]`` that a decoder attends to, or None.
      memory_segment_ids: ``[rows, memory length]``, or None.
      layer_index: index of language-indexed layers: ``[runs]`` for runs of rows, or ``()`` for all rows; None without them.
      adapter_index: index of language-indexed adapters, in the same form.
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


def layer_of(cache: KeysValues, layer: jax.Array) -> KeysValues:
    """Return one layer's ``[rows, kv_heads, capacity, head_dim]`` of ``[rows, layers, kv_heads, capacity, head_dim]``."""
    key, value = (jax.lax.dynamic_index_in_dim(each, layer, axis=1, keepdims=False) for each in cache)
    return key, value


def write_token(cache: KeysValues, new: KeysValues, layer: jax.Array, position: jax.Array) -> KeysValues:
    """Return a cache ``[rows, layers, kv_heads, capacity, head_dim]`` with one layer's token ``[rows, kv_heads, 1, head_dim]``."""
    start = (0, layer, 0, position, 0)
    key, value = (jax.lax.dynamic_update_slice(old, token[:, None], start) for old, token in zip(cache, new))
    return key, value


def pin_queries(query: jax.Array) -> jax.Array:
    """Split queries ``[rows, length, heads, head_dim]`` over the devices by rows, length and heads."""
    return constrain(query, "rows", "length", "activation_heads", None)


def pin_keys_values(key: jax.Array, value: jax.Array) -> KeysValues:
    """Split keys and values by rows and heads only, because the queries of every device attend to all of them."""
    axes = ("rows", None, "activation_heads", None)
    return constrain(key, *axes), constrain(value, *axes)


class Attention(nnx.Module):
    """Multi-head attention with grouped key/value heads (Vaswani et al. 2017; Ainslie et al. 2023)."""

    def __init__(self, config: ConfigDict, *, relative: Relative | None, rngs: nnx.Rngs):
        heads, kv_heads = config.heads, config.kv_heads or config.heads
        head_dim = config.head_width or config.width // config.heads
        width, options = (
            {"embed": config.width},
            {"bias": "attention" in config.biases, "stddev": config.initializer_stddev},
        )
        self.query = Dense(width, {"heads": heads, "head_dim": head_dim}, rngs=rngs, **options)
        self.key = Dense(width, {"kv_heads": kv_heads, "head_dim": head_dim}, rngs=rngs, **options)
        self.value = Dense(width, {"kv_heads": kv_heads, "head_dim": head_dim}, rngs=rngs, **options)
        self.output = Dense({"heads": heads, "head_dim": head_dim}, width, rngs=rngs, **options)
        self.relative = (
            parameter(rngs, "table", {"positions": relative.buckets, "heads": heads}, config.initializer_stddev)
            if relative and config.relative["per_layer"]
            else None
        )
        self.buckets = relative
        self.scale = head_dim**-0.5 if config.attention_scale else 1.0
        self.implementation = config.attention

    def of_itself(
        self, x: jax.Array, angles: Rotation | None, bias: jax.Array | None, segment_ids: jax.Array, **mask: Any
    ) -> jax.Array:
        """Return ``[rows, length, width]`` of self-attention for ``x`` ``[rows, length, width]``.

        Args:
          x: the input of queries, keys and values.
          angles: by which queries and keys are turned, or None without RoPE.
          bias: ``[1 or rows, heads, length, length]``, or None.
          segment_ids: ``[rows, length]``.
          mask: window and causality, as in :func:`attention`.
        """
        if not self._reads_joint_product(x, biased=bias is not None):
            query, keys_values = self.queries_keys_values(x, angles)
            return self.attend(query, keys_values, bias=bias, segment_ids=segment_ids, **mask)
        joint = project_jointly(x, self.query, self.key, self.value)  # [rows, length, 3 heads, head_dim]
        joint = joint.reshape(*x.shape[:2], 3, -1, joint.shape[-1])
        return self.output(kernels.flash_joint(joint, angles, segment_ids, scale=self.scale, **mask))

    def _reads_joint_product(self, x: jax.Array, *, biased: bool) -> bool:
        """Return whether self-attention is computed by :func:`mlm_jax.model.kernels.flash_joint`."""
        heads, kv_heads = ((*x.shape[:2], *layer.kernel.shape[-2:]) for layer in (self.query, self.key))
        query, key = (jax.ShapeDtypeStruct(shape, x.dtype) for shape in (heads, kv_heads))
        low_rank = any(layer.low_rank is not None for layer in (self.query, self.key, self.value))
        split = shards_over("tensor") > 1 or shards_over("sequence") > 1
        if low_rank or split or heads != kv_heads:
            return False
        return choose(self.implementation, query, key, biased=biased) == "flash"

    def queries_keys_values(self, x: jax.Array, angles: Rotation | None = None) -> tuple[jax.Array, KeysValues]:
        """Return queries, and keys and values, of self-attention for ``[rows, length, width]``, rotated by ``angles``."""
        key, value, query = project(x, self.key, self.value, self.query)  # [rows, length, kv_heads or heads, head_dim]
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        return pin_queries(query), pin_keys_values(key, value)

    def queries(self, x: jax.Array) -> jax.Array:
        """Return queries ``[rows, length, heads, head_dim]`` for attention from ``[rows, length, width]`` to a memory."""
        return pin_queries(self.query(x))

    def keys_values(self, memory: jax.Array) -> KeysValues:
        """Return keys and values of a memory ``[rows, memory length, width]``."""
        return pin_keys_values(*project(memory, self.key, self.value))

    def attend(self, query: jax.Array, keys_values: KeysValues, **mask: Any) -> jax.Array:
        """Return ``[rows, length, width]``; ``mask`` has further arguments of :func:`attention`, including the position bias."""
        mixed = attention(query, *keys_values, scale=self.scale, implementation=self.implementation, **mask)
        return self.output(mixed)

    def attend_by_head(
        self, query: jax.Array, keys_values: KeysValues, mask: jax.Array, bias: jax.Array | None = None
    ) -> jax.Array:
        """Return ``[rows, 1, width]`` for one token of each row, with keys and values by head (:func:`by_head`).

        Args:
          query: ``[rows, 1, heads, head_dim]``.
          keys_values: both ``[rows, kv_heads, kv_length, head_dim]``.
          mask: ``[rows, 1, kv_length]`` bool.
          bias: ``[1 or rows, heads, 1, kv_length]``.
        """
        mixed = reference_by_head(jnp.swapaxes(query, 1, 2) * self.scale, *keys_values, mask, bias)
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
        self.up = Dense(inner, width, bias=True, stddev=config.initializer_stddev, kernel="zero_kernel", rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return ``[rows, length, width]`` to add to ``x``."""
        return self.up(self.activation(self.down(x if self.norm is None else self.norm(x))))


def _adapter(config: ConfigDict, size: int, norm: bool, rngs: nnx.Rngs) -> Adapter:
    return Adapter(config, size, norm=norm, rngs=rngs)


class Block(nnx.Module):
    """A layer, with its norms before or after each part.

    Args:
      config: ``config.model``.
      decoder: whether the layer is causal and attends to a memory.
      relative: the buckets of distances, or None.
      adapter: width of its adapter; 0 means no adapter.
      adapter_groups: number of adapters to choose from; 0 means one adapter for all rows.
      reuse_norm: whether the adapter uses the norm of the feed-forward layer, before and after it, instead of its own, as in X-MOD
        (Pfeiffer et al. 2022). Then it is not the identity at the start. Only for norms after each part.
      rngs: the random number generators of the initial weights.
    """

    def __init__(
        self,
        config: ConfigDict,
        *,
        decoder: bool = False,
        relative: Relative | None = None,
        adapter: int = 0,
        adapter_groups: int = 0,
        reuse_norm: bool = False,
        rngs: nnx.Rngs,
    ):
        self.post, self.rate, self.window = config.norm_position == "post", config.dropout, config.window
        self.causal, self.reuse_norm = decoder, reuse_norm
        self.attention_norm = Norm(config, rngs=rngs)
        self.attention = Attention(config, relative=relative, rngs=rngs)
        self.memory_norm = Norm(config, rngs=rngs) if decoder else None
        self.memory_attention = Attention(config, relative=None, rngs=rngs) if decoder else None
        self.mlp_norm = Norm(config, rngs=rngs)
        self.mlp = FeedForward(config, rngs=rngs)
        add_low_rank(config.lora, self.attention, self.memory_attention, self.mlp, rngs=rngs)
        own = adapter_groups if adapter else 0
        make = functools.partial(_adapter, config, adapter, not reuse_norm)
        self.adapter = Indexed(make, own, rngs=rngs) if own else make(rngs) if adapter else None

    def __call__(
        self, x: jax.Array, scope: Scope, *, see_all: bool, bare: jax.Array | None = None, key: jax.Array | None = None
    ) -> jax.Array:
        """Return ``[rows, length, width]``.

        Args:
          x: ``[rows, length, width]``.
          scope: inputs that all layers share.
          see_all: whether this layer has no window.
          bare: ``()`` bool, whether self-attention reads ``x`` itself instead of its norm.
          key: the random key of dropout; None means no dropout.
        """
        keys = split_key(key, 4)
        angles, window = (scope.whole, 0) if see_all else (scope.windowed, self.window)
        with jax.named_scope("attention"):
            h = self._before(self.attention_norm, x, bare)  # [rows, length, width]
            bias = self.attention.own_bias(scope.bias, h.shape[0], h.shape[1])
            mixed = self.attention.of_itself(h, angles, bias, scope.segment_ids, window=window, causal=self.causal)
            x = self._after(self.attention_norm, x, mixed, keys[0])
        if self.memory_attention is not None:
            assert scope.memory is not None and self.memory_norm is not None
            with jax.named_scope("memory_attention"):
                remembered = self.remember(scope.memory)
                query = self.memory_attention.queries(self._before(self.memory_norm, x))
                mixed = self.memory_attention.attend(
                    query, remembered, segment_ids=scope.segment_ids, kv_segment_ids=scope.memory_segment_ids
                )
                x = self._after(self.memory_norm, x, mixed, keys[1])
        return self._feed_forward(x, scope, keys[2:])

    def remember(self, memory: jax.Array) -> KeysValues:
        """Return a decoder layer's keys and values of a memory ``[rows, memory length, width]``."""
        assert self.memory_attention is not None
        return self.memory_attention.keys_values(memory)

    def step(
        self,
        x: jax.Array,
        scope: Scope,
        position: jax.Array,
        layer: jax.Array,
        written: KeysValues,
        remembered: KeysValues,
    ) -> tuple[jax.Array, KeysValues]:
        """Return ``[rows, 1, width]`` of the token at one position, and the cache with the token's key and value.

        Args:
          x: ``[rows, 1, width]``.
          scope: ``segment_ids`` are ``[rows, 1]``; angles and bias are those of the position.
          position: ``()`` int32; the token sees itself and all earlier positions.
          layer: ``()`` int32, which of the cache's layers this is.
          written: keys and values ``[rows, layers, kv_heads, capacity, head_dim]`` of the earlier positions.
          remembered: this layer's keys and values of the memory, ``[rows, kv_heads, memory length, head_dim]``.
        """
        assert self.memory_norm is not None and self.memory_attention is not None
        assert scope.memory_segment_ids is not None
        h = self._before(self.attention_norm, x)
        query, new = self.attention.queries_keys_values(h, scope.whole)
        written = write_token(written, by_head(new), layer, position)
        own = layer_of(written, layer)  # [rows, kv_heads, capacity, head_dim]
        capacity = own[0].shape[2]
        until_here = jnp.broadcast_to(jnp.arange(capacity) <= position, (len(h), 1, capacity))
        bias = self.attention.own_bias(scope.bias, len(h), capacity, position)
        x = self._after(self.attention_norm, x, self.attention.attend_by_head(query, own, until_here, bias))

        query = self.memory_attention.queries(self._before(self.memory_norm, x))
        mask = seen(scope.segment_ids, scope.memory_segment_ids, window=0, causal=False)
        x = self._after(self.memory_norm, x, self.memory_attention.attend_by_head(query, remembered, mask))
        return self._feed_forward(x, scope, (None, None)), written

    def _before(self, norm: Norm, x: jax.Array, bare: jax.Array | None = None) -> jax.Array:
        """Return the input of a part of the layer, ``[rows, length, width]``: ``x``, or its norm if norms come before the parts."""
        if self.post:
            return x
        return norm(x) if bare is None else jnp.where(bare, x, norm(x))

    def _after(self, norm: Norm, x: jax.Array, change: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Return ``x + change``, ``[rows, length, width]``, normed if norms come after the parts; ``key`` is of dropout."""
        x = x + dropout(change, self.rate, key)
        return norm(x) if self.post else x

    def _feed_forward(self, x: jax.Array, scope: Scope, keys: Sequence[jax.Array | None]) -> jax.Array:
        """Return ``[rows, length, width]`` after the feed-forward layer and the adapter; ``keys`` are of dropout."""
        with jax.named_scope("feed_forward"):
            x = self._after(self.mlp_norm, x, self.mlp(self._before(self.mlp_norm, x)), keys[0])
        if self.adapter is not None:
            with jax.named_scope("adapter"):
                adapter = self.adapter
                if isinstance(adapter, Indexed):
                    adapter = adapter.pick(scope.adapter_index)
                x = x + dropout(adapter(x), self.rate, keys[1])
                x = self.mlp_norm(x) if self.reuse_norm else x
        return constrain(x, "rows", "length", "activation_embed")
