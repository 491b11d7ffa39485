"""A character encoder in CANINE's manner (Clark et al. 2022): few positions for many characters.

Tokens are characters, or bytes. Embeddings of hashed n-grams are added to those of the characters, and a layer with a
window mixes neighbours. A strided convolution then makes one position (a slot) out of every ``r`` characters, and the
encoder's layers run on the slots. At the end, each character gets the hidden state of its slot, concatenated with its own
from the first layer.

Rows are packed, so a slot may hold the end of one document and the beginning of the next. It then belongs to the later
document, and the convolution leaves out the characters of the earlier one, which at the end get the hidden state of the
slot before. A document sees nothing of another one, but its hidden states depend on where in a slot it begins.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from mlm_jax.config.together import CHARACTER_HASHES
from mlm_jax.data.loading.batch import Rows
from mlm_jax.model.block import Block, Scope
from mlm_jax.model.layers import Norm, activation_of, pad_length
from mlm_jax.model.parameters import parameter
from mlm_jax.model.stack import rematerialise

HASHES, BUCKETS = CHARACTER_HASHES, 2**14  # of CANINE
LONGEST = 4  # characters of the longest n-gram, or bytes (a character has at most 4 in UTF-8); single ones have a table
# Odd multipliers: the upper bits of a product with one are a universal hash (Dietzfelbinger et al. 1997).
ROLL = 0x9E3779B1
MULTIPLIERS = (0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F, 0x165667B1, 0xD3A2646D, 0xFD7046C5, 0xB55A4F09, 0x8DA6B343)


class Slots(NamedTuple):
    """Rows at the coarse level: ``slots`` = ⌈length / r⌉.

    Attributes:
      hidden: ``[rows, slots, width]``.
      segment_ids: ``[rows, slots]``; 0 is padding.
      positions: ``[rows, slots]``, counted in slots from each document's first.
    """

    hidden: jax.Array
    segment_ids: jax.Array
    positions: jax.Array


class CharacterEncoder(nnx.Module):
    """The layers before and after the encoder's layers in a model of characters.

    Args:
      config: ``config.model``; ``character_downsampling`` is r.
      rngs: the random number generators of the initial weights.
    """

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        self.rate, self.remat, width = config.character_downsampling, config.remat, config.width
        each = {"hashes": HASHES, "positions": BUCKETS, "embed": width // HASHES}
        self.hashes = parameter(rngs, "table", each, config.initializer_stddev)
        self.first, self.last = Block(config, rngs=rngs), Block(config, rngs=rngs)
        self.down = Convolution(config, width, rngs=rngs)
        self.down_norm = Norm(config, rngs=rngs)
        self.up = Convolution(config, 2 * width, rngs=rngs)
        self.up_norm = Norm(config, rngs=rngs)
        self.activation = activation_of(config)

    def n_grams(self, rows: Rows) -> jax.Array:
        """Return ``[rows, length, width]`` float32: the summed embeddings of the n-grams (n = 2 … 4) that begin there."""
        table, shape = self.hashes[...], (*rows.tokens.shape, -1)  # [hashes, buckets, width / hashes]
        found = n_gram_buckets(rows.tokens, rows.segment_ids)  # of [rows, length, hashes]
        return jnp.stack([table[jnp.arange(HASHES), buckets].reshape(shape) for buckets in found]).sum(axis=0)

    def downsample(self, x: jax.Array, rows: Rows, scope: Scope, key: jax.Array | None) -> tuple[jax.Array, Slots]:
        """Return the characters after the first layer ``[rows, length, width]``, and the slots made of them.

        Args:
          x: ``[rows, length, width]`` embeddings.
          rows: the tokens that were embedded.
          scope: what layers of characters see.
          key: the random key of dropout, or None.
        """
        fine = self._block(self.first, x, scope, key)
        segments = _fold(rows.segment_ids, self.rate)  # [rows, slots, r]
        owner = segments.max(axis=-1)  # [rows, slots]
        own = segments == owner[..., None]  # [rows, slots, r]
        start = jnp.where(own, _fold(rows.positions, self.rate), jnp.iinfo(jnp.int32).max).min(axis=-1)
        hidden = self.down.strided(jnp.where(own[..., None], _fold(fine, self.rate), 0))  # [rows, slots, width]
        return fine, Slots(self.down_norm(self.activation(hidden)), owner, -(-start // self.rate))

    def upsample(self, fine: jax.Array, slots: Slots, scope: Scope, key: jax.Array | None) -> jax.Array:
        """Return ``[rows, length, width]``: characters, each with the hidden state of its slot.

        Args:
          fine: the characters that :meth:`downsample` returned.
          slots: the slots that it returned, after the encoder's layers.
          scope: what layers of characters see.
          key: the random key of dropout, or None.
        """
        length, segments = fine.shape[1], scope.segment_ids

        def spread(leaf: jax.Array) -> jax.Array:  # [rows, slots, …] → [rows, length, …]
            return jnp.repeat(leaf, self.rate, axis=1)[:, :length]

        def earlier(leaf: jax.Array) -> jax.Array:  # the slot before each
            return shift(leaf, -1)

        in_own = (segments == spread(slots.segment_ids))[..., None]
        in_last = (segments == spread(earlier(slots.segment_ids)))[..., None]
        coarse = jnp.where(in_last, spread(earlier(slots.hidden)), 0)
        coarse = jnp.where(in_own, spread(slots.hidden), coarse)  # [rows, length, width]
        both = self.up.same(jnp.concatenate([fine, coarse], axis=-1), segments)  # [rows, length, width]
        return self._block(self.last, self.up_norm(self.activation(both)), scope, key)

    def _block(self, block: Block, x: jax.Array, scope: Scope, key: jax.Array | None) -> jax.Array:
        graphdef, weights = nnx.split(block)

        def run(weights: Any, x: jax.Array, key: jax.Array | None) -> jax.Array:
            return nnx.merge(graphdef, weights)(x, scope, see_all=False, key=key)

        return rematerialise(run, self.remat)(weights, x, key)


class Convolution(nnx.Module):
    """A convolution over ``r`` characters; kernel ``[r, inputs, width]``, in the order of the text."""

    def __init__(self, config: ConfigDict, inputs: int, *, rngs: nnx.Rngs):
        size, width = config.character_downsampling, config.width
        axes = {"positions": size, "embed": inputs, "activation_embed": width}
        self.kernel = parameter(rngs, "kernel", axes, config.initializer_stddev)
        self.bias = parameter(rngs, "bias", {"norm": width})

    def strided(self, slots: jax.Array) -> jax.Array:
        """Return ``[rows, slots, width]`` of ``[rows, slots, r, inputs]``."""
        kernel, bias = self.kernel[...].astype(slots.dtype), self.bias[...].astype(slots.dtype)
        return jnp.einsum("rsci,ciw->rsw", slots, kernel) + bias

    def same(self, x: jax.Array, segment_ids: jax.Array) -> jax.Array:
        """Return ``[rows, length, width]`` of ``[rows, length, inputs]``; a window ends where its document ends."""
        kernel, bias = self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        size = kernel.shape[0]
        total = jnp.broadcast_to(bias, (*x.shape[:2], kernel.shape[2]))
        for tap in range(size):
            ahead = tap - (size - 1) // 2
            same = shift(segment_ids, ahead) == segment_ids
            total = total + jnp.where(same[..., None], shift(x, ahead), 0) @ kernel[tap]
        return total


def n_gram_buckets(tokens: jax.Array, segment_ids: jax.Array) -> list[jax.Array]:
    """Return the buckets ``[rows, length, hashes]`` of the 2-, 3- and 4-grams that begin at each token.

    Args:
      tokens: ``[rows, length]`` int32.
      segment_ids: ``[rows, length]``. Tokens after a document's end count as zeros in its n-grams.
    """
    rolled = tokens.astype(jnp.uint32) + 1
    found = []
    for ahead in range(1, LONGEST):
        here = shift(segment_ids, ahead) == segment_ids
        rolled = rolled * jnp.uint32(ROLL) + jnp.where(here, shift(tokens, ahead).astype(jnp.uint32) + 1, 0)
        mixed = (rolled ^ (rolled >> 16))[..., None] * jnp.asarray(MULTIPLIERS, jnp.uint32)
        found.append((mixed >> (32 - BUCKETS.bit_length() + 1)).astype(jnp.int32))
    return found


def shift(x: jax.Array, ahead: int) -> jax.Array:
    """Return ``x[:, i + ahead]`` at each i, and zeros (the segment of padding) beyond the ends of a row."""
    before, after = max(-ahead, 0), max(ahead, 0)
    return pad_length(x, before, after)[:, after : after + x.shape[1]]


def _fold(x: jax.Array, size: int) -> jax.Array:
    """Return ``[rows, slots, size, …]`` of ``[rows, length, …]``, padded with zeros."""
    return pad_length(x, 0, -x.shape[1] % size).reshape(x.shape[0], -1, size, *x.shape[2:])
