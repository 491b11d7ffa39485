"""Held-out loss, accuracy and bits per byte, per language and averaged.

A row's masks are drawn from a key that depends only on the row's index. So every evaluation masks the same tokens, whatever
the size of its batches.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mlm_jax.data.loading.batch import TaskBatch
from mlm_jax.objectives import Context, Metrics, Objective
from mlm_jax.parallel.memory import Fitting

# {metric: (numerator [languages], denominator [languages])} in float64, summed over rows.
Sums = dict[str, tuple[np.ndarray, np.ndarray]]
MACRO = "mean"  # average over languages: each counts the same
MICRO = "micro"  # average over predictions: each counts the same
SEED = 0  # of the masks; the same for all runs, so that they can be compared
AHEAD = 4  # batches that the device may be ahead of the host


class Columns(NamedTuple):
    """Sums of the rows of a batch, for the languages in the batch: ``[rows, languages]`` float32 each."""

    languages: np.ndarray
    numerator: np.ndarray
    denominator: np.ndarray

    @classmethod
    def of(cls, numerator: np.ndarray, denominator: np.ndarray) -> Columns:
        """Return the columns that are not empty."""
        languages = np.flatnonzero((denominator > 0).any(axis=0))
        return cls(languages, numerator[:, languages], denominator[:, languages])


RowSums = dict[str, list[Columns]]  # {metric: of each batch}


def make_batch_metrics(
    model_of: Callable[[Any], Any], objective: Objective, context: Context, mesh: Mesh | None = None
) -> Fitting:
    """Return a function (parameters, batch, index of the batch) → metrics of each row, compiled once for each shape of batch.

    Args:
      model_of: parameters → model, such as ``program.model``.
      objective: the objective to evaluate.
      context: facts about the vocabulary.
      mesh: the mesh of parameters and batches; metrics are whole on each of its devices.
    """
    context = dataclasses.replace(context, by_row=True)

    def prepare(batch: TaskBatch, number: jax.Array) -> Any:
        row = jnp.arange(len(batch["inputs"].language))
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(SEED), number * len(row) + row)
        alone = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:, None], batch)  # [rows, 1, …]
        examples = jax.vmap(lambda one, key: objective.prepare(one, key, context))(alone, keys)
        return jax.tree.map(lambda leaf: leaf[:, 0], examples)

    def batch_metrics(params: Any, batch: TaskBatch, number: jax.Array) -> Metrics:
        # prepare() weights each row as a separate batch. Only the metrics are used, which have no such weights.
        examples = prepare(batch, number)
        return objective.loss(model_of(params), examples, context, None)[1]

    whole = None if mesh is None else NamedSharding(mesh, P())
    return Fitting(jax.jit(batch_metrics, out_shardings=whole), "evaluating", mesh)


def evaluate_rows(
    batch_metrics: Callable[[Any, TaskBatch, np.int32], Metrics], params: Any, batches: Iterable[TaskBatch]
) -> RowSums:
    """Return an objective's metrics as sums over the positions of each held-out row.

    Args:
      batch_metrics: from :func:`make_batch_metrics`.
      params: the model's parameters.
      batches: global batches; batches of equal shapes are compiled once.
    """
    waiting: list[Metrics] = []
    found: RowSums = {}

    def take() -> None:
        for name, parts in jax.device_get(waiting.pop(0)).items():
            # [rows, languages]; an objective that does not sum row by row gives one sum for the batch
            numerator, denominator = (np.atleast_2d(np.asarray(part, np.float32)) for part in parts)
            found.setdefault(name, []).append(Columns.of(numerator, denominator))

    for number, batch in enumerate(batches):
        waiting.append(batch_metrics(params, batch, np.int32(number)))
        if len(waiting) > AHEAD:
            take()
    while waiting:
        take()
    return found


def totals(found: RowSums, languages: int) -> Sums:
    """Return the sums over all rows; {} without rows.

    Args:
      found: from :func:`evaluate_rows`.
      languages: number of languages.
    """
    sums: Sums = {}
    for name, parts in found.items():
        sums[name] = (np.zeros(languages), np.zeros(languages))
        for part in parts:
            for whole, rows in zip(sums[name], (part.numerator, part.denominator)):
                whole[part.languages] += rows.sum(axis=0, dtype=np.float64)
    return sums


def rows_of(parts: Sequence[Columns], language: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a metric's (numerators, denominators) of one language, ``[rows]`` each, 0 in rows without that language."""
    sides: tuple[list, list] = ([], [])
    for part in parts:
        where = np.flatnonzero(part.languages == language)
        for side, rows in zip(sides, (part.numerator, part.denominator)):
            side.append(rows[:, where[0]] if len(where) else np.zeros(len(rows), np.float32))
    return np.concatenate(sides[0]), np.concatenate(sides[1])


def add_sums(first: Sums, second: Sums) -> Sums:
    """Add the sums of some rows to those of others."""
    return {
        name: (first[name][0] + second[name][0], first[name][1] + second[name][1])
        if name in first and name in second
        else parts
        for name, parts in {**second, **first}.items()
    }


def language_metrics(sums: Sums, languages: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return {metric: {language: value}} with the averages ``mean`` (macro) and ``micro``.

    Languages without observations are left out, also of the macro average.

    Args:
      sums: from :func:`totals`.
      languages: language codes in index order.
    """
    metrics = {}
    for name, (numerator, denominator) in sums.items():
        seen = denominator > 0
        if not seen.any():
            continue
        values = {code: float(numerator[i] / denominator[i]) for i, code in enumerate(languages) if seen[i]}
        values[MACRO] = sum(values.values()) / len(values)
        values[MICRO] = float(numerator[seen].sum() / denominator[seen].sum())
        metrics[name] = values
    return metrics


def bits_per_byte(loss: float, tokens: int, byte_count: int) -> float:
    """Return loss / ln 2 · tokens / bytes: bits per byte if every token cost as much as a masked one.

    Use it to compare vocabularies: with larger pieces the loss per token rises, but there are fewer tokens per byte. For
    masked language modelling it is not a code length, because the prediction of a masked token depends on the other tokens:
    compare it only at the same mask rate.

    Args:
      loss: mean −log P of masked tokens, in nats.
      tokens: ordinary tokens (no prefix, no end of document) of the held-out text.
      byte_count: UTF-8 bytes of that text.

    Raises:
      ValueError: a text without bytes.
    """
    if byte_count <= 0:
        raise ValueError("bits per byte are not defined for a text without bytes")
    return loss / math.log(2) * tokens / byte_count


def bits_per_byte_by_language(losses: Mapping[str, float], sizes: Mapping[str, tuple[int, int]]) -> dict[str, float]:
    """Return {language: bits per byte} with ``mean`` over languages and ``micro`` over all bytes.

    Args:
      losses: {language: nats a masked token}; averages among them are ignored.
      sizes: {language: (ordinary tokens, UTF-8 bytes) of the held-out text}.
    """
    sized = {code: loss for code, loss in losses.items() if code in sizes and sizes[code][1] > 0}
    if not sized:
        return {}
    values = {code: bits_per_byte(loss, *sizes[code]) for code, loss in sized.items()}
    total = sum(sizes[code][1] for code in sized)
    micro = sum(values[code] * sizes[code][1] for code in sized) / total
    return {**values, MACRO: sum(values.values()) / len(values), MICRO: micro}


def flatten(metrics: Mapping[str, Mapping[str, float]], prefix: str = "eval") -> dict[str, float]:
    """Return {"eval/loss/de": value, …} as ``metrics.jsonl`` holds it."""
    return {f"{prefix}/{name}/{code}": value for name, values in metrics.items() for code, value in values.items()}
