"""The base of all objectives: facts about the vocabulary, and sums and weights by language."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mlm_jax.common.errors import UserError, nearest
from mlm_jax.config.option import option, options_of
from mlm_jax.config.values import BadValue, Number
from mlm_jax.config.words import here
from mlm_jax.data.loading.batch import Rows, TaskBatch
from mlm_jax.objectives.traffic import Traffic

# {name: (numerator, denominator)}, each [languages] float32: sums that add up over microbatches, devices and steps;
# [rows, languages] if the context asks for sums of each row.
Metrics = dict[str, tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """Properties of the vocabulary and the run that objectives use.

    Attributes:
      vocabulary_size: number of pieces.
      special: ``[vocabulary]`` bool, pieces that are never masked and never drawn as replacements.
      word_starts: ``[vocabulary]`` bool, pieces that begin a word.
      mask_id: the mask piece; -1 if the vocabulary has none.
      pad_id: the piece of padding.
      eos_id: the piece that ends a document.
      sentinels: ids of the sentinel pieces, for span corruption.
      language_starts: ``[languages]`` piece that a decoder starts with in each language.
      prefixed: whether every stored document begins with such a piece.
      languages: number of languages of the run.
      normalize: ``per_language`` | ``per_language_mean`` | ``token``.
      z_loss: weight of log²Z.
      chunk: number of predicted positions of each row whose logits exist at once; 0 means as many as ``logits_bytes`` allow.
      logits_bytes: bytes that a device has for logits and their gradient, if ``chunk`` is 0.
      labels: {task with labels: names of its classes}, as far as they are known.
      by_row: whether metrics are summed row by row, as for evaluation, instead of over all rows.
    """

    vocabulary_size: int
    special: np.ndarray
    word_starts: np.ndarray
    mask_id: int
    pad_id: int
    eos_id: int
    sentinels: np.ndarray
    language_starts: np.ndarray
    languages: int
    prefixed: bool = True
    normalize: str = "per_language"
    z_loss: float = 0.0
    chunk: int = 0
    logits_bytes: float = math.inf
    labels: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    by_row: bool = False


@dataclasses.dataclass(frozen=True)
class Objective:
    """A training objective: a pure function of (model, batch, key), configured by its dataclass fields.

    ``prepare`` gets the global batch and draws all random numbers; ``loss`` is a weighted sum. The losses of an additive
    objective for parts of the rows add up to the loss of all rows, so microbatches do not change the loss.

    Attributes:
      task: the task's name, which is also the name of its head if it has one.
      same_language_rows: length of the runs of consecutive rows that share their languages. Language-indexed weights are
        gathered once for each run.
    """

    # Declarations that other packages read. The data:
    kind: ClassVar[str]  # of streams, one of data.store.manifest.FEATURES
    symmetric: ClassVar[bool] = False  # a pair gives the same loss in both directions, and is evaluated in one only
    per_token: ClassVar[bool] = False  # labels are of tokens, not of whole texts
    # Its use of the model:
    needs: ClassVar[str] = ""  # the part that a model must have: decoder | cross_lingual
    masks: ClassVar[bool] = False  # masks pieces, at a rate ``mask_rate`` that a curriculum may change
    writes: ClassVar[bool] = False  # trains the decoder to write a language
    embeds: ClassVar[bool] = False  # trains sentence embeddings
    mixes_languages: ClassVar[bool] = False  # a row holds several languages
    # What transformers calls the task's head: (end of the class's name, "problem_type" of config.json); None: it has no such head.
    published_head: ClassVar[tuple[str, str | None] | None] = None
    # How its losses are summed and evaluated:
    additive: ClassVar[bool] = True
    metric_names: ClassVar[tuple[str, ...]] = ("loss", "accuracy")

    task: str = ""
    same_language_rows: int = option(1, Number(1, whole=True), "consecutive rows that share one language and direction")

    def check_labels(self, name: str, classes: Sequence[str], per_token: bool) -> None:
        """Check that the objective can learn from a labelled set.

        Args:
          name: the name of the set.
          classes: the names of its classes.
          per_token: whether its labels are those of words, not of whole texts.

        Raises:
          UserError: it cannot.
        """
        if per_token != self.per_token:
            what, wanted = ("words", "token_classification") if per_token else ("whole texts", "classification")
            raise UserError(
                f"task {self.task!r} reads the labelled set {name!r}, which has labels of {what}",
                remedy=f"use objective {wanted!r} for this task, or name other sets in tasks.{self.task}.data",
            )

    def check_pieces(self, context: Context, length: int) -> None:
        """Check that the vocabulary has the special pieces that the objective needs.

        Args:
          context: the vocabulary and the languages.
          length: tokens of a row.

        Raises:
          UserError: it has too few of them.
        """

    def initial_memory(self, width: int) -> Any:
        """Return the initial memory of the objective, which is passed from step to step; None if it has no memory.

        Only objectives that are not additive may have a memory: their ``whole_loss`` takes it and returns the next one.
        """
        return None

    def traffic(self, examples: Any) -> Traffic:
        """Return the numbers of rows, positions and products that a step computes for these examples, to count FLOPs."""
        raise NotImplementedError

    def longest_row(self, length: int) -> int:
        """Return the number of tokens of the longest row that the model gets, if the task's rows have ``length`` tokens."""
        return length

    def at_step(self, step: Any) -> Objective:
        """Return the objective with the values of its options that change from step to step; ``step`` may be traced."""
        return self

    def prepare(self, batch: TaskBatch, key: jax.Array, context: Context) -> Any:
        """Return the examples of a global batch: a pytree of arrays whose first axis is rows."""
        raise NotImplementedError

    def loss(self, model: Any, examples: Any, context: Context, key: jax.Array | None) -> tuple[jax.Array, Metrics]:
        """Return the weighted sum over the rows of ``examples``, and metrics by language; ``key`` is for dropout."""
        raise NotImplementedError

    def whole_loss(
        self, model: Any, examples: Any, context: Context, key: jax.Array | None, parts: int, memory: Any
    ) -> tuple[jax.Array, Metrics, Any]:
        """Return ``loss`` of the whole global batch and the new memory; for objectives that are not additive.

        Args:
          model: as in ``loss``.
          examples: the examples of the whole global batch.
          context: as in ``loss``.
          key: as in ``loss``.
          parts: number of parts in which the rows are encoded one after the other, to save memory.
          memory: the memory that the last step returned; None if the objective has no memory.
        """
        raise NotImplementedError


def from_options(kind: type[Objective], options: Mapping[str, Any], task: str, others: Sequence[str]) -> Objective:
    """Make an objective from a task's options.

    Args:
      kind: the class of the objective.
      options: the options of the task that belong to the objective.
      task: the name of the task.
      others: options that every task has.

    Raises:
      BadValue: an option does not exist (the message names the nearest one), or its value is invalid.
    """
    known = options_of(kind)
    for name, value in options.items():
        if name not in known:
            meant = nearest(name, [*known, *others]) or here(name, task)
            problem = f"tasks.{task} has no option {name!r}{meant}"
            raise BadValue(f"tasks.{task}.{name}", problem, f"its options are {', '.join([*others, *known])}")
        known[name].kind.check(f"tasks.{task}.{name}", value)
    return kind(task=task, **options)


def in_parts(rows: Any, parts: int, run_length: int) -> Any:
    """Return a tree of ``[rows, …]`` arrays as ``[parts, rows / parts, …]``.

    Run r, of ``run_length`` rows, goes to part r mod parts, so that every part has rows of every device, and no row is moved to
    another device.
    """

    def split(x: jax.Array) -> jax.Array:
        runs = x.reshape(-1, parts, run_length, *x.shape[1:])
        return jnp.moveaxis(runs, 1, 0).reshape(parts, -1, *x.shape[1:])

    return jax.tree.map(split, rows)


def language_weights(counts: jax.Array, language: jax.Array, context: Context) -> jax.Array:
    """Return the weight of one prediction in each row.

    The weighted sum of losses is L = Σ_l (1/N_l) Σ_i −log P(x_i | x_∖i), with N_l counted over the global batch.

    Args:
      counts: ``[rows]`` predictions in each row.
      language: ``[rows]`` language of each row.
      context: ``normalize`` chooses 1/N_l, 1/(N_l · languages present) or 1/ΣN.

    Returns:
      ``[rows]`` float32; a language without predictions contributes 0.
    """
    per_language = jax.ops.segment_sum(counts.astype(jnp.float32), language, context.languages)  # [languages]
    if context.normalize == "token":
        return jnp.broadcast_to(1.0 / jnp.maximum(per_language.sum(), 1.0), language.shape)
    weights = 1.0 / jnp.maximum(per_language, 1.0)
    if context.normalize == "per_language_mean":
        weights = weights / jnp.maximum((per_language > 0).sum(), 1)
    return weights[language]


def sum_by_language(values: jax.Array, language: jax.Array, context: Context) -> jax.Array:
    """Sum ``[rows]`` or ``[rows, positions]`` values by language; every objective sums its metrics with this function.

    Args:
      values: the values to sum.
      language: the language of each value, in the same shape.
      context: of the run.

    Returns:
      ``[languages]`` float32, or ``[rows, languages]`` if ``context.by_row``.
    """
    values = values.astype(jnp.float32)
    if not context.by_row:
        return jax.ops.segment_sum(values.ravel(), language.ravel(), context.languages)
    rows = values.shape[0]
    slot = jnp.arange(rows)[:, None] * context.languages + language.reshape(rows, -1)  # [rows, positions]
    sums = jax.ops.segment_sum(values.ravel(), slot.ravel(), rows * context.languages)
    return sums.reshape(rows, context.languages)


def means_by_language(
    values: Mapping[str, jax.Array], real: jax.Array, language: jax.Array, context: Context
) -> Metrics:
    """Return the mean of each value over the predictions that exist, by language.

    Args:
      values: {metric: value of each prediction}, ``[rows]`` or ``[rows, positions]``.
      real: which predictions exist, bool in the same shape.
      language: ``[rows]`` language of each row, or that of each prediction.
      context: the context of the run.
    """
    language = jnp.broadcast_to(language.reshape(language.shape + (1,) * (real.ndim - language.ndim)), real.shape)
    count = sum_by_language(real, language, context)
    return {name: (sum_by_language(value * real, language, context), count) for name, value in values.items()}


def concatenate_rows(first: Rows, second: Rows) -> Rows:
    """Stack two sets of rows of the same length: ``[a + b, length]``."""
    return Rows(*(jnp.concatenate(pair) for pair in zip(first, second)))


def mean_weights(count: jax.Array, like: jax.Array) -> jax.Array:
    """Return weights 1/count in the shape of ``like``, 0 for a count of 0."""
    return jnp.broadcast_to(1.0 / jnp.maximum(count.astype(jnp.float32), 1.0), like.shape)
