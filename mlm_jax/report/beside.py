"""A second run beside the first in a report: its curves, the keys that differ, and the differences language by language."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlm_jax.checkpoints.metrics import is_less_better
from mlm_jax.evaluation.bootstrap import Interval
from mlm_jax.report.comparison import (
    Run,
    columns_of,
    compare_workdirs,
    difference_intervals,
    difference_of,
    metrics_of,
)
from mlm_jax.report.history import AVERAGES, curves_by_language, read_history, retrieval_curves, thin
from mlm_jax.report.table import COLUMNS, SHARES, format_cell

MOST_METRICS = 4  # the largest number of metrics in the table


def beside(workdir: Path, other: Path, languages: Sequence[str]) -> dict[str, Any]:
    """Return the data of a second run that a report draws.

    Args:
      workdir: the workdir of the report's run.
      other: the workdir of the second run.
      languages: language codes of the report's run.

    Returns:
      {"title", "curves": {metric: {language: series}} of held-out text, "table": HTML, "settings": HTML}.

    Raises:
      UserError: a folder is not the workdir of a run.
    """
    runs = compare_workdirs([other, workdir])
    history = read_history(other)
    curves = {name: split["eval"] for name, split in curves_by_language(history, languages).items() if "eval" in split}
    if retrieval := retrieval_curves(history, languages):
        curves["retrieval_at_1"] = retrieval
    return {
        "title": runs[0].name,
        "curves": {name: {code: thin(series) for code, series in lines.items()} for name, lines in curves.items()},
        "table": differences_html(*runs),
        "settings": settings_html(*runs),
    }


def differences_html(baseline: Run, run: Run) -> str:
    """Return a table of each language's metrics in the run, with their differences to the baseline."""
    both = [metric for metric in metrics_of([run]) if metric in metrics_of([baseline])][:MOST_METRICS]
    intervals = difference_intervals([baseline, run], baseline)[1]
    names = list(dict.fromkeys(name for metric in both for name in columns_of([run], metric)))
    heads = [f"<th>{html.escape(heading(metric))}</th><th>Δ [95 %]</th>" for metric in both]
    rows = []
    for code in sorted(names, key=lambda name: name in AVERAGES):
        cells = []
        for metric in both:
            key, name = f"{metric}/{code}", metric.rpartition("/")[2]
            cells.append(f"<td>{format_cell(name, run.metrics.get(key))}</td>")
            cells.append(
                difference_cell(name, difference_of(run, baseline, key), intervals.get(key), is_less_better(key))
            )
        kind = ' class="average"' if code in AVERAGES else f' data-language="{html.escape(code, quote=True)}"'
        rows.append(f'<tr{kind}><th scope="row">{html.escape(code)}</th>{"".join(cells)}</tr>')
    head = f"<tr><th>language</th>{''.join(heads)}</tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>" if both else ""


def heading(metric: str) -> str:
    """Return a metric's name in the format of the tables, after the task's name if the task is not the first one."""
    *task, name = metric.removeprefix("eval/").split("/")
    return " ".join([*task, *(COLUMNS.get(name) or SHARES.get(name) or name).split()])


def difference_cell(name: str, difference: float | None, found: Interval | None, less_is_better: bool) -> str:
    """Return a cell with a difference and its interval; the cell is coloured if the interval does not contain zero."""
    if difference is None:
        return "<td></td>"
    text, kind = signed(name, difference), ""
    if found is not None:
        text += f" <small>[{signed(name, found[0])}, {signed(name, found[1])}]</small>"
        if found[0] > 0 or found[1] < 0:
            kind = ' class="better"' if (difference < 0) == less_is_better else ' class="worse"'
    return f"<td{kind}>{text}</td>"


def signed(name: str, value: float) -> str:
    """Return a difference of a metric, in the metric's unit, with its sign."""
    return ("−" if value < 0 else "+") + format_cell(name, abs(value))


def settings_html(baseline: Run, run: Run) -> str:
    """Return a table of the config keys in which the runs differ."""
    rows = (
        f"<tr><th scope='row'>{html.escape(key)}</th>"
        f"<td>{html.escape(str(run.settings[key]))}</td><td>{html.escape(str(baseline.settings[key]))}</td></tr>"
        for key in run.settings
    )
    head = f"<tr><th>config key</th><th>{html.escape(run.name)}</th><th>{html.escape(baseline.name)}</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>" if run.settings else ""


def section_html(second: Mapping[str, Any]) -> str:
    """Return the report's section about a second run, which needs no script.

    Args:
      second: as :func:`beside` returns it.
    """
    about = (
        "Values are those of this run’s best evaluation by evaluation.select, else of the last. Differences are to "
        "the other run. Brackets show the 95 % interval, paired if both runs measured the same rows; a difference is "
        "coloured if its interval does not contain zero. The other run’s curves are dashed."
    )
    title = html.escape(second["title"])
    return (
        f'<section class="card wide" id="beside"><h2>Beside {title}</h2><p class="about">{about}</p>'
        f'<div class="scroll">{second["table"]}</div><h3>Config keys that differ</h3>'
        f'<div class="scroll">{second["settings"] or "none"}</div></section>'
    )
