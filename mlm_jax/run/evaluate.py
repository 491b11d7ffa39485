"""``mlm-jax eval``: evaluate checkpoints on held-out data, with intervals, and transfer between languages."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from mlm_jax.checkpoints.checkpoint import Loaded, check_arrays, find_checkpoint, host, load_parameters
from mlm_jax.common.bucket import original
from mlm_jax.common.errors import UserError, nearest
from mlm_jax.data.loading.loader import Loader
from mlm_jax.data.store.store import Store
from mlm_jax.evaluation.bootstrap import Interval, intervals
from mlm_jax.evaluation.classification import TransferMatrix, transfer_matrix
from mlm_jax.evaluation.held_out import HeldOut
from mlm_jax.evaluation.perplexity import flatten
from mlm_jax.inference.score import translation_metrics
from mlm_jax.inference.translator import Translator
from mlm_jax.objectives import kinds, metric_prefix, objective_class
from mlm_jax.parallel.mesh import make_mesh
from mlm_jax.training.context import make_context
from mlm_jax.training.step import Program, build_program

log = logging.getLogger(__name__)

TRANSFERRED = ("f1", "pearson", "accuracy")  # the metric of a matrix of transfer: the first of these that a task has


class Evaluated(NamedTuple):
    """The held-out metrics of a checkpoint.

    Attributes:
      checkpoint: the workdir or checkpoint as the user named it.
      step: the step of the checkpoint.
      config: the config of its run.
      languages: language codes in index order.
      metrics: flat, ``eval/loss/de`` and the like.
      intervals: {metric key: interval of 95 %}, by bootstrap over held-out rows, sentences or pairs.
      sources: {task with labels: languages that it was trained on}.
    """

    checkpoint: str
    step: int
    config: ConfigDict
    languages: tuple[str, ...]
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    sources: dict[str, tuple[str, ...]]


class Run(NamedTuple):
    """A checkpoint with the data of its run, laid out on this machine's devices."""

    loaded: Loaded
    store: Store
    loader: Loader
    program: Program
    params: Any


def open_run(checkpoint: str | Path, task: str | None = None) -> Run:
    """Load a checkpoint and open its run's token store.

    Args:
      checkpoint: a workdir or one of its checkpoints.
      task: a task of its config; None means all tasks.

    Raises:
      UserError: there is no checkpoint, no such task, no token store, or one of another vocabulary.
    """
    folder = find_checkpoint(checkpoint)
    loaded = load_parameters(checkpoint, device=host())
    config = loaded.config
    if task is not None and task not in config.tasks:
        raise UserError(
            f"the run has no task {task!r}{nearest(task, config.tasks)}",
            remedy=f"its tasks are {', '.join(config.tasks)}",
        )
    # The mesh of the training machine may not fit this machine: weights and rows are divided among its devices.
    config.mesh.update({"data": 1, "fsdp": -1, "tensor": 1, "sequence": 1, "slices": 1})
    config.model.attention = "auto"
    store = Store.open(config.data.store or f"{original(folder.parent.parent)}/store")
    if store.vocabulary.fingerprint != loaded.vocabulary.fingerprint:
        raise UserError(
            "the token store has another vocabulary than the checkpoint",
            file=store.folder,
            remedy="prepare it again with the checkpoint's config",
        )
    loader = Loader(store, config, kinds(config.tasks))
    program = build_program(
        config,
        make_context(loaded.vocabulary, loaded.languages, config, loaded.labels),
        loaded.languages,
        make_mesh(config.mesh),
        labels={name: len(classes) for name, classes in loaded.labels.items()},
    )
    check_arrays(loaded, program.state.params)
    params = jax.tree.map(lambda leaf, like: jax.device_put(leaf, like.sharding), loaded.params, program.state.params)
    return Run(loaded, store, loader, program, params)


def evaluate(checkpoint: str | Path, task: str | None = None, *, everything: bool = False) -> Evaluated:
    """Evaluate a checkpoint on the held-out rows that its run uses, on all devices of this machine.

    Args:
      checkpoint: a workdir or one of its checkpoints.
      task: only this task of its config; None means all tasks, and retrieval.
      everything: whether to use all held-out rows of the run's token store instead.

    Raises:
      UserError: there is no checkpoint, no such task, no token store, or one of another vocabulary.
    """
    run = open_run(checkpoint, task)
    loaded, config, loader = run.loaded, run.loaded.config, run.loader
    held_out = HeldOut(run.program, loader, run.store)
    found = held_out.after(loaded.step).evaluate(run.params, everything=everything, tasks=(task,) if task else ())
    scores, of_scores = _translation(loaded, held_out, task)
    sources = {
        name: tuple(dict.fromkeys(stream.languages[0] for stream in loader.streams(name)))
        for name in loaded.labels
        if task in (None, name)
    }
    metrics, found_intervals = found.metrics | scores, intervals(found.observed, loaded.languages) | of_scores
    return Evaluated(str(checkpoint), loaded.step, config, loaded.languages, metrics, found_intervals, sources)


def _translation(loaded: Loaded, held_out: HeldOut, task: str | None) -> tuple[dict[str, float], dict[str, Interval]]:
    """Return chrF++ and BLEU of the translation tasks, by target language, and their intervals."""
    metrics: dict[str, float] = {}
    found: dict[str, Interval] = {}
    for name, entry in loaded.config.tasks.items():
        kind = objective_class(entry["objective"], name)
        if not (kind.writes and kind.kind == "pairs") or task not in (None, name):
            continue
        both = entry.get("directions", "both") == "both"
        limit = loaded.config.evaluation.pairs
        print(f"translating held-out pairs, at most {limit:,} of each stream and direction", file=sys.stderr)
        scores, of_scores = translation_metrics(
            Translator(loaded, task=name), held_out.streams[name], limit=limit, reverse=both
        )
        prefix = metric_prefix("eval", name, loaded.config.tasks)
        metrics |= flatten(scores, prefix)
        found |= {f"{prefix}/{metric}/{code}": one for (metric, code), one in of_scores.items()}
    return metrics, found


def transfer_between(evaluated: Sequence[Evaluated], task: str) -> TransferMatrix | None:
    """Return the source × target matrix of a labelled task; None if no checkpoint was trained on a single language.

    The score is the first of F1, Pearson's correlation and accuracy that the task has. Checkpoints of the same source language
    (seeds) are averaged. A checkpoint that was trained on several languages has no row; the log names it.

    Args:
      evaluated: metrics of the checkpoints.
      task: the task's name, the same in all checkpoints.
    """
    scores: dict[str, dict[str, list[float]]] = {}
    chosen: dict[str, str] = {}
    metric = "accuracy"
    for found in evaluated:
        sources = found.sources.get(task, ())
        if len(sources) > 1:
            log.warning(
                "%s was trained on %s in %s, so it has no row in the matrix of transfer from one language",
                found.checkpoint,
                task,
                ", ".join(sources),
            )
        if len(sources) != 1:
            continue
        (source,) = sources
        prefix = metric_prefix("eval", task, found.config.tasks)
        metric = next(
            (one for one in TRANSFERRED if any(key.startswith(f"{prefix}/{one}/") for key in found.metrics)), metric
        )
        chosen[source] = found.config.evaluation.select
        for language in found.languages:
            if f"{prefix}/{metric}/{language}" in found.metrics:
                scores.setdefault(source, {}).setdefault(language, []).append(
                    found.metrics[f"{prefix}/{metric}/{language}"]
                )
    means = {
        source: {target: float(np.mean(values)) for target, values in row.items()} for source, row in scores.items()
    }
    return transfer_matrix(means, metric, chosen) if means else None
