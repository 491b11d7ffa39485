"""Held-out loss, accuracy and bits per byte, per language and averaged.

A row's masks are drawn from a key that depends only on the row's index. So every evaluation masks the same tokens, whatever
the size of its batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mlm_jax.data.loading.batch import TaskBatch
from mlm_jax.objectives import Context, Metrics, Objective

# {metric: (numerator [languages], denominator [languages])} in float64, summed over batches.
Sums = dict[str, tuple[np.ndarray, np.ndarray]]
MACRO = "mean"  # average over languages: each counts the same
MICRO = "micro"  # average over predictions: each counts the same
SEED = 0  # of the masks; the same for all runs, so that they can be compared


def make_measure(
    model_of: Callable[[Any], Any], objective: Objective, context: Context, mesh: Mesh | None = None
) -> Callable[[Any, TaskBatch, int], Metrics]:
    """Return a function (parameters, batch, index of the batch) → metrics, compiled once for each shape of batch.

    Args:
      model_of: parameters → model, such as ``program.model``.
      objective: to evaluate.
      context: facts about the vocabulary.
      mesh: the mesh of parameters and batches; metrics are whole on each of its devices.
    """

    def prepare(batch: TaskBatch, number: jax.Array) -> Any:
        row = jnp.arange(len(batch["inputs"].language))
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(SEED), number * len(row) + row)
        alone = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:, None], batch)  # [rows, 1, …]
        examples = jax.vmap(lambda one, key: objective.prepare(one, key, context))(alone, keys)
        return jax.tree.map(lambda leaf: leaf[:, 0], examples)

    def measure(params: Any, batch: TaskBatch, number: jax.Array) -> Metrics:
        # prepare() weighs each row as a batch of its own. Only the metrics are used, which have no such weights.
        examples = prepare(batch, number)
        return objective.loss(model_of(params), examples, context, None)[1]

    if mesh is None:
        return jax.jit(measure)
    jitted = jax.jit(measure, out_shardings=NamedSharding(mesh, P()))

    def on_mesh(params: Any, batch: TaskBatch, number: int) -> Metrics:
        with jax.set_mesh(mesh):
            return jitted(params, batch, number)

    return on_mesh


def evaluate_task(measure: Callable[[Any, TaskBatch, int], Metrics], params: Any, batches: Iterable[TaskBatch]) -> Sums:
    """Sum an objective's metrics over held-out batches.

    Args:
      measure: from :func:`make_measure`.
      params: the model's parameters.
      batches: global batches; batches of equal shapes are compiled once.

    Returns:
      {metric: (numerator ``[languages]``, denominator ``[languages]``)}; {} without batches.
    """
    measured = [measure(params, batch, number) for number, batch in enumerate(batches)]  # the device runs ahead
    sums: Sums = {}
    for metrics in jax.device_get(measured):
        sums = add_sums(sums, jax.tree.map(lambda part: np.asarray(part, np.float64), metrics))
    return sums


def add_sums(first: Sums, second: Sums) -> Sums:
    """Add the sums of some batches to those of others."""
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
      sums: from :func:`evaluate_task`.
      languages: codes in index order.
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
    masked language modelling it is not a code length, since each masked token sees the others: compare it only at the same
    mask rate.

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
    measured = {code: loss for code, loss in losses.items() if code in sizes and sizes[code][1] > 0}
    if not measured:
        return {}
    values = {code: bits_per_byte(loss, *sizes[code]) for code, loss in measured.items()}
    total = sum(sizes[code][1] for code in measured)
    micro = sum(values[code] * sizes[code][1] for code in measured) / total
    return {**values, MACRO: sum(values.values()) / len(values), MICRO: micro}


def flatten(metrics: Mapping[str, Mapping[str, float]], prefix: str = "eval") -> dict[str, float]:
    """Return {"eval/loss/de": value, …} as ``metrics.jsonl`` holds it."""
    return {f"{prefix}/{name}/{code}": value for name, values in metrics.items() for code, value in values.items()}
