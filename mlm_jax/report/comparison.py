"""Comparison of runs (the trials of a sweep, or any workdirs): the config keys that differ, and the results of each run."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlm_jax.checkpoints.metrics import score
from mlm_jax.checkpoints.workdir import CONFIG, config_from_json, config_json, differing_keys
from mlm_jax.common.errors import UserError, nearest
from mlm_jax.common.foreign_files import read_json
from mlm_jax.evaluation.bootstrap import Interval, Observed, intervals_of, read_rows, resample_all
from mlm_jax.report.history import (
    AVERAGES,
    Evaluations,
    Series,
    is_number,
    is_patience_over,
    read_evaluations,
    retrieval_curves,
)

# The metrics by which runs are compared, for every task.
COMPARED = ("loss", "bits_per_byte", "accuracy", "f1", "exact_match", "pearson", "spearman", "retrieval_at_1")
SEED = "seed"  # the key whose values are averaged over
FINISHED = "finished"
RETRIEVAL = "eval/retrieval_at_1/"
NOT_COMPARED = ("data.store",)  # keys that change no number


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a comparison.

    Attributes:
      name: the name of the run in tables.
      workdir: the workdir of the run.
      settings: {config key: value} of the keys in which it differs from the other runs.
      state: "finished", "failed: …", or another short description.
      step: the step of the compared evaluation: the best by ``evaluation.select`` if the config names a metric, else the last.
      metrics: {"eval/loss/de": value, …} of that evaluation; {} if there is none yet.
      select: the metric by which the config selects checkpoints; "" if it selects the last one.
      observed: {metric key: the values from which it is computed} of that evaluation; {} if the workdir does not have them.
    """

    name: str
    workdir: Path
    settings: Mapping[str, Any]
    state: str
    step: int | None
    metrics: Mapping[str, float]
    select: str = ""
    observed: Mapping[str, Observed] = dataclasses.field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        """Return whether the run is complete."""
        return self.state == FINISHED


def read_run(workdir: Path, name: str, settings: Mapping[str, Any], state: str = "") -> Run:
    """Read a run's evaluations.

    Args:
      workdir: the workdir of the run.
      name: the name of the run in tables.
      settings: {config key: value} of the keys in which it differs from the other runs.
      state: the state of the run; if not given, it follows from the steps that were evaluated.

    Raises:
      UserError: the run's files are damaged.
    """
    config = run_config(workdir)
    select = config.get("evaluation", {}).get("select", "")
    found = read_evaluations(workdir, select)
    counted = found.best[1] if found.best else found.last
    step = None if counted is None else counted["step"]
    observed = {} if step is None else read_rows(workdir, step)
    state = state or _state(config, found)
    return Run(name, workdir, settings, state, step, numbers(counted or {}), select, observed)


def _state(config: Mapping[str, Any], found: Evaluations) -> str:
    """Return the state of a run: finished, by its last step or by ``evaluation.patience``, or how far it is."""
    if not config.get("steps"):
        return "not begun"
    done, patience = found.last["step"] if found.last else 0, config.get("evaluation", {}).get("patience", 0)
    if done == config["steps"] or is_patience_over((value for _, value in found.scores), patience):
        return FINISHED
    return f"at step {done} of {config['steps']}"


def numbers(event: Mapping[str, Any]) -> dict[str, float]:
    """Return the held-out metrics of an event that are numbers; retrieval is averaged over each language's pairs."""
    found = {key: float(value) for key, value in event.items() if key.startswith("eval/") and is_number(value)}
    series: dict[str, Series] = {key: [(0, value)] for key, value in found.items()}
    averaged = retrieval_curves(series, evaluated_languages(found))
    pairs = [key for key in found if key.startswith(RETRIEVAL)]
    rest = {key: value for key, value in found.items() if key not in pairs}
    return rest | {RETRIEVAL + language: points[0][1] for language, points in averaged.items()}


def evaluated_languages(keys: Iterable[str]) -> list[str]:
    """Return the languages that have a held-out loss."""
    found = (key.rpartition("/") for key in keys)
    return list(dict.fromkeys(name for task, _, name in found if task.endswith("loss") and name not in AVERAGES))


def run_config(workdir: Path) -> dict[str, Any]:
    """Return a workdir's config, with defaults for keys that are newer than the config; {} if it has no config yet.

    Raises:
      UserError: the file is damaged.
    """
    file = workdir / CONFIG
    if not file.exists():
        return {}
    try:
        return config_json(config_from_json(read_json(file)))
    except UserError as error:
        raise UserError(f"this is not a config: {error.problem}", file=file) from error


def compare_workdirs(workdirs: Sequence[Path]) -> list[Run]:
    """Return runs with the config keys in which they differ.

    Raises:
      UserError: a folder is not the workdir of a run.
    """
    configs = {}
    for workdir in workdirs:
        configs[workdir] = run_config(workdir)
        if not configs[workdir]:
            raise UserError("there is no run here", file=workdir, remedy="name the workdirs of runs")
    keys: dict[str, None] = {}
    first = next(iter(configs.values()))
    for config in configs.values():
        keys |= dict.fromkeys(key for key in differing_keys(first, config) if key not in NOT_COMPARED)
    names = names_of(workdirs)
    return [
        read_run(workdir, name, {key: value_of(config, key) for key in keys})
        for name, (workdir, config) in zip(names, configs.items())
    ]


def names_of(workdirs: Sequence[Path]) -> list[str]:
    """Return names for workdirs: the shortest ends of their paths that are all different.

    Raises:
      UserError: a workdir is named twice.
    """
    parts = [workdir.resolve().parts for workdir in workdirs]
    for workdir, own in zip(workdirs, parts):
        if parts.count(own) > 1:
            raise UserError("this workdir is named twice", file=workdir, remedy="name different runs")
    count = 1
    while len({own[-count:] for own in parts}) < len(parts):
        count += 1
    return ["/".join(own[-count:]) for own in parts]


def value_of(config: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key; None if the config does not have it."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def compared_metrics(keys: Iterable[str]) -> list[str]:
    """Return the compared metrics, such as ``eval/loss`` or ``eval/genre/accuracy``, of keys that end in a language."""
    metrics = dict.fromkeys(key.rpartition("/")[0] for key in keys)
    return [metric for metric in metrics if metric.rpartition("/")[2] in COMPARED]


def metrics_of(runs: Sequence[Run]) -> list[str]:
    """Return the metrics by which these runs are compared.

    The metric that ranks them comes first, then the metrics of the first task (their keys do not contain its name), then those of
    the other tasks.
    """
    found = compared_metrics(key for run in runs for key in run.metrics)
    ranking = next((run.select.rpartition("/")[0] for run in runs if run.select), "")

    def order(metric: str) -> tuple[bool, int, int]:
        return metric != ranking, metric.count("/"), COMPARED.index(metric.rpartition("/")[2])

    return sorted(found, key=order)  # stable


def metric_named(runs: Sequence[Run], name: str) -> str:
    """Return the key of a metric by its name; for the name "", that of the metric that ranks the runs; "" if there are no metrics.

    Raises:
      UserError: the runs have no such metric.
    """
    metrics = metrics_of(runs)
    if not name:
        return metrics[0] if metrics else ""
    key = name if name.startswith("eval/") else f"eval/{name}"
    if key not in metrics:
        known = [metric.removeprefix("eval/") for metric in metrics]
        raise UserError(
            f"the runs have no metric {name!r}{nearest(name, known)}", remedy=f"use one of {', '.join(known)}"
        )
    return key


def columns_of(runs: Sequence[Run], metric: str) -> list[str]:
    """Return the languages or pairs for which the runs have a metric, averages last."""
    found = dict.fromkeys(
        key.rpartition("/")[2] for run in runs for key in run.metrics if key.rpartition("/")[0] == metric
    )
    return sorted(found, key=lambda name: name in AVERAGES)


def ranking_key(runs: Sequence[Run]) -> str:
    """Return the key that ranks runs: the metric by which the config selects checkpoints, else the mean of the first metric."""
    select = next((run.select for run in runs if run.select), "")
    metrics = metrics_of(runs)
    return select or (f"{metrics[0]}/mean" if metrics else "")


def difference_intervals(runs: Sequence[Run], baseline: Run) -> list[dict[str, Interval]]:
    """Return {metric key: 95 % interval of the metric's difference to the baseline} for each run.

    The bootstrap is paired if both runs were evaluated on the same rows. Runs that did not keep the values of their rows have no
    intervals.

    Args:
      runs: the runs to compare.
      baseline: one of these runs.
    """
    return intervals_to(runs.index(baseline), resamples_of(runs))


def resamples_of(runs: Sequence[Run]) -> list[dict[str, np.ndarray]]:
    """Return {metric key: value in each resample} for each run."""
    languages = evaluated_languages(key for run in runs for key in run.metrics)
    return resample_all([run.observed for run in runs], languages)


def intervals_to(baseline: int, resamples: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, Interval]]:
    """Return the result of :func:`difference_intervals` for the number of the baseline and the result of :func:`resamples_of`."""
    reference = resamples[baseline]
    return [{} if values is reference else intervals_between(values, reference) for values in resamples]


def intervals_between(values: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> dict[str, Interval]:
    """Return {metric key: interval of the difference} of two runs of :func:`resamples_of`."""
    return intervals_of({key: values[key] - reference[key] for key in values if key in reference})


def best_of(runs: Sequence[Run], key: str) -> Run | None:
    """Return the run that is best by a metric."""
    found = [run for run in runs if isinstance(run.metrics.get(key), (int, float))]
    return max(found, key=lambda run: score(key, run.metrics), default=None)


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed.

    Attributes:
      settings: the settings that they share.
      runs: the runs.
      means: {metric key: mean over the runs}.
      spreads: {metric key: sample standard deviation}; empty if there is one run.
    """

    settings: Mapping[str, Any]
    runs: Sequence[Run]
    means: Mapping[str, float]
    spreads: Mapping[str, float]


def by_seed(runs: Sequence[Run]) -> list[Group]:
    """Return the runs grouped by everything but their seed, in the order of first appearance."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        shared = {key: value for key, value in run.settings.items() if key != SEED}
        groups.setdefault(json.dumps(shared, sort_keys=True, default=str), []).append(run)
    found = []
    for members in groups.values():
        shared = {key: value for key, value in members[0].settings.items() if key != SEED}
        values: dict[str, list[float]] = {}
        for run in members:
            for key, value in run.metrics.items():
                values.setdefault(key, []).append(value)
        whole = {key: numbers for key, numbers in values.items() if len(numbers) == len(members)}
        means = {key: statistics.fmean(numbers) for key, numbers in whole.items()}
        spreads = {key: statistics.stdev(numbers) for key, numbers in whole.items() if len(numbers) > 1}
        found.append(Group(shared, members, means, spreads))
    return found


def difference_of(run: Run, baseline: Run, key: str) -> float | None:
    """Return a metric's difference to the baseline; None if one of the two lacks it."""
    one, other = run.metrics.get(key), baseline.metrics.get(key)
    return None if one is None or other is None else one - other
