"""Runs side by side: the trials of a sweep, or any workdirs; what sets them apart, and what came of each."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from mlm_jax.checkpoints.metrics import score
from mlm_jax.checkpoints.workdir import CONFIG, config_from_json, config_json, differing_keys
from mlm_jax.common.addresses import is_local
from mlm_jax.common.bucket import original
from mlm_jax.common.errors import UserError, nearest
from mlm_jax.common.foreign_files import read_json
from mlm_jax.report.history import (
    AVERAGES,
    Series,
    is_patience_over,
    read_events,
    read_history,
    retrieval_curves,
    scores_of,
    thin,
)

# What runs are compared by, of every task.
METRICS = ("loss", "bits_per_byte", "accuracy", "f1", "exact_match", "pearson", "spearman", "retrieval_at_1")
SEED = "seed"  # the key whose values are averaged over
FINISHED = "finished"
RETRIEVAL = "eval/retrieval_at_1/"
NOT_COMPARED = ("data.store",)  # keys that change no number


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a comparison.

    Attributes:
      name: what it is called.
      workdir: its folder.
      settings: {config key: value} of the keys that set it apart from the others.
      state: "finished", "failed: …", or what else is to be said of it.
      step: of the evaluation that counts: the best by ``evaluation.select`` if the config names a metric, else the last.
      metrics: the metrics of that evaluation, ``eval/loss/de`` and the like; {} if there is none yet.
      select: the metric that the config selects checkpoints by; "" if it selects the last one.
    """

    name: str
    workdir: Path
    settings: Mapping[str, Any]
    state: str
    step: int | None
    metrics: Mapping[str, float]
    select: str = ""

    @property
    def is_finished(self) -> bool:
        """Return whether the run is complete."""
        return self.state == FINISHED


def read_run(workdir: Path, name: str, settings: Mapping[str, Any], state: str = "") -> Run:
    """Read a run's evaluations.

    Args:
      workdir: its folder.
      name: what to call it.
      settings: the settings of the keys that set it apart.
      state: the state of the run; if not given, it is told from the steps that were evaluated.

    Raises:
      UserError: its files are damaged.
    """
    evaluations = [event for event in read_events(workdir) if any(key.startswith("eval/") for key in event)]
    config = run_config(workdir)
    select = config.get("evaluation", {}).get("select", "")
    ended = is_patience_over(
        [*scores_of(evaluations, select).values()], config.get("evaluation", {}).get("patience", 0)
    )
    counted = max(evaluations, key=lambda event: score(select, numbers(event)), default=None) if select else None
    counted = counted or (evaluations[-1] if evaluations else None)
    if not state:
        steps, done = config.get("steps"), evaluations[-1]["step"] if evaluations else 0
        state = (
            FINISHED
            if ended or (steps is not None and done == steps)
            else f"at step {done} of {steps}"
            if steps
            else "not begun"
        )
    step = None if counted is None else counted["step"]
    return Run(name, workdir, settings, state, step, numbers(counted or {}), select)


def numbers(event: Mapping[str, Any]) -> dict[str, float]:
    """Return the held-out metrics of an event that are numbers; retrieval is averaged over each language's pairs."""
    found = {key: value for key, value in event.items() if key.startswith("eval/") and isinstance(value, (int, float))}
    series: dict[str, Series] = {key: [(0, value)] for key, value in found.items()}
    averaged = retrieval_curves(series, measured_languages(found))
    pairs = [key for key in found if key.startswith(RETRIEVAL)]
    rest = {key: value for key, value in found.items() if key not in pairs}
    return rest | {RETRIEVAL + language: points[0][1] for language, points in averaged.items()}


def measured_languages(keys: Iterable[str]) -> list[str]:
    """Return the languages whose loss was measured."""
    found = (key.rpartition("/") for key in keys)
    return list(dict.fromkeys(name for task, _, name in found if task.endswith("loss") and name not in AVERAGES))


def run_config(workdir: Path) -> dict[str, Any]:
    """Return a workdir's config, with the defaults of keys that are newer than it; {} if it has none yet.

    Raises:
      UserError: the file is damaged.
    """
    file = workdir / CONFIG
    if not file.exists():
        return {}
    try:
        return config_json(config_from_json(read_json(file)))
    except UserError as error:
        raise UserError(f"this is no config: {error.problem}", file=file) from error


def compare_workdirs(workdirs: Sequence[Path]) -> list[Run]:
    """Return runs with the config keys in which they differ.

    Raises:
      UserError: one is not the workdir of a run.
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
    """Return the shortest ends of the paths that tell the workdirs apart.

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
    """Return what runs are compared by, ``eval/loss`` or ``eval/genre/accuracy``, of keys with a language behind it."""
    metrics = dict.fromkeys(key.rpartition("/")[0] for key in keys)
    return [metric for metric in metrics if metric.rpartition("/")[2] in METRICS]


def metrics_of(runs: Sequence[Run]) -> list[str]:
    """Return what these runs are compared by.

    What ranks them comes first, then the metrics of the first task, whose keys do not name it, then those of the others.
    """
    found = compared_metrics(key for run in runs for key in run.metrics)
    ranking = next((run.select.rpartition("/")[0] for run in runs if run.select), "")

    def order(metric: str) -> tuple[bool, int, int]:
        return metric != ranking, metric.count("/"), METRICS.index(metric.rpartition("/")[2])

    return sorted(found, key=order)  # stable


def metric_named(runs: Sequence[Run], name: str) -> str:
    """Return the key of a metric by its name; of the one that ranks the runs if the name is ""; "" if nothing was measured.

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
    """Return the languages or pairs that a metric was measured on, averages last."""
    found = dict.fromkeys(
        key.rpartition("/")[2] for run in runs for key in run.metrics if key.rpartition("/")[0] == metric
    )
    return sorted(found, key=lambda name: name in AVERAGES)


def ranking_key(runs: Sequence[Run]) -> str:
    """Return the key that ranks runs: what the config selects checkpoints by, else the mean of the first metric."""
    select = next((run.select for run in runs if run.select), "")
    metrics = metrics_of(runs)
    return select or (f"{metrics[0]}/mean" if metrics else "")


def best_of(runs: Sequence[Run], key: str) -> Run | None:
    """Return the run that is best by a metric."""
    measured = [run for run in runs if isinstance(run.metrics.get(key), (int, float))]
    return max(measured, key=lambda run: score(key, run.metrics), default=None)


def is_less_better(key: str) -> bool:
    """Return whether a smaller value of a metric is a better one."""
    return score(key, {key: 1.0}) < 0


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only.

    Attributes:
      settings: what they share.
      runs: of them.
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


# ---------------------------------------------------------------------------------------------------- for terminals


def summary_table(runs: Sequence[Run], baseline: Run | None = None) -> Table:
    """Return a row a run with the mean of each metric, the best run first; what is not finished stands below.

    Args:
      runs: to compare.
      baseline: the run that differences are to; the first one if not given.
    """
    key, metrics, baseline = ranking_key(runs), metrics_of(runs), baseline or runs[0]
    best = best_of([run for run in runs if run.is_finished], key) or best_of(runs, key)
    table = Table(title=f"runs by {key}" if key else "runs")
    table.add_column("run")
    table.add_column("step", justify="right")
    for metric in metrics:
        table.add_column(metric.removeprefix("eval/"), justify="right")
    table.add_column(f"Δ {key.removeprefix('eval/')}", justify="right")
    table.add_column("")
    ranked = sorted(runs, key=lambda run: (not run.is_finished, -score(key, run.metrics)))
    for run in ranked:
        values = [shown(run.metrics.get(f"{metric}/mean")) for metric in metrics]
        difference = "" if run is baseline else shown(difference_of(run, baseline, key), sign=True)
        notes = ["best"] if run is best else []
        notes += ["baseline"] if run is baseline else []
        notes += [] if run.is_finished else [run.state]
        cells = [run.name, "" if run.step is None else str(run.step), *values, difference, ", ".join(notes)]
        table.add_row(*cells, style="bold" if run is best else "dim" if not run.is_finished else None)
    return table


def seeds_table(runs: Sequence[Run]) -> Table | None:
    """Return a row a setting with mean ± spread over its seeds; None if the runs have one seed."""
    groups = by_seed(runs)
    if all(len(group.runs) == 1 for group in groups):
        return None
    key, metrics = ranking_key(runs), metrics_of(runs)
    table = Table("setting", "seeds", title="mean ± standard deviation over seeds")
    for metric in metrics:
        table.add_column(metric.removeprefix("eval/"), justify="right")
    for group in sorted(groups, key=lambda group: -score(key, group.means)):
        cells = [spread_of(group, f"{metric}/mean") for metric in metrics]
        table.add_row(setting_name(group.settings), str(len(group.runs)), *cells)
    return table


def language_comparison(runs: Sequence[Run], metric: str, baseline: Run) -> Table:
    """Return a row a language with the baseline's value and the other runs' differences to it, greatest first."""
    others = [run for run in runs if run is not baseline]
    table = Table("language", title=f"{metric.removeprefix('eval/')}: {baseline.name}, and differences to it")
    for name in (baseline.name, *(run.name for run in others)):
        table.add_column(name, justify="right")

    def largest(language: str) -> float:
        found = [difference_of(run, baseline, f"{metric}/{language}") for run in others]
        return max((abs(value) for value in found if value is not None), default=0.0)

    columns = columns_of(runs, metric)
    for language in sorted(columns, key=lambda name: (name in AVERAGES, -largest(name))):
        key = f"{metric}/{language}"
        differences = (shown(difference_of(run, baseline, key), sign=True) for run in others)
        table.add_row(language, shown(baseline.metrics.get(key)), *differences, end_section=language == columns[-1])
    return table


def settings_table(runs: Sequence[Run]) -> Table:
    """Return a row a config key in which runs differ, a column a run."""
    table = Table("config key", title="config keys that differ")
    for run in runs:
        table.add_column(run.name)
    for key in runs[0].settings:
        table.add_row(key, *(plain_value(run.settings[key]) for run in runs))
    return table


def difference_of(run: Run, baseline: Run, key: str) -> float | None:
    """Return a metric's difference to the baseline; None if one of the two lacks it."""
    one, other = run.metrics.get(key), baseline.metrics.get(key)
    return None if one is None or other is None else one - other


def shown(value: float | None, sign: bool = False) -> str:
    """Return a number as tables show it."""
    if value is None or math.isnan(value):
        return ""
    return f"{value:+.3f}" if sign else f"{value:.3f}"


def spread_of(group: Group, key: str) -> str:
    """Return "mean ± spread" of a metric."""
    if key not in group.means:
        return ""
    return f"{group.means[key]:.3f}" + (f" ± {group.spreads[key]:.3f}" if key in group.spreads else "")


def setting_name(settings: Mapping[str, Any]) -> str:
    """Return settings as one phrase."""
    return ", ".join(f"{key.rpartition('.')[2]}={plain_value(value)}" for key, value in settings.items()) or "all"


def plain_value(value: Any) -> str:
    """Return a config value as people write it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


# ---------------------------------------------------------------------------------------------------- for the page

MOST_CURVES = 600  # of runs × languages, that a page holds; above that it has the averages' only


def page_of(runs: Sequence[Run], title: str, folder: Path, baseline: Run | None = None) -> dict[str, Any]:
    """Return what the comparison's page draws.

    Args:
      runs: to compare.
      title: the title of the page.
      folder: that the page is written to; links to the runs' reports start from there.
      baseline: as in :func:`summary_table`.
    """
    metrics = metrics_of(runs)
    parameters = list(dict.fromkeys(key for run in runs for key in run.settings))
    languages = list(dict.fromkeys(name for metric in metrics for name in columns_of(runs, metric)))
    histories = {run.name: history_of(run) for run in runs}
    with_curves = (
        languages if len(languages) * len(runs) <= MOST_CURVES else [name for name in languages if name in AVERAGES]
    )
    return {
        "title": title,
        "runs": [
            {
                "name": run.name,
                "state": run.state,
                "finished": run.is_finished,
                "step": run.step,
                "report": report_link(run, folder),
                "settings": {key: run.settings.get(key) for key in parameters},
            }
            for run in runs
        ],
        "baseline": (baseline or runs[0]).name,
        "ranking": ranking_key(runs).removeprefix("eval/"),
        "parameters": parameters,
        "metrics": [
            {"name": metric.removeprefix("eval/"), "less": is_less_better(f"{metric}/mean")} for metric in metrics
        ],
        "languages": languages,
        "averages": [name for name in languages if name in AVERAGES],
        "values": {
            metric.removeprefix("eval/"): {
                name: [rounded(run.metrics.get(f"{metric}/{name}")) for run in runs]
                for name in columns_of(runs, metric)
            }
            for metric in metrics
        },
        "curves": {
            metric.removeprefix("eval/"): {
                name: [curve(histories[run.name], f"{metric}/{name}") for run in runs]
                for name in columns_of(runs, metric)
                if name in with_curves
            }
            for metric in metrics
        },
    }


def history_of(run: Run) -> dict[str, Series]:
    """Return a run's curves; retrieval by language."""
    history = read_history(run.workdir) if run.metrics else {}
    languages = measured_languages(history)
    return history | {RETRIEVAL + name: series for name, series in retrieval_curves(history, languages).items()}


def report_link(run: Run, folder: Path) -> str | None:
    """Return the path of a run's report from a folder; None if it has none, or is in a bucket."""
    file = run.workdir / "report.html"
    if not file.exists() or not is_local(original(run.workdir.resolve())):
        return None
    return os.path.relpath(file.resolve(), folder.resolve())


def curve(history: Mapping[str, Series], key: str) -> list[tuple[int, float | None]]:
    """Return a metric's curve, with as many points and digits as are seen."""
    return [(step, rounded(value)) for step, value in thin(history.get(key, []), 60)]


def rounded(value: float | None) -> float | None:
    """Return a number with five significant digits."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")
