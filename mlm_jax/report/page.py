"""The report: one self-contained HTML file that shows a run."""

from __future__ import annotations

import html
import json
import math
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from mlm_jax.checkpoints.metrics import value_of
from mlm_jax.checkpoints.provenance import read_provenance
from mlm_jax.common.bucket import local_path, publish
from mlm_jax.common.errors import UserError
from mlm_jax.common.files import write_whole
from mlm_jax.common.foreign_files import read_json
from mlm_jax.config import default_config
from mlm_jax.evaluation.bootstrap import Interval, intervals, read_rows
from mlm_jax.report.beside import beside, section_html
from mlm_jax.report.families import family_of
from mlm_jax.report.history import (
    Series,
    curves_by_language,
    elapsed,
    is_number,
    read_evaluations,
    read_events,
    read_history,
    retrieval_curves,
    smooth,
    thin,
)
from mlm_jax.report.sections import FILE as SECTIONS
from mlm_jax.report.sections import load_sections, plain
from mlm_jax.report.table import COLUMNS, MEASURED, SHARES, format_cell

GOODPUT = "goodput.json"
SCRIPTS = ("charts.js", "groups.js", "curves.js", "sections.js")
DIGITS = 5  # significant ones of the numbers that the script draws
RECENT = 20  # the present training loss is the mean over the last of this many equal parts of a run's log lines
PAGE_COLUMNS = {**COLUMNS, "perplexity": "perplexity", "gap": "held-out − training loss"}
MOST_SHARES, MOST_CURVES = 40, 12  # languages up to which each one's share, and its training curve in full, is drawn
TRAINING_POINTS = 240  # of a training curve
RUN_CURVES = {  # curves of the whole run: key → title
    "train/learning_rate": "Learning rate",
    "train/tokens_per_second": "Tokens per second",
    "train/mfu": "Model FLOPs utilisation",
    "train/gradient_norm": "Gradient norm",
}


def write_report(workdir: str | Path, second: str | Path | None = None) -> Path:
    """Write WORKDIR/report.html, also to a workdir in a bucket, from ``metrics.jsonl`` and ``report.json``; return its path.

    Args:
      workdir: of the run.
      second: workdir of a run that is shown beside it.

    Raises:
      UserError: a file is missing or damaged.
    """
    workdir = local_path(workdir)
    sections, history = load_sections(workdir), read_history(workdir)
    file = workdir / "report.html"
    try:
        languages, starts = sections["languages"], read_provenance(workdir)
        observed = read_rows(workdir, last_evaluation(history))
        data = page_data(sections, history, workdir.resolve().name, intervals(observed, languages))
        data |= {
            "goodput": read_goodput(workdir),
            "starts": starts,
            "times": thin(elapsed(read_events(workdir), [start["step"] for start in starts]), 100),
            "beside": beside(workdir, local_path(second), languages) if second else None,
        }
        page = render(data)
    except RecursionError as error:
        raise UserError("a value of the report's data is nested too deeply", file=workdir / SECTIONS) from error
    write_whole(file, page)
    publish(file)
    return file


def now() -> str:
    """Return the current time in the format of the pages."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime())


def last_evaluation(history: Mapping[str, Series]) -> int:
    """Return the step that was evaluated last; 0 if none was."""
    return max((series[-1][0] for key, series in history.items() if key.startswith("eval/")), default=0)


def page_data(
    sections: Mapping[str, Any],
    history: Mapping[str, Series],
    name: str,
    found: Mapping[str, Interval] | None = None,
) -> dict[str, Any]:
    """Return the data that the page's script draws.

    Args:
      sections: the parsed ``report.json``.
      history: {key: series} of ``metrics.jsonl``.
      name: the name of the run, if the sections give no title.
      found: intervals of the last evaluation's metrics.
    """
    languages = sections["languages"]
    curves = curves_by_language(history, languages)
    retrieval = retrieval_curves(history, languages)
    if retrieval:
        curves["retrieval_at_1"] = {"eval": retrieval}
    drawn = languages if len(languages) <= MOST_SHARES else []
    points = TRAINING_POINTS if len(languages) <= MOST_CURVES else TRAINING_POINTS // 4
    shares = {
        kind: {code: smooth(history[f"{key}/{code}"]) for code in drawn if f"{key}/{code}" in history}
        for kind, key in (("plan", "plan/share"), ("realised", "train/share"))
    }
    return {
        "title": sections.get("title") or name,
        "written": now(),
        "steps": max(series[-1][0] for series in history.values()),
        "languages": languages,
        "facts": sections.get("facts", []),
        "curves": {
            metric: {
                split: {
                    code: thin(series, points) if split == "train" else thin(series) for code, series in lines.items()
                }
                for split, lines in splits.items()
            }
            for metric, splits in sorted(curves.items(), key=lambda item: _curve_order(item[0]))
            if any(code in languages for lines in splits.values() for code in lines)
        },
        "run": [{"title": title, "points": thin(history[key])} for key, title in RUN_CURVES.items() if key in history],
        "shares": shares,
        "tokens": thin(history.get("train/tokens", [])),
        "phases": sections.get("phases", [])
        if len(sections.get("phases", [])) > 1
        else [],  # a single phase is not shaded
        "goodput": {},
        "starts": [],
        "best": None,
        "families": families(languages, sections.get("config", {})),
        "table": [
            row | derived(row, history) | {"intervals": of_language(found or {}, row["language"])}
            for row in plain(sections.get("table", []))
        ],
        "times": [],
        "beside": None,
        "retrieval": sections.get("retrieval"),
        "map": sections.get("map"),
        "samples": sections.get("samples", {}),
        "config": changed_keys(sections.get("config", {})),
    }


def of_language(found: Mapping[str, Interval], language: str) -> dict[str, Interval]:
    """Return {column of the table: interval} of a language, or of the mean."""
    keys = {name: f"eval/{name}/{language}" for name in (*MEASURED, "retrieval_at_1")}
    return {name: found[key] for name, key in keys.items() if key in found}


def families(languages: Sequence[str], config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return {family: languages}: the families of the config, else those of the table for the languages' codes."""
    grouped: dict[str, list[str]] = {}
    for code in languages:
        grouped.setdefault(family_of(code), []).append(code)
    return dict(config.get("families") or grouped)


def best_checkpoint(workdir: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return {"metric", "step", "value"} of the checkpoint that the config selects; None if it selects the last one."""
    select = config.get("evaluation", {}).get("select", "")
    found = read_evaluations(workdir, select).best if select else None
    if found is None:
        return None
    best, event = found
    return {"metric": select.removeprefix("eval/"), "step": event["step"], "value": value_of(best, select)}


def derived(row: Mapping[str, Any], history: Mapping[str, Series]) -> dict[str, float | None]:
    """Return the columns that the page's table adds to a language's row: perplexity, and held-out minus training loss."""
    loss, training = row.get("loss"), history.get(f"train/loss/{row['language']}", [])
    recent = [value for _, value in training[-max(len(training) // RECENT, 1) :]]
    gap = loss - sum(recent) / len(recent) if recent and loss is not None else None
    return {"perplexity": math.exp(loss) if loss is not None and loss < 100 else None, "gap": gap}


def read_goodput(workdir: Path) -> dict[str, float]:
    """Return {span: seconds} of all starts of a run; {} if the run has no ``goodput.json``.

    Raises:
      UserError: the file is damaged.
    """
    file, remedy = workdir / GOODPUT, "delete it; the run does not need it"
    if not file.exists():
        return {}
    try:
        seconds = read_json(file)
    except UserError as error:
        raise UserError(error.problem, file=file, remedy=remedy) from error
    if not isinstance(seconds, dict) or not all(is_number(value) and value >= 0 for value in seconds.values()):
        raise UserError("this is not a table of seconds", file=file, remedy=remedy)
    return seconds


def render(data: Mapping[str, Any]) -> str:
    """Return the report's page."""
    second = data["beside"]
    drawn = dict(data) | {"beside": second and {key: second[key] for key in ("title", "curves")}}
    return fill(
        "page.html", SCRIPTS, drawn, table=table_html(data["table"]), beside=section_html(second) if second else ""
    )


def fill(page: str, scripts: Sequence[str], data: Mapping[str, Any], **parts: str) -> str:
    """Replace each ``{{name}}`` in a page by data, style, scripts or another part."""
    folder = files("mlm_jax.report") / "page"

    def read(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    # "</script>" in a sample must not end the script, and "<!--" must not open a comment.
    short = json.loads(json.dumps(plain(data)), parse_float=lambda text: float(f"{float(text):.{DIGITS}g}"))
    parts["data"] = json.dumps(short, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    parts["title"] = html.escape(str(data["title"]))
    parts["style"] = read("style.css")
    parts["script"] = "".join(read(name) for name in scripts)
    first, *pieces = read(page).split("{{")
    return first + "".join(parts[piece.partition("}}")[0]] + piece.partition("}}")[2] for piece in pieces)


def table_html(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the final table; columns without any value are left out, and shares are drawn as bars."""
    columns = [name for name in PAGE_COLUMNS if name == "language" or any(row.get(name) is not None for row in rows)]
    head = "".join(f"<th>{html.escape(' '.join(PAGE_COLUMNS[name].split()))}</th>" for name in columns)
    body = []
    for row in rows:
        code = str(row["language"])
        cells = [f'<th scope="row">{html.escape(code)}</th>']
        for name in columns[1:]:
            value = row.get(name)
            share = value if name in SHARES and value is not None else 0.0
            bar = f' style="--share:{share:.4f}"' if share > 0 else ""  # a correlation may be negative
            low, high = row.get("intervals", {}).get(name) or (None, None)
            half = (
                f" <small>±{format_cell(name, (high - low) / 2)}</small>"
                if low is not None and high is not None
                else ""
            )
            shown = f"{format_cell(name, value)}{half}"
            cells.append(f'<td{bar} data-value="{"" if value is None else value}">{shown}</td>')
        kind = ' class="average"' if code == "mean" else f' data-language="{html.escape(code, quote=True)}"'
        body.append(f"<tr{kind}>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>" if rows else ""


def changed_keys(config: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Return (key, value, differs from the default) of every key of a config, in its order."""
    defaults = dict(_leaves(plain(default_config().to_dict())))
    return [(key, _show(value), defaults.get(key) != value) for key, value in _leaves(plain(config))]


def _leaves(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for key, value in config.items():
        leaves += _leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else [(prefix + key, value)]
    return leaves


def _show(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _curve_order(metric: str) -> tuple[int, str]:
    first = (*MEASURED, "retrieval_at_1")
    return (first.index(metric) if metric in first else len(first), metric)
