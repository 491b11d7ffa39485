"""Language-indexed weights: one stacked array, a row picks its slice."""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import nnx


def stack(make: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return one module whose parameters have a leading axis of ``count`` independently drawn copies."""
    build = nnx.vmap(make, in_axes=0, out_axes=0, transform_metadata={nnx.PARTITION_NAME: None})
    return nnx.split_rngs(splits=count)(build)(rngs)


class Indexed(nnx.Module):
    """A module with parameters ``[groups, …]`` of which each row uses its own slice."""

    def __init__(self, make: Callable[[nnx.Rngs], nnx.Module], groups: int, *, rngs: nnx.Rngs):
        self.weights = stack(make, groups, rngs)

    def __call__(self, index: jax.Array, x: jax.Array, *args) -> jax.Array:
        graphdef, weights = nnx.split(self.weights)

        def one_row(weights, *row):
            return nnx.merge(graphdef, weights)(*jax.tree.map(lambda leaf: leaf[None], row))[0]

        return jax.vmap(one_row)(jax.tree.map(lambda leaf: leaf[index], weights), x, *args)
