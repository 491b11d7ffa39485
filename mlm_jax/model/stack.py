"""Groups of equal layers: stacked parameters, a scan over the layers, weights shared or indexed by language."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from mlm_jax.model.block import Block, KeysValues, Scope, by_head, layer_of
from mlm_jax.model.positions import Relative
from mlm_jax.model.sharing import indexes, stack, take
from mlm_jax.parallel.mesh import platform

UNROLLED_AT_MOST = 48  # layers of a group: compile time grows with the number of unrolled layers


class LayerGroup(nnx.Module):
    """Equal layers whose weights are ``[layers, …]``, or ``[layers, groups, …]`` if each row's index picks its own.

    Layers are scanned over in periods of ``global_every``, so that each layer's window is static. On a GPU the scan is
    unrolled (``config.model.scan_layers``): a loop would copy the activations that each layer keeps for the backward pass
    into one array.

    Args:
      config: ``config.model``.
      entry: the entry of ``config.model.encoder`` or ``config.model.decoder``.
      groups: number of sets of weights, of which each row uses one; 0: one set that all rows share.
      adapter_groups: number of sets of adapters; 0: one set that all rows share.
      decoder: whether layers are causal and attend to a memory; they have no windows then.
      relative: the buckets of distances, or None.
      first_layer: number of layers before this group.
      rngs: the random number generators of the initial weights.
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
        # If the embedding norm comes right before layer 0, as in ModernBERT, that layer's attention has no norm of its own.
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
        layers = (weights, keys, bare)  # every array is [layers, …]
        run = functools.partial(self._consecutive, graphdef, scope)
        periods, rest = divmod(self.count, self.period)
        if periods:
            scanned = jax.tree.map(lambda leaf: leaf[: self.count - rest], layers)
            scanned = jax.tree.map(lambda leaf: leaf.reshape(periods, self.period, *leaf.shape[1:]), scanned)
            x, _ = jax.lax.scan(run, x, scanned, unroll=self._unrolled())
        if rest:
            x, _ = run(x, jax.tree.map(lambda leaf: leaf[self.count - rest :], layers))
        return x

    def _consecutive(self, graphdef: Any, scope: Scope, x: jax.Array, layers: Any) -> tuple[jax.Array, None]:
        """Run the layers of one period, or the first ones of it; ``layers`` is a tree of ``[layers, …]`` arrays."""
        for offset in range(jax.tree.leaves(layers)[0].shape[0]):
            run = rematerialise(functools.partial(self._one, graphdef, scope, offset), self.remat)
            x = run(x, jax.tree.map(operator.itemgetter(offset), layers))
        return x, None

    def _one(self, graphdef: Any, scope: Scope, offset: int, x: jax.Array, layer: Any) -> jax.Array:
        """Run the layer at an offset within a period; ``layer`` is its (weights, dropout key, bare)."""
        weights, key, bare = layer
        see_all = (self.first_layer + offset) % self.period == 0
        return self._block(graphdef, weights, scope)(x, scope, see_all=see_all, bare=bare, key=key)

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
        """Return a layer with its weights, those of each row's language if they are indexed."""
        return nnx.merge(graphdef, take(weights, scope.layer_index) if self.groups else weights)


class Groups(nnx.Module):
    """The layer groups of an encoder or a decoder, named "0", "1" and so on."""

    def __init__(
        self,
        config: ConfigDict,
        entries: Sequence[Mapping[str, Any]],
        sizes: Mapping[str, int],
        *,
        decoder: bool,
        rngs: nnx.Rngs,
    ):
        relative = Relative.of(config, bidirectional=not decoder)
        self.indexes = tuple(indexes(entry) for entry in entries)
        first = 0
        for number, (entry, (weights, adapter)) in enumerate(zip(entries, self.indexes)):
            # If whole layers are indexed, each set of them holds adapters of its own.
            adapters = 0 if sizes[weights] else sizes[adapter]
            setattr(
                self,
                str(number),
                LayerGroup(
                    config,
                    entry,
                    groups=sizes[weights],
                    adapter_groups=adapters,
                    decoder=decoder,
                    relative=relative,
                    first_layer=first,
                    rngs=rngs,
                ),
            )
            first += entry["layers"]
        self.relative = relative

    def bias(self, table: nnx.Param | None, keys: int, position: jax.Array | None = None) -> jax.Array | None:
        """Return the position bias that all layers share, as :meth:`Relative.bias` does; None without a table."""
        return None if table is None or self.relative is None else self.relative.bias(table[...], keys, position)

    def with_scopes(self, scope: Scope, index: Mapping[str, jax.Array | None]) -> list[tuple[str, LayerGroup, Scope]]:
        """Return (name, group, scope) of each group.

        Args:
          scope: inputs that the layers of all groups share.
          index: {"source_language", "family" or another kind of index: ``[runs]`` or ``()``}, as ``layer_index`` and
            ``adapter_index`` of :class:`Scope` take it.
        """
        return [
            (
                str(number),
                getattr(self, str(number)),
                scope._replace(layer_index=index[weights], adapter_index=index[adapter]),
            )
            for number, (weights, adapter) in enumerate(self.indexes)
        ]


def rematerialise(function: Callable, what: str) -> Callable:
    """Return a function whose backward pass recomputes activations instead of keeping them.

    Args:
      function: a function of arrays.
      what: ``config.model.remat``: "none", "dots" (all but the results of matrix products) or "full".
    """
    if what == "none":
        return function
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if what == "dots" else None
    return jax.checkpoint(function, policy=policy)
