"""The comparison of runs as tables for a terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mlm_jax.checkpoints.metrics import score
from mlm_jax.common.tables import Table
from mlm_jax.evaluation.bootstrap import Interval
from mlm_jax.report.comparison import (
    Group,
    Run,
    best_of,
    by_seed,
    columns_of,
    difference_intervals,
    difference_of,
    metrics_of,
    ranking_key,
)
from mlm_jax.report.history import AVERAGES


def summary_table(runs: Sequence[Run], baseline: Run | None = None) -> Table:
    """Return a table with a row for each run and the mean of each metric, the best run first, unfinished runs last.

    Args:
      runs: the runs to compare.
      baseline: the run from which differences are computed; by default the first one.
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
    of_runs = dict(zip((run.name for run in runs), difference_intervals(runs, baseline)))
    for run in ranked:
        values = [shown(run.metrics.get(f"{metric}/mean")) for metric in metrics]
        difference = with_interval(difference_of(run, baseline, key), of_runs[run.name].get(key))
        notes = ["best"] if run is best else []
        notes += ["baseline"] if run is baseline else []
        notes += [] if run.is_finished else [run.state]
        step = "" if run.step is None else str(run.step)
        cells = [run.name, step, *values, "" if run is baseline else difference, ", ".join(notes)]
        table.add_row(*cells, style="bold" if run is best else "dim" if not run.is_finished else None)
    return table


def seeds_table(runs: Sequence[Run]) -> Table | None:
    """Return a table with a row for each setting: mean ± spread over its seeds; None if the runs have one seed."""
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
    """Return a table with a row for each language: the baseline's value and the other runs' differences, the largest first."""
    others = [run for run in runs if run is not baseline]
    of_runs = dict(zip((run.name for run in runs), difference_intervals(runs, baseline)))
    title = f"{metric.removeprefix('eval/')}: {baseline.name}, and differences to it"
    table = Table("language", title=title + (" [95 % interval]" if any(of_runs.values()) else ""))
    for name in (baseline.name, *(run.name for run in others)):
        table.add_column(name, justify="right")

    def largest(language: str) -> float:
        found = [difference_of(run, baseline, f"{metric}/{language}") for run in others]
        return max((abs(value) for value in found if value is not None), default=0.0)

    columns = columns_of(runs, metric)
    for language in sorted(columns, key=lambda name: (name in AVERAGES, -largest(name))):
        key = f"{metric}/{language}"
        differences = (with_interval(difference_of(run, baseline, key), of_runs[run.name].get(key)) for run in others)
        table.add_row(language, shown(baseline.metrics.get(key)), *differences, end_section=language == columns[-1])
    return table


def settings_table(runs: Sequence[Run]) -> Table:
    """Return a table of the config keys in which runs differ: a row for each key, a column for each run."""
    table = Table("config key", title="config keys that differ")
    for run in runs:
        table.add_column(run.name)
    for key in runs[0].settings:
        table.add_row(key, *(plain_value(run.settings[key]) for run in runs))
    return table


def shown(value: float | None, sign: bool = False) -> str:
    """Return a number in the format of the tables."""
    if value is None or math.isnan(value):
        return ""
    return f"{value:+.3f}" if sign else f"{value:.3f}"


def with_interval(difference: float | None, found: Interval | None) -> str:
    """Return a difference in the format of the tables, with its interval if there is one."""
    text = shown(difference, sign=True)
    return text if found is None or not text else f"{text} [{shown(found[0], sign=True)}, {shown(found[1], sign=True)}]"


def spread_of(group: Group, key: str) -> str:
    """Return "mean ± spread" of a metric."""
    if key not in group.means:
        return ""
    return f"{group.means[key]:.3f}" + (f" ± {group.spreads[key]:.3f}" if key in group.spreads else "")


def setting_name(settings: Mapping[str, Any]) -> str:
    """Return settings as one phrase."""
    return ", ".join(f"{key.rpartition('.')[2]}={plain_value(value)}" for key, value in settings.items()) or "all"


def plain_value(value: Any) -> str:
    """Return a config value without Python's quotes and brackets."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
