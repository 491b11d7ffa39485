"""Where a token is: rotary positions, and T5's buckets of distances."""

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
    """Turn ``[rows, length, heads, head_dim]``; dimension i is paired with i + head_dim / 2, as in GPT-NeoX.

    The gradient turns back. Halves stay in one array, and JAX does not derive the gradient itself, because TPUs pad every
    array whose last axis is shorter than 128: two halves of 32 took twice the time (docs/scale.md).
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
    """T5's relative position bias: how distances fall into buckets.

    Attributes:
      buckets: rows of the table of biases.
      max_distance: from here on all distances share a bucket.
      bidirectional: whether keys after the query have buckets of their own (encoders).
    """

    buckets: int
    max_distance: int
    bidirectional: bool

    @classmethod
    def of(cls, config: ConfigDict, *, bidirectional: bool) -> Relative | None:
        """Return what ``config.model`` says, or None where positions are not relative."""
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
        """Return the attention bias of as many queries as keys (Raffel et al. 2020, section 2.1).

        Args:
          table: ``[(rows,) buckets, heads]``.
          keys: how many.
          position: ``()`` int32, of the only query; None is all of them.

        Returns:
          ``[1 or rows, heads, keys, keys]``, or ``[1 or rows, heads, 1, keys]`` for one query.
        """
        one_hot = np.eye(self.buckets, dtype=np.float32)[self.bucket(np.arange(-keys + 1, keys))]
        # A matmul, and not a look-up: the gradient of a look-up is a slow scatter.
        strip = jnp.einsum("db,...bh->...hd", one_hot, table)  # of the distances 1 − keys … keys − 1
        strip = strip if strip.ndim == 3 else strip[None]  # [1 or rows, heads, 2 keys − 1]
        if position is not None:
            return jax.lax.dynamic_slice_in_dim(strip, keys - 1 - position, keys, axis=-1)[:, :, None]
        # Line q of the result is the strip from keys − 1 − q on. Writing the strip, padded by one, over and over into
        # lines one shorter than itself moves it on by one from line to line: again no scatter backwards.
        size = 2 * keys
        lines = jnp.tile(jnp.pad(strip, ((0, 0), (0, 0), (0, 1))), (1, 1, keys))[..., : keys * (size - 1)]
        return lines.reshape(*strip.shape[:2], keys, size - 1)[..., keys - 1 :]
