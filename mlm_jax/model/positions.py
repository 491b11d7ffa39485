"""Positions of tokens: rotary angles, and T5's buckets of distances."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict


class Rotation(NamedTuple):
    """Cosine and sine of each position's angles, both ``[rows, length, 1, head_dim / 2]`` float32."""

    cos: jax.Array
    sin: jax.Array


def rotation(positions: jax.Array, head_dim: int, theta: float) -> Rotation:
    """Return the angles position · theta^(−2i / head_dim) of RoFormer (Su et al. 2021, section 3.2.2).

    Args:
      positions: ``[rows, length]`` int32.
      head_dim: width of a head; even.
      theta: base of the frequencies.
    """
    half = head_dim // 2
    frequency = theta ** (-np.arange(half, dtype=np.float32) / half)  # [half]
    angle = positions[..., None, None].astype(jnp.float32) * frequency  # [rows, length, 1, half]
    return Rotation(jnp.cos(angle), jnp.sin(angle))


@jax.custom_vjp
def rotate(x: jax.Array, angles: Rotation) -> jax.Array:
    """Rotate ``[rows, length, heads, head_dim]``; dimension i is paired with i + head_dim / 2, as in GPT-NeoX.

    The gradient is the rotation by the opposite angle. The two halves stay in one array, and the gradient is written out
    instead of derived by JAX, because TPUs pad every array whose last axis is shorter than 128: two halves of 32 took twice
    the time (docs/scale.md).
    """
    halves = x.astype(jnp.float32).reshape(*x.shape[:-1], 2, -1)  # [rows, length, heads, 2, head_dim / 2]
    sin = jnp.stack([-angles.sin, angles.sin], axis=-2)  # [rows, length, 1, 2, head_dim / 2]
    turned = halves * angles.cos[..., None, :] + jnp.flip(halves, axis=-2) * sin
    return turned.reshape(x.shape).astype(x.dtype)


def _rotate_forward(x: jax.Array, angles: Rotation) -> tuple[jax.Array, Rotation]:
    return rotate(x, angles), angles


def _rotate_backward(angles: Rotation, gradient: jax.Array) -> tuple[jax.Array, None]:
    return rotate(gradient, Rotation(angles.cos, -angles.sin)), None  # positions have no gradient


rotate.defvjp(_rotate_forward, _rotate_backward)


class Relative(NamedTuple):
    """T5's relative position bias: the buckets of distances.

    Attributes:
      buckets: rows of the table of biases.
      max_distance: all distances from this one on share a bucket.
      bidirectional: whether keys after the query have buckets of their own (encoders).
    """

    buckets: int
    max_distance: int
    bidirectional: bool

    @classmethod
    def of(cls, config: ConfigDict, *, bidirectional: bool) -> Relative | None:
        """Return the buckets of ``config.model``, or None if its positions are not relative."""
        if config.position != "relative":
            return None
        return cls(config.relative["buckets"], config.relative["max_distance"], bidirectional)

    def bucket(self, distance: np.ndarray) -> np.ndarray:
        """Return the bucket of each distance key − query: exact for small ones, logarithmic for larger ones."""
        if self.bidirectional:
            buckets, first = self.buckets // 2, np.where(distance > 0, self.buckets // 2, 0)
            distance = np.abs(distance)
        else:
            buckets, first = self.buckets, np.zeros_like(distance)
            distance = np.maximum(-distance, 0)
        exact = buckets // 2
        ratio = np.log(np.maximum(distance, 1).astype(np.float32) / exact) / math.log(self.max_distance / exact)
        large = np.minimum(exact + (ratio * (buckets - exact)).astype(np.int64), buckets - 1)
        return first + np.where(distance < exact, distance, large)

    def bias(self, table: jax.Array, keys: int, position: jax.Array | None = None) -> jax.Array:
        """Return the attention bias of a row's queries, one for each key, or of one query (Raffel et al. 2020, section 2.1).

        Args:
          table: ``[buckets, heads]`` or ``[rows, buckets, heads]``.
          keys: number of keys.
          position: ``()`` int32 of the only query; None: one query for each key.

        Returns:
          ``[1 or rows, heads, keys, keys]``, or ``[1 or rows, heads, 1, keys]`` for one query.
        """
        distances = np.arange(-keys + 1, keys)  # [2 keys − 1]
        one_hot = np.eye(self.buckets, dtype=np.float32)[self.bucket(distances)]  # [2 keys − 1, buckets]
        # A matrix product instead of a look-up, whose gradient would be a slow scatter.
        strip = jnp.einsum("db,...bh->...hd", one_hot, table)
        strip = strip if strip.ndim == 3 else strip[None]  # [1 or rows, heads, 2 keys − 1]
        if position is not None:
            return jax.lax.dynamic_slice_in_dim(strip, keys - 1 - position, keys, axis=-1)[:, :, None]
        # Row q of the result is strip[keys − 1 − q : 2 keys − 1 − q]. Pad the strip to length 2 keys, repeat it, and reshape
        # into rows of 2 keys − 1: each row is then shifted by one element. Only pad, tile and reshape are used, so the
        # backward pass needs no scatter.
        padded = jnp.pad(strip, ((0, 0), (0, 0), (0, 1)))  # [1 or rows, heads, 2 keys]
        size = 2 * keys - 1
        lines = jnp.tile(padded, (1, 1, keys))[..., : keys * size]
        lines = lines.reshape(*strip.shape[:2], keys, size)  # [1 or rows, heads, keys, 2 keys − 1]
        return lines[..., keys - 1 :]
