"""Initial values of all parameters: one table, and the function that declares axes, sizes and initial values together."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

Shape = tuple[int, ...]


def normal(rngs: nnx.Rngs, shape: Shape, stddev: float) -> jax.Array:
    """Return float32 values drawn from a normal distribution with mean 0."""
    return stddev * jax.random.normal(rngs.params(), shape, jnp.float32)


def zeros(rngs: nnx.Rngs, shape: Shape, stddev: float) -> jax.Array:
    """Return zeros; no random numbers are drawn."""
    return jnp.zeros(shape, jnp.float32)


def ones(rngs: nnx.Rngs, shape: Shape, stddev: float) -> jax.Array:
    """Return ones; no random numbers are drawn."""
    return jnp.ones(shape, jnp.float32)


BEGINS: dict[str, Callable[[nnx.Rngs, Shape, float], jax.Array]] = {  # {role of a parameter: its initial values}
    "table": normal,  # embeddings, the output layer, position biases, n-gram hashes
    "kernel": normal,  # of projections and convolutions
    "zero_kernel": zeros,  # of an adapter's last projection: at the start an adapter adds nothing
    "bias": zeros,
    "scale": ones,  # of norms, and of the cosine in cross-lingual attention
    "log_variance": zeros,  # of a task whose weight in the loss is learned
}


def parameter(rngs: nnx.Rngs, role: str, axes: Mapping[str, int], stddev: float = 0.0) -> nnx.Param:
    """Declare a float32 parameter.

    Args:
      rngs: the random number generators of the initial values.
      role: a row of :data:`BEGINS`.
      axes: {logical axis: size}, in the order of the array's axes.
      stddev: the standard deviation of the values of a table or a kernel; other roles do not use it.
    """
    return nnx.Param(BEGINS[role](rngs, tuple(axes.values()), stddev), axes=tuple(axes))
