"""Held-out loss, accuracy and bits per byte, per language and averaged.

Masks are drawn from a key that depends on the batch's number only: every evaluation of a run hides the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mlm_jax.batch import Rows, TaskBatch
from mlm_jax.objectives import Context, Metrics, Objective

# {metric: (numerator [languages], denominator [languages])} in float64, summed over batches.
Sums = dict[str, tuple[np.ndarray, np.ndarray]]
MACRO, MICRO = "mean", "micro"  # averages: every language counts the same; every prediction counts the same
SEED = 0  # of the masks; another one would make evaluations of different runs incomparable


def make_measure(model_of: Callable[[Any], Any], objective: Objective, context: Context,
                 mesh: Mesh | None = None) -> Callable[[Any, TaskBatch, int], Metrics]:  # fmt: skip
    """Return a function (parameters, batch, batch number) → metrics, compiled once for each shape of batch.

    Args:
      model_of: parameters → model, such as ``program.model``.
      objective: what is measured.
      context: facts about the vocabulary.
      mesh: where parameters and batches lie; metrics come out whole on every device of it.
    """

    def measure(params: Any, batch: TaskBatch, number: jax.Array) -> Metrics:
        key = jax.random.fold_in(jax.random.key(SEED), number)
        examples = objective.prepare(batch, key, context)
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
      batches: global batches; batches of equal shapes are compiled once (:func:`even_batches`).

    Returns:
      {metric: (numerator ``[languages]``, denominator ``[languages]``)}; {} without batches.
    """
    measured = [measure(params, batch, number) for number, batch in enumerate(batches)]  # the device runs ahead
    sums: Sums = {}
    for metrics in jax.device_get(measured):
        for name, parts in metrics.items():
            numerator, denominator = (np.asarray(part, np.float64) for part in parts)
            before = sums.get(name, (0.0, 0.0))
            sums[name] = (before[0] + numerator, before[1] + denominator)
    return sums


def even_batches(batches: Iterable[TaskBatch], rows: int, *, additive: bool) -> list[TaskBatch]:
    """Give every batch ``rows`` rows, so that one shape is compiled and devices share it evenly.

    Args:
      batches: host batches, each of at most ``rows`` rows.
      rows: wanted.
      additive: the objective's; rows of padding are added where they change nothing. An objective that compares the
        rows of a batch with each other gets whole batches only: the incomplete one is left out.
    """
    even = []
    for batch in batches:
        missing = rows - len(batch["inputs"].tokens)
        if missing < 0:
            raise ValueError(f"a batch of {rows - missing} rows is larger than {rows}")
        if missing and not additive:
            continue
        even.append({name: _pad(value, missing, -1 if name == "labels" else 0) for name, value in batch.items()})
    return even


def language_metrics(sums: Sums, languages: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return {metric: {language: value}} with the averages ``mean`` (macro) and ``micro``.

    Languages without a single observation are left out, of the macro average too.

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
    """Return loss / ln 2 · tokens / bytes: what a text would cost if every token cost as much as a hidden one.

    It compares vocabularies: coarse pieces are dearer a token and fewer a byte. For masked language modelling it is
    not a code length, since each hidden token sees the others; compare it at one mask rate only.

    Args:
      loss: mean −log P of hidden tokens, in nats.
      tokens: ordinary tokens (no prefix, no end of document) of the held-out text.
      byte_count: UTF-8 bytes of that text.

    Raises:
      ValueError: a text without bytes.
    """
    if byte_count <= 0:
        raise ValueError("bits per byte of a text without bytes")
    return loss / math.log(2) * tokens / byte_count


def bits_per_byte_by_language(losses: Mapping[str, float], sizes: Mapping[str, tuple[int, int]]) -> dict[str, float]:
    """Return {language: bits per byte} with ``mean`` over languages and ``micro`` over all bytes.

    Args:
      losses: {language: nats a hidden token}; averages in it are passed over.
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


def _pad(value: Any, rows: int, fill: int) -> Any:
    if isinstance(value, Rows):
        return Rows(*(_pad(leaf, rows, fill) for leaf in value))
    value = np.asarray(value)
    return np.pad(value, ((0, rows),) + ((0, 0),) * (value.ndim - 1), constant_values=fill)
