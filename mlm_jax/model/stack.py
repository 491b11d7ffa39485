"""A group of equal layers: stacked parameters, scanned over, shared or indexed by language."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from mlm_jax.model.block import Block, Scope
from mlm_jax.model.sharing import stack


class LayerGroup(nnx.Module):
    """Equal layers whose weights are ``[layers, …]``, or ``[layers, groups, …]`` if each row's index picks its own.

    Layers are scanned over in periods of ``global_every``, so that each layer's window is static.
    """

    def __init__(self, config: ConfigDict, entry: Mapping[str, Any], *, groups: int, adapter_groups: int, decoder: bool,
                 first_layer: int, rngs: nnx.Rngs):  # fmt: skip
        self.count, self.groups, self.first_layer = entry["layers"], groups, first_layer
        self.period = 1 if decoder else max(1, config.global_every)
        self.window, self.local_theta = config.window, config.local_rope_theta
        self.remat, self.rope = config.remat, config.position == "rope"
        self.first_norm = "first_attention" in config.norms or "embedding" not in config.norms or decoder or config.norm_position == "post"
        block = lambda rngs: Block(config, decoder=decoder, adapter=entry.get("adapter", 0),  # noqa: E731
                                   adapter_groups=adapter_groups, rngs=rngs)  # fmt: skip
        self.layers = stack((lambda rngs: stack(block, groups, rngs)) if groups else block, self.count, rngs)

    def __call__(self, x: jax.Array, scope: Scope, *, rope_theta: float, key: jax.Array | None) -> jax.Array:
        graphdef, weights = nnx.split(self.layers)
        keys = None if key is None else jax.random.split(key, self.count)
        use_norm = jnp.arange(self.count) + self.first_layer > 0

        def layer(x, offset, weights, key, use_norm):
            is_global = (self.first_layer + offset) % self.period == 0
            theta = None if not self.rope else rope_theta if is_global else self.local_theta
            window = 0 if is_global else self.window
            use_norm = True if self.first_norm else use_norm
            run = lambda w, x, scope, key: nnx.merge(graphdef, w)(x, scope, theta=theta, window=window, key=key, attention_norm=use_norm)  # noqa: E731
            if not self.groups:
                return run(weights, x, scope, key)
            rows = lambda tree: jax.tree.map(lambda leaf: leaf[:, None], tree)  # noqa: E731
            own = jax.tree.map(lambda w: w[scope.index], weights)
            row_keys = None if key is None else jax.random.split(key, x.shape[0])
            per_row = scope._replace(bias=None)
            out = jax.vmap(lambda w, x, s, k: run(w, x, s._replace(bias=scope.bias), k))(own, rows(x), rows(per_row), row_keys)
            return out[:, 0]

        def period(x, part):
            for offset in range(jax.tree.leaves(part)[0].shape[0]):
                w, k, n = jax.tree.map(lambda leaf: leaf[offset], part)  # noqa: B023
                x = self._remat(lambda x, w, k, n, o=offset: layer(x, o, w, k, n))(x, w, k, n)
            return x, None

        whole = self.count // self.period
        parts = (weights, keys, use_norm)
        if whole:
            cut = whole * self.period
            folded = jax.tree.map(lambda leaf: leaf[:cut].reshape(whole, self.period, *leaf.shape[1:]), parts)
            x, _ = jax.lax.scan(period, x, folded)
        if self.count % self.period:
            x, _ = period(x, jax.tree.map(lambda leaf: leaf[whole * self.period :], parts))
        return x

    def _remat(self, function: Callable) -> Callable:
        if self.remat == "none":
            return function
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if self.remat == "dots" else None
        return jax.checkpoint(function, policy=policy)
