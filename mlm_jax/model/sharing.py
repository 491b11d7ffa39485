"""Weights indexed by language, family or task: one stacked array holds them all, and each row uses its slice.

Rows of different languages share one compiled program. Consecutive rows of the same language form a run (of length 1 by
default). The weights of each run are gathered into ``[runs, …]`` arrays. Every layer accepts weights with or without this
leading axis; without it, all rows use the same weights. Compiling does not depend on the number of languages, and weights
that no row of a batch uses get a gradient of exactly zero.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mlm_jax.common.errors import UserError
from mlm_jax.parallel.rules import constrain, shards_of

BY_LANGUAGE = ("source_language", "target_language", "family")


def stack(make: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return one module whose parameters have a leading axis of ``count`` independently drawn copies."""
    build = nnx.vmap(make, in_axes=0, out_axes=0, transform_metadata={nnx.PARTITION_NAME: None})
    return nnx.split_rngs(splits=count)(build)(rngs)


def take(weights: Any, index: jax.Array | None) -> Any:
    """Return the slices of ``[groups, …]`` weights at ``index``: ``[runs, …]`` for ``[runs]``, ``[…]`` for ``()``."""
    assert index is not None

    def pick(leaf: jax.Array) -> jax.Array:
        return _take_split(leaf, index, len(leaf)) if shards_of("groups", len(leaf)) > 1 else leaf[index]

    return jax.tree.map(pick, weights)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _take_split(stacked: jax.Array, index: jax.Array, groups: int) -> jax.Array:
    """Return ``stacked[index]`` of an array that the mesh splits by group, with a gradient of its own.

    The gradient of ``stacked[index]`` as JAX derives it sums the gradients of all groups on every device. This one is a matrix
    product with the membership of runs in groups. If there are few runs, each device receives the runs of its fsdp group and
    sums those of its own groups. If there are more runs than groups, it sums its own runs for all groups.
    """
    return stacked[index]


def _take_forward(stacked: jax.Array, index: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
    return stacked[index], index


def _take_backward(groups: int, index: jax.Array, gradient: jax.Array) -> tuple[jax.Array, None]:
    members = (index[..., None] == jnp.arange(groups)).astype(gradient.dtype)  # [groups], or [runs, groups]
    if index.ndim == 0:
        return members.reshape(-1, *(1,) * gradient.ndim) * gradient, None
    runs = "lookup_rows" if len(index) // shards_of("lookup_rows", len(index)) <= groups else "rows"
    members, gradient = constrain(members, runs, ...), constrain(gradient, runs, ...)
    summed = jnp.einsum("rg,r...->g...", members, gradient, precision=jax.lax.Precision.HIGHEST)
    return constrain(summed, "groups", ...), None


_take_split.defvjp(_take_forward, _take_backward)


def each_row(value: jax.Array, rank: int, rows: int) -> jax.Array:
    """Return a parameter that was declared with ``rank`` axes; ``[runs, …]`` ones are repeated to ``[rows, …]``."""
    return value if value.ndim == rank else jnp.repeat(value, rows // len(value), axis=0)


def per_row(value: jax.Array, rank: int, like: jax.Array) -> jax.Array:
    """Return a parameter that was declared with ``rank`` axes in a shape that broadcasts to ``[rows, …]`` activations."""
    if value.ndim == rank:
        return value
    value = each_row(value, rank, len(like))
    return value.reshape(value.shape[0], *(1,) * (like.ndim - value.ndim), *value.shape[1:])


class Indexed(nnx.Module):
    """A module with parameters ``[groups, …]``; each run of rows uses one slice of them."""

    def __init__(self, make: Callable[[nnx.Rngs], nnx.Module], groups: int, *, rngs: nnx.Rngs):
        self.weights = stack(make, groups, rngs)

    def pick(self, index: jax.Array | None) -> Any:
        """Return the module with the weights at ``index``, as :func:`take` returns them."""
        graphdef, weights = nnx.split(self.weights)
        return nnx.merge(graphdef, take(weights, index))


def indexes(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Return (kind of index of a layer group's weights, kind of index of its adapters), such as ("shared", "family").

    Args:
      entry: one of ``config.model.encoder`` or ``config.model.decoder``.
    """
    weights = entry.get("weights", "shared")
    own = "shared" if not entry.get("adapter") else "source_language" if weights == "shared" else weights
    adapter = entry.get("adapter_weights", own)
    return weights, adapter if entry.get("adapter") else "shared"


def by_language(groups: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether any of these layer groups has weights or adapters that depend on a row's language."""
    return any(name in BY_LANGUAGE for entry in groups for name in indexes(entry))


def family_table(languages: tuple[str, ...], families: Mapping[str, tuple[str, ...]]) -> tuple[int, ...]:
    """Return the index of each language's family.

    Raises:
      UserError: a language is in no family or in two.
    """
    table = []
    for language in languages:
        found = [index for index, members in enumerate(families.values()) if language in members]
        if len(found) != 1:
            raise UserError(
                f"language {language!r} is in {len(found)} families", remedy="put it in one of config.families"
            )
        table.append(found[0])
    return tuple(table)
