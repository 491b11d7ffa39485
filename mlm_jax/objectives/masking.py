"""Dynamic masking on the device: which tokens are hidden, and by what.

Every row hides exactly ⌊rate · eligible⌋ tokens (whole units permitting), so that a gather of fixed capacity never
overflows, and the choice is made on the global batch, so that it does not depend on devices or microbatches.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlm_jax.batch import Rows
from mlm_jax.objectives.base import Context

LONGEST_UNIT = 10  # tokens; scripts without spaces would otherwise have sentences for words


class Masked(NamedTuple):
    """Rows with hidden tokens, and what was hidden.

    Attributes:
      rows: the corrupted rows.
      positions: ``[rows, capacity]`` int32 positions that are predicted.
      labels: ``[rows, capacity]`` int32 the tokens that stood there.
      chosen: ``[rows, capacity]`` bool; False where a row has fewer predictions than the capacity.
    """

    rows: Rows
    positions: jax.Array
    labels: jax.Array
    chosen: jax.Array


def mask_tokens(key: jax.Array, rows: Rows, context: Context, *, rate: float, unit: str = "token",
                mean_span: float = 3.0, keep: float = 0.1, replace: float = 0.1) -> Masked:  # fmt: skip
    """Hide tokens for masked language modelling (BERT's 80/10/10; Devlin et al. 2019).

    Args:
      key: a PRNG key; the same key hides the same tokens.
      rows: the global batch.
      context: names the special tokens, which are never chosen and never drawn.
      rate: share of each row's ordinary tokens to predict.
      unit: ``token`` | ``word`` (all pieces of a word together) | ``span`` (geometric lengths; Joshi et al. 2020).
      mean_span: mean length of a span, in tokens.
      keep: share of chosen tokens that stay as they are.
      replace: share of chosen tokens that become a random ordinary piece, drawn from the whole vocabulary.
    """
    choose_key, action_key, piece_key = jax.random.split(key, 3)
    special = jnp.asarray(context.special)
    eligible = (rows.segment_ids > 0) & ~special[rows.tokens]  # [rows, length]
    boundaries = unit_boundaries(choose_key, rows, context, unit=unit, mean_span=mean_span)
    positions, chosen = choose_units(choose_key, eligible, boundaries, rate)  # [rows, capacity] both
    labels = jnp.take_along_axis(rows.tokens, positions, axis=1)  # [rows, capacity]

    ordinary = jnp.asarray(np.flatnonzero(~context.special), jnp.int32)  # [ordinary pieces]
    drawn = ordinary[jax.random.randint(piece_key, labels.shape, 0, ordinary.size)]  # [rows, capacity]
    action = jax.random.uniform(action_key, labels.shape)
    corrupted = jnp.where(action < keep, labels, jnp.where(action < keep + replace, drawn, context.mask_id))
    # Positions that were not chosen get back what stands there, since they share the capacity with those that were.
    corrupted = jnp.where(chosen, corrupted, labels)
    tokens = jnp.put_along_axis(rows.tokens, positions, corrupted.astype(rows.tokens.dtype), axis=1, inplace=False)
    return Masked(rows._replace(tokens=tokens), positions, labels, chosen)


def unit_boundaries(key: jax.Array, rows: Rows, context: Context, *, unit: str, mean_span: float) -> jax.Array:
    """Return ``[rows, length]`` bool: where a unit that is hidden as a whole begins.

    Raises:
      ValueError: ``unit`` is not one of token, word, span.
    """
    shape = rows.tokens.shape
    if unit == "token":
        return jnp.ones(shape, bool)
    new_segment = jnp.diff(rows.segment_ids, axis=1, prepend=-1) != 0
    if unit == "span":
        starts = jax.random.bernoulli(jax.random.fold_in(key, 1), 1.0 / mean_span, shape)
    elif unit == "word":
        # A word piece that follows a special token begins a word even without a leading space.
        special = jnp.asarray(context.special)[rows.tokens]
        after_special = jnp.pad(special, ((0, 0), (1, 0)))[:, :-1]
        starts = jnp.asarray(context.word_starts)[rows.tokens] | special | after_special
    else:
        raise ValueError(f"unit must be token, word or span, not {unit!r}")
    starts = starts | new_segment
    index = jnp.arange(shape[1])
    begun = jax.lax.cummax(jnp.where(starts, index, 0), axis=1)  # [rows, length] where the current unit began
    return starts | ((index - begun) % LONGEST_UNIT == 0)


def choose_units(key: jax.Array, eligible: jax.Array, boundaries: jax.Array,
                 rate: float) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """Choose whole units at random until a row's budget ⌊rate · eligible⌋ is used up.

    Args:
      key: a PRNG key.
      eligible: ``[rows, length]`` bool, tokens that may be chosen.
      boundaries: ``[rows, length]`` bool, where a unit begins.
      rate: share of the eligible tokens to choose.

    Returns:
      positions and chosen, both ``[rows, ⌈rate · length⌉]``; positions are distinct within a row.
    """
    length = eligible.shape[1]
    capacity = max(1, math.ceil(rate * length))
    unit = jnp.cumsum(boundaries, axis=1) - 1  # [rows, length] index of each token's unit
    score = jnp.take_along_axis(jax.random.uniform(key, eligible.shape), unit, axis=1)  # one draw a unit
    order = jnp.argsort(jnp.where(eligible, score, 2.0), axis=1)  # [rows, length]; stable: units stay together
    ordered_unit = jnp.take_along_axis(jnp.where(eligible, unit, -1), order, axis=1)
    rank = jnp.arange(length)
    last_of_unit = jnp.diff(ordered_unit, axis=1, append=-2) != 0
    end = jax.lax.cummin(jnp.where(last_of_unit, rank, length), axis=1, reverse=True)  # rank of the unit's last token
    # A float32 product such as 0.3 · 10 may fall just short of a whole number: nudge it before the floor.
    budget = jnp.floor(rate * eligible.sum(axis=1, keepdims=True) + 1e-4)
    chosen = (end < budget) & (ordered_unit >= 0)
    return order[:, :capacity].astype(jnp.int32), chosen[:, :capacity]
