"""Dynamic masking on the device: the choice of tokens to mask, and their replacements.

In every row exactly ⌊rate · eligible⌋ tokens are masked (or as many whole words as fit into that number), so that a gather of
fixed capacity never overflows. The choice is made on the global batch, so it does not depend on devices or microbatches. The
mask rate and other options of masking are declared here, with their bounds (:class:`Masking`).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlm_jax.config.option import option
from mlm_jax.config.values import ABOVE_ZERO, BadValue, Number, choice
from mlm_jax.data.loading.batch import Rows
from mlm_jax.objectives.base import Context, Objective

UNITS = ("token", "word", "span")  # units that are masked together
LONGEST_WORD = 10  # tokens; without this limit, whole sentences would be words in scripts without spaces


class Masked(NamedTuple):
    """Rows with masked tokens, and the original tokens.

    Attributes:
      rows: the corrupted rows.
      positions: ``[rows, capacity]`` int32 positions that are predicted.
      labels: ``[rows, capacity]`` int32 original tokens at these positions.
      chosen: ``[rows, capacity]`` bool; False for the unused part of the capacity.
    """

    rows: Rows
    positions: jax.Array
    labels: jax.Array
    chosen: jax.Array


@dataclasses.dataclass(frozen=True)
class Line:
    """A mask rate that changes by the same amount each step.

    Attributes:
      first, last: the rate in the first and in the last step.
      start, stop: the first and the last step.
      step: the current step (traced); None: no particular step, so that the highest rate is used.
    """

    first: float
    last: float
    start: int
    stop: int
    step: Any = None

    @property
    def most(self) -> float:
        """The highest rate."""
        return max(self.first, self.last)

    @property
    def now(self) -> Any:
        """The rate in ``step``."""
        if self.step is None:
            return self.most
        return jnp.interp(self.step, jnp.array([self.start, self.stop]), jnp.array([self.first, self.last]))


@dataclasses.dataclass(frozen=True)
class Masking(Objective):
    """An objective that masks tokens: its options, with their bounds.

    Raises:
      BadValue: the sum of ``keep`` and ``replace`` is more than 1.
    """

    masks: ClassVar[bool] = True
    mask_rate: float | Line = option(0.3, Number(ABOVE_ZERO, 1), "share of each row's ordinary tokens to predict")
    unit: str = option("token", choice(*UNITS), "the unit that is masked as a whole")
    mean_span: float = option(3.0, Number(1), "mean length of a span, in tokens")
    keep: float = option(0.1, Number(0, 1), "share of the chosen tokens that are left as they are")
    replace: float = option(0.1, Number(0, 1), "share of the chosen tokens that become a random piece")

    def __post_init__(self) -> None:
        if self.keep + self.replace > 1:
            key = f"tasks.{self.task}.keep"
            raise BadValue(
                key, f"the sum of {key}={self.keep} and replace={self.replace} is more than 1", "BERT has 0.1 and 0.1"
            )

    def at_step(self, step: Any) -> Masking:
        """Return the objective with the mask rate of a step."""
        if not isinstance(self.mask_rate, Line):
            return self
        return dataclasses.replace(self, mask_rate=dataclasses.replace(self.mask_rate, step=step))

    def mask(self, key: jax.Array, rows: Any, context: Context) -> Masked:
        """Mask tokens of ``rows`` with the options of the task."""
        return mask_tokens(
            key,
            rows,
            context,
            rate=self.mask_rate,
            unit=self.unit,
            mean_span=self.mean_span,
            keep=self.keep,
            replace=self.replace,
        )


def mask_tokens(
    key: jax.Array,
    rows: Rows,
    context: Context,
    *,
    rate: float | Line,
    unit: str = "token",
    mean_span: float = 3.0,
    keep: float = 0.1,
    replace: float = 0.1,
) -> Masked:
    """Mask tokens for masked language modelling (BERT's 80/10/10; Devlin et al. 2019).

    Args:
      key: a PRNG key; the same key masks the same tokens.
      rows: the global batch.
      context: has the special tokens, which are never chosen and never drawn.
      rate: share of each row's ordinary tokens to predict.
      unit: ``token`` | ``word`` (all pieces of a word together) | ``span`` (geometric lengths; Joshi et al. 2020; the last
        span of a row is cut where its budget ends).
      mean_span: mean length of a span, in tokens.
      keep: share of chosen tokens that stay as they are.
      replace: share of chosen tokens that become a random ordinary piece, drawn from the whole vocabulary.
    """
    choose_key, action_key, piece_key = jax.random.split(key, 3)
    special = jnp.asarray(context.special)
    eligible = (rows.segment_ids > 0) & ~special[rows.tokens]  # [rows, length]
    boundaries = unit_boundaries(choose_key, rows, context, unit=unit, mean_span=mean_span)
    positions, chosen = choose_units(
        choose_key, eligible, boundaries, rate, whole=unit == "word"
    )  # [rows, capacity] both
    labels = jnp.take_along_axis(rows.tokens, positions, axis=1)  # [rows, capacity]

    ordinary = jnp.asarray(np.flatnonzero(~context.special), jnp.int32)  # [ordinary pieces]
    drawn = ordinary[jax.random.randint(piece_key, labels.shape, 0, ordinary.size)]  # [rows, capacity]
    action = jax.random.uniform(action_key, labels.shape)
    corrupted = jnp.where(action < keep, labels, jnp.where(action < keep + replace, drawn, context.mask_id))
    # The capacity also contains positions that were not chosen: they get their own token again.
    corrupted = jnp.where(chosen, corrupted, labels)
    tokens = jnp.put_along_axis(rows.tokens, positions, corrupted.astype(rows.tokens.dtype), axis=1, inplace=False)
    return Masked(rows._replace(tokens=tokens), positions, labels, chosen)


def unit_boundaries(key: jax.Array, rows: Rows, context: Context, *, unit: str, mean_span: float) -> jax.Array:
    """Return ``[rows, length]`` bool: the positions at which a unit begins; a unit is masked as a whole.

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
    if unit == "span":
        return starts
    index = jnp.arange(shape[1])
    begun = jax.lax.cummax(jnp.where(starts, index, 0), axis=1)  # [rows, length] where the current word began
    return starts | ((index - begun) % LONGEST_WORD == 0)


def choose_units(
    key: jax.Array, eligible: jax.Array, boundaries: jax.Array, rate: float | Line, *, whole: bool
) -> tuple[jax.Array, jax.Array]:
    """Choose units in random order until a row's budget ⌊rate · eligible⌋ is used up.

    Args:
      key: a PRNG key.
      eligible: ``[rows, length]`` bool, tokens that may be chosen.
      boundaries: ``[rows, length]`` bool, where a unit begins.
      rate: share of the eligible tokens to choose.
      whole: whether a unit that does not fit into the rest of the budget is skipped; otherwise it is cut.

    Returns:
      positions and chosen, both ``[rows, ⌈highest rate · length⌉]``; positions are distinct within a row.
    """
    length = eligible.shape[1]
    most, now = (rate.most, rate.now) if isinstance(rate, Line) else (rate, rate)
    capacity = max(1, math.ceil(most * length))
    unit = jnp.cumsum(boundaries, axis=1) - 1  # [rows, length] index of each token's unit
    score = jnp.take_along_axis(jax.random.uniform(key, eligible.shape), unit, axis=1)  # one draw a unit
    order = jnp.argsort(jnp.where(eligible, score, 2.0), axis=1)  # [rows, length]; stable: units stay together
    # A float32 product such as 0.3 · 10 may be slightly below an integer: increase it a little before the floor.
    budget = jnp.floor(now * eligible.sum(axis=1, keepdims=True) + 1e-4).astype(jnp.int32)
    rank = jnp.arange(length)
    if whole:
        ordered_unit = jnp.take_along_axis(jnp.where(eligible, unit, -1), order, axis=1)
        chosen = fitting(ordered_unit, budget)
        first = jnp.argsort(~chosen, axis=1)  # stable: chosen positions come first
        order, chosen = jnp.take_along_axis(order, first, axis=1), rank < chosen.sum(axis=1, keepdims=True)
    else:
        chosen = rank < budget
    return order[:, :capacity].astype(jnp.int32), chosen[:, :capacity]


def fitting(unit: jax.Array, budget: jax.Array) -> jax.Array:
    """Return the tokens of the units that are taken, if units are taken in order and each must fit into the remaining budget.

    Args:
      unit: ``[rows, length]`` each token's unit; the tokens of a unit are consecutive; −1 is never taken.
      budget: ``[rows, 1]`` tokens.

    Returns:
      ``[rows, length]`` bool.
    """
    rank = jnp.arange(unit.shape[1])
    first_of_unit = jnp.diff(unit, axis=1, prepend=-2) != 0
    last_of_unit = jnp.diff(unit, axis=1, append=-2) != 0
    begin = jax.lax.cummax(jnp.where(first_of_unit, rank, 0), axis=1)
    end = jax.lax.cummin(jnp.where(last_of_unit, rank, unit.shape[1]), axis=1, reverse=True)
    size = end - begin + 1  # [rows, length] tokens of each token's unit

    def left(taken: jax.Array) -> jax.Array:
        return budget - taken.sum(axis=1, keepdims=True)

    def open_after(taken: jax.Array) -> jax.Array:
        return ~taken & (unit >= 0) & (size <= left(taken))  # units that can still be taken

    # Each round takes consecutive units that fit, and at least one. After the first round, the remaining budget is smaller than the
    # next unit, so there are at most LONGEST_WORD rounds.
    def one_round(taken: jax.Array) -> jax.Array:
        candidate = open_after(taken)
        total = jnp.cumsum(candidate, axis=1) + end - rank  # up to the last token of the unit
        return taken | (candidate & (total <= left(taken)))

    return jax.lax.while_loop(lambda taken: open_after(taken).any(), one_round, jnp.zeros(unit.shape, bool))
