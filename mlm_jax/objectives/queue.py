"""A queue of earlier batches' sentence embeddings: more negatives than a batch has rows, at almost no cost."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Past(NamedTuple):
    """One side of the pairs of earlier batches, the latest first.

    Attributes:
      embeddings: ``[size, width]`` float32 of length 1, as the model of their step saw them.
      identity: ``[size]`` uint32, equal for equal sentences.
      filled: ``[size]`` bool, False where there has been no sentence yet.
    """

    embeddings: jax.Array
    identity: jax.Array
    filled: jax.Array


class Queue(NamedTuple):
    """Both sides of the pairs of earlier batches (cross-batch memory; Wang et al. 2020, section 3.2)."""

    left: Past
    right: Past


def empty_queue(size: int, width: int) -> Queue:
    """Return a queue for ``size`` pairs that holds none."""
    past = lambda: Past(  # noqa: E731  two sides must not be one buffer, or they could not be donated
        jnp.zeros((size, width), jnp.float32), jnp.zeros(size, jnp.uint32), jnp.zeros(size, bool)
    )
    return Queue(past(), past())


def push(past: Past, embeddings: jax.Array, identity: jax.Array) -> Past:
    """Put a batch in front, without its gradient, and drop as many from the end."""
    size = len(past.filled)
    new = Past(jax.lax.stop_gradient(embeddings.astype(jnp.float32)), identity, jnp.ones(len(identity), bool))
    return Past(*(jnp.concatenate([fresh, old])[:size] for fresh, old in zip(new, past)))
