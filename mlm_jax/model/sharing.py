"""Which weights a row uses: one stacked array for all languages, families or tasks, of which a row takes its slice.

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

from mlm_jax.common.errors import UserError, nearest
from mlm_jax.parallel.rules import constrain, shards_of

BY_LANGUAGE = ("source_language", "target_language", "family")
INDEXES = ("shared", *BY_LANGUAGE, "task")
ADAPTER_NORMS = ("own", "reused")
GROUP_KEYS = ("layers", "weights", "adapter", "adapter_weights", "adapter_norm")


def stack(make: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return one module whose parameters have a leading axis of ``count`` independently drawn copies."""
    build = nnx.vmap(make, in_axes=0, out_axes=0, transform_metadata={nnx.PARTITION_NAME: None})
    return nnx.split_rngs(splits=count)(build)(rngs)


def take(weights: Any, index: jax.Array | None) -> Any:
    """Return ``[runs, …]`` weights out of ``[groups, …]`` ones, by the ``[runs]`` index of each run; ``[…]`` by a single one."""
    assert index is not None
    split = lambda leaf: shards_of("groups", len(leaf)) > 1  # noqa: E731
    return jax.tree.map(lambda leaf: _take_split(leaf, index, len(leaf)) if split(leaf) else leaf[index], weights)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _take_split(stacked: jax.Array, index: jax.Array, groups: int) -> jax.Array:
    """Take slices of what the mesh splits by group.

    The gradients of a group's runs are added up by a product: of ``stacked[index]`` the compiler would add up all groups on
    every device. Each device gets the few runs of its fsdp group and adds up those of its own groups; or, where there are
    more runs than groups, it adds up its own runs for all of them.
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
    """Return a parameter that was declared with ``rank`` axes as ``[rows, …]``, if there is one for each run of rows."""
    return value if value.ndim == rank else jnp.repeat(value, rows // len(value), axis=0)


def per_row(value: jax.Array, rank: int, like: jax.Array) -> jax.Array:
    """Line up a parameter that was declared with ``rank`` axes with ``[rows, …]`` activations, if rows have their own."""
    if value.ndim == rank:
        return value
    value = each_row(value, rank, len(like))
    return value.reshape(value.shape[0], *(1,) * (like.ndim - value.ndim), *value.shape[1:])


class Indexed(nnx.Module):
    """A module with parameters ``[groups, …]`` of which each run of rows uses its own slice."""

    def __init__(self, make: Callable[[nnx.Rngs], nnx.Module], groups: int, *, rngs: nnx.Rngs):
        self.weights = stack(make, groups, rngs)

    def pick(self, index: jax.Array | None) -> Any:
        """Return the module with weights as :func:`take` gives them."""
        graphdef, weights = nnx.split(self.weights)
        return nnx.merge(graphdef, take(weights, index))


def indexes(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Return what picks a layer group's weights, and what picks its adapters.

    Args:
      entry: one of ``config.model.encoder`` or ``config.model.decoder``.

    Raises:
      UserError: a key or a value is unknown, or weights and adapters are indexed by different things.
    """
    if not isinstance(entry, Mapping):
        raise UserError(f"a layer group is {entry!r}", remedy='write ({"layers": n, "weights": "shared"},)')
    for key in entry:
        if key not in GROUP_KEYS:
            raise UserError(f"a layer group has no key {key!r}{nearest(key, GROUP_KEYS)}",
                            remedy=f"its keys are {', '.join(GROUP_KEYS)}")  # fmt: skip
    layers, width = entry.get("layers", 0), entry.get("adapter", 0)
    if type(layers) is not int or layers < 1:
        raise UserError(f"a layer group has {layers!r} layers", remedy='write {"layers": n} with a whole number n ≥ 1')
    if type(width) is not int or width < 0:
        raise UserError(f"a layer group has an adapter of width {width!r}", remedy="write a whole number; 0 is none")
    weights = entry.get("weights", "shared")
    own = "shared" if not entry.get("adapter") else "source_language" if weights == "shared" else weights
    adapter = entry.get("adapter_weights", own)
    for key, name, known in (
        ("weights", weights, INDEXES),
        ("adapter_weights", adapter, INDEXES),
        ("adapter_norm", entry.get("adapter_norm", "own"), ADAPTER_NORMS),
    ):
        if name not in known:
            raise UserError(f"a layer group's {key} {name!r} is unknown{nearest(name, known)}",
                            remedy=f"use one of {', '.join(known)}")  # fmt: skip
    if weights != "shared" and adapter not in ("shared", weights):
        raise UserError(
            f"a layer group's weights are indexed by {weights!r} and its adapters by {adapter!r}",
            remedy="share the weights, or index both by the same",
        )
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
