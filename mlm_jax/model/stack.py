"""A group of equal layers: stacked parameters, scanned over, shared or indexed by language."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from mlm_jax.model.block import Block, KeysValues, Scope, by_head, layer_of
from mlm_jax.model.positions import Relative
from mlm_jax.model.sharing import stack, take
from mlm_jax.parallel.mesh import platform

UNROLLED_AT_MOST = 48  # layers of a group: compilation takes as long as there are layers


class LayerGroup(nnx.Module):
    """Equal layers whose weights are ``[layers, …]``, or ``[layers, groups, …]`` if each row's index picks its own.

    Layers are scanned over in periods of ``global_every``, so that each layer's window is static. On a GPU the scan is
    unrolled (``config.model.scan_layers``): a loop would copy what each layer keeps for the backward pass into one array.

    Args:
      config: ``config.model``.
      entry: of ``config.model.encoder`` or ``config.model.decoder``.
      groups: how many sets of weights there are to choose from; 0 is one for all.
      adapter_groups: how many sets of adapters there are to choose from; 0 is one for all.
      decoder: whether layers are causal and attend to a memory; they have no windows then.
      relative: how distances fall into buckets, or None.
      first_layer: how many layers there are before this group.
      rngs: of the initial weights.
    """

    def __init__(
        self,
        config: ConfigDict,
        entry: Mapping[str, Any],
        *,
        groups: int,
        adapter_groups: int,
        decoder: bool,
        relative: Relative | None,
        first_layer: int,
        rngs: nnx.Rngs,
    ):
        self.count, self.groups, self.first_layer = entry["layers"], groups, first_layer
        self.period = 1 if decoder else max(1, config.global_every)
        self.remat, self.scan_layers = config.remat, config.scan_layers
        # Where a norm comes right before layer 0, as in ModernBERT, its attention does without its own.
        before = "embedding" in config.norms and "first_attention" not in config.norms
        self.first_bare = before and first_layer == 0 and not decoder and config.norm_position == "pre"

        def layer(rngs: nnx.Rngs) -> nnx.Module:
            return Block(
                config,
                decoder=decoder,
                relative=relative,
                adapter=entry.get("adapter", 0),
                adapter_groups=adapter_groups,
                reuse_norm=entry.get("adapter_norm") == "reused",
                rngs=rngs,
            )

        def layers_of_groups(rngs: nnx.Rngs) -> nnx.Module:
            return stack(layer, groups, rngs)

        self.layers = stack(layers_of_groups if groups else layer, self.count, rngs)

    def __call__(self, x: jax.Array, scope: Scope, *, key: jax.Array | None = None) -> jax.Array:
        """Return ``[rows, length, width]``; ``key`` is of dropout."""
        graphdef, weights = nnx.split(self.layers)
        keys = None if key is None else jax.random.split(key, self.count)
        bare = jnp.arange(self.count) == 0 if self.first_bare else None

        def layer(x: jax.Array, part: Any, *, offset: int) -> jax.Array:
            weights, key, bare = part
            see_all = (self.first_layer + offset) % self.period == 0
            return self._block(graphdef, weights, scope)(x, scope, see_all=see_all, bare=bare, key=key)

        def period(x: jax.Array, parts: Any) -> tuple[jax.Array, None]:
            for offset in range(jax.tree.leaves(parts)[0].shape[0]):
                part = jax.tree.map(lambda leaf: leaf[offset], parts)  # noqa: B023
                x = rematerialise(lambda x, part, offset=offset: layer(x, part, offset=offset), self.remat)(x, part)
            return x, None

        parts = (weights, keys, bare)
        whole, rest = divmod(self.count, self.period)
        if whole:
            scanned = jax.tree.map(lambda leaf: leaf[: self.count - rest], parts)
            periods = jax.tree.map(lambda leaf: leaf.reshape(whole, self.period, *leaf.shape[1:]), scanned)
            x, _ = jax.lax.scan(period, x, periods, unroll=self._unrolled())
        if rest:
            x, _ = period(x, jax.tree.map(lambda leaf: leaf[self.count - rest :], parts))
        return x

    def remember(self, memory: jax.Array, scope: Scope) -> KeysValues:
        """Return each layer's keys and values of a memory, ``[rows, layers, kv_heads, memory length, head_dim]``."""
        graphdef, weights = nnx.split(self.layers)

        def layer(_: None, weights: Any) -> tuple[None, KeysValues]:
            return None, by_head(self._block(graphdef, weights, scope).remember(memory))

        _, (keys, values) = jax.lax.scan(layer, None, weights)
        return jnp.moveaxis(keys, 0, 1), jnp.moveaxis(values, 0, 1)

    def step(
        self, x: jax.Array, scope: Scope, position: jax.Array, written: KeysValues, remembered: KeysValues
    ) -> tuple[jax.Array, KeysValues]:
        """Run decoder layers on the token at one position.

        Args:
          x: ``[rows, 1, width]``.
          scope: as :meth:`Block.step` takes it.
          position: ``()`` int32.
          written: keys and values ``[rows, layers, kv_heads, capacity, head_dim]``; the step's own are added.
          remembered: what :meth:`remember` returned.
        """
        graphdef, weights = nnx.split(self.layers)

        def layer(carry: Any, part: Any) -> tuple[Any, None]:
            x, written = carry
            weights, number = part
            block = self._block(graphdef, weights, scope)
            return block.step(x, scope, position, number, written, layer_of(remembered, number)), None

        (x, written), _ = jax.lax.scan(layer, (x, written), (weights, jnp.arange(self.count)))
        return x, written

    def _unrolled(self) -> bool:
        """Return whether the layers are compiled one after another instead of as a loop."""
        if self.scan_layers == "auto":
            return platform() == "gpu" and self.count <= UNROLLED_AT_MOST
        return self.scan_layers == "never"

    def _block(self, graphdef: Any, weights: Any, scope: Scope) -> Block:
        """Return a layer with the weights of each row's language, where they are indexed."""
        return nnx.merge(graphdef, take(weights, scope.layer_index) if self.groups else weights)


def rematerialise(function: Callable, what: str) -> Callable:
    """Return a function whose backward pass recomputes ``what`` (``config.model.remat``) instead of keeping it."""
    if what == "none":
        return function
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if what == "dots" else None
    return jax.checkpoint(function, policy=policy)
