"""The page that compares runs."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from mlm_jax.checkpoints.metrics import is_less_better
from mlm_jax.common.addresses import is_local
from mlm_jax.common.bucket import original
from mlm_jax.common.files import write_whole
from mlm_jax.evaluation.bootstrap import Interval
from mlm_jax.report.comparison import (
    RETRIEVAL,
    Run,
    columns_of,
    evaluated_languages,
    intervals_between,
    intervals_to,
    metrics_of,
    ranking_key,
    resamples_of,
)
from mlm_jax.report.history import AVERAGES, read_history, retrieval_curves, thin
from mlm_jax.report.page import fill, now

MOST_CURVES = (
    600  # the largest number of runs × languages with curves; with more, a page has only the curves of averages
)
MOST_INTERVALS = 10_000  # of differences between any two runs; with more, a page has only those of averages


def write_comparison(file: Path, runs: Sequence[Run], *, title: str, baseline: Run | None = None) -> Path:
    """Write a page that compares runs, and return its path.

    Args:
      file: the file to write.
      runs: the runs to compare.
      title: the title of the page.
      baseline: the run from which differences are computed; by default the first one.
    """
    data = page_of(runs, title, file.parent, baseline) | {"written": now()}
    write_whole(file, fill("comparison.html", ("charts.js", "comparison.js"), data))
    return file


def page_of(runs: Sequence[Run], title: str, folder: Path, baseline: Run | None = None) -> dict[str, Any]:
    """Return the data that the comparison's page draws.

    Args:
      runs: the runs to compare.
      title: the title of the page.
      folder: the folder of the page; links to the runs' reports are relative to it.
      baseline: as in :func:`summary_table`.
    """
    metrics = metrics_of(runs)
    parameters = list(dict.fromkeys(key for run in runs for key in run.settings))
    languages = list(dict.fromkeys(name for metric in metrics for name in columns_of(runs, metric)))
    baseline = baseline or runs[0]
    resamples = resamples_of(runs)
    of_runs = intervals_to(runs.index(baseline), resamples)
    with_curves = (
        languages if len(languages) * len(runs) <= MOST_CURVES else [name for name in languages if name in AVERAGES]
    )
    drawn = [f"{metric}/{name}" for metric in metrics for name in columns_of(runs, metric) if name in with_curves]
    curves = [curves_of(run, drawn) for run in runs]
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
        "baseline": baseline.name,
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
        "intervals": {  # of differences to the baseline
            metric.removeprefix("eval/"): {
                name: [rounded_interval(found.get(f"{metric}/{name}")) for found in of_runs]
                for name in columns_of(runs, metric)
                if any(f"{metric}/{name}" in found for found in of_runs)
            }
            for metric in metrics
        },
        "between": between(runs, metrics, resamples),
        "curves": {
            metric.removeprefix("eval/"): {
                name: [of_run[f"{metric}/{name}"] for of_run in curves]
                for name in columns_of(runs, metric)
                if name in with_curves
            }
            for metric in metrics
        },
    }


def between(
    runs: Sequence[Run], metrics: Sequence[str], resamples: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, dict[str, list[list[Any]]]]:
    """Return the intervals with which the page's reader can choose any run as the baseline.

    Args:
      runs: the runs to compare.
      metrics: the metrics that are compared.
      resamples: of the runs, as :func:`resamples_of` returns them.

    Returns:
      {metric: {language or average: for each run, the intervals of its differences to the runs before it}}.
    """
    names = {metric: columns_of(runs, metric) for metric in metrics}
    if len(runs) * (len(runs) - 1) // 2 * sum(map(len, names.values())) > MOST_INTERVALS:
        names = {metric: [name for name in found if name in AVERAGES] for metric, found in names.items()}
    keys = {f"{metric}/{name}" for metric in metrics for name in names[metric]}
    wanted = [{key: one for key, one in values.items() if key in keys} for values in resamples]
    found = [[intervals_between(values, other) for other in wanted[:i]] for i, values in enumerate(wanted)]
    measured = {key for of_run in found for one in of_run for key in one}
    return {
        metric.removeprefix("eval/"): {
            name: [[rounded_interval(one.get(f"{metric}/{name}")) for one in of_run] for of_run in found]
            for name in names[metric]
            if f"{metric}/{name}" in measured
        }
        for metric in metrics
    }


def curves_of(run: Run, keys: Sequence[str]) -> dict[str, list[tuple[int, float | None]]]:
    """Return {key: curve} of a run, with the points and digits that can be seen; retrieval is by language."""
    history = read_history(run.workdir) if run.metrics else {}
    languages = evaluated_languages(history)
    history |= {RETRIEVAL + name: series for name, series in retrieval_curves(history, languages).items()}
    return {key: [(step, rounded(value)) for step, value in thin(history.get(key, []), 60)] for key in keys}


def report_link(run: Run, folder: Path) -> str | None:
    """Return a link to a run's report from a page in a folder; None if the run has no report, or is in a bucket."""
    file = run.workdir / "report.html"
    if not file.exists() or not is_local(original(run.workdir.resolve())):
        return None
    return quote(os.fsencode(os.path.relpath(file.resolve(), folder.resolve())))


def rounded_interval(found: Interval | None) -> list[float | None] | None:
    """Return an interval's ends with five significant digits."""
    return None if found is None else [rounded(end) for end in found]


def rounded(value: float | None) -> float | None:
    """Return a number with five significant digits."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")
