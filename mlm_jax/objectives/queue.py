"""A queue of earlier batches' sentence embeddings: more negatives than a batch has rows, at almost no cost."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Queue(NamedTuple):
    """The pairs of earlier batches, the latest first (cross-batch memory; Wang et al. 2020, section 3.2).

    Attributes:
      embeddings: ``[2, size, width]`` float32 unit vectors of both sides, from the model of their step.
      identity: ``[2, size]`` uint32, equal for equal sentences.
      filled: ``[size]`` bool, False for entries without a pair.
      batches: ``()`` int32, number of batches so far.
    """

    embeddings: jax.Array
    identity: jax.Array
    filled: jax.Array
    batches: jax.Array


def empty_queue(size: int, width: int) -> Queue:
    """Return an empty queue for ``size`` pairs."""
    vectors, identity = jnp.zeros((2, size, width), jnp.float32), jnp.zeros((2, size), jnp.uint32)
    return Queue(vectors, identity, jnp.zeros(size, bool), jnp.zeros((), jnp.int32))


def push(queue: Queue, embeddings: jax.Array, identity: jax.Array, after: int = 0) -> Queue:
    """Put a batch in front, without its gradient, and drop as many pairs from the end.

    Args:
      queue: the queue of earlier batches.
      embeddings: ``[2, rows, width]``.
      identity: ``[2, rows]``.
      after: number of first batches that are left out: the model of the first steps changes too fast.
    """
    size, rows = len(queue.filled), embeddings.shape[1]
    fresh = jax.lax.stop_gradient(embeddings.astype(jnp.float32))
    return Queue(
        jnp.concatenate([fresh, queue.embeddings], axis=1)[:, :size],
        jnp.concatenate([identity, queue.identity], axis=1)[:, :size],
        jnp.concatenate([jnp.broadcast_to(queue.batches >= after, rows), queue.filled])[:size],
        queue.batches + 1,
    )
