"""The tables at the end of a run: tokens, mix and metrics of each language."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mlm_jax.report.history import AVERAGES, curves_by_language, retrieval_curves

if TYPE_CHECKING:
    from mlm_jax.common.tables import Table
    from mlm_jax.evaluation.classification import TransferMatrix
    from mlm_jax.training.gradient_cosine import GradientCosines


@dataclasses.dataclass(frozen=True)
class LanguageRow:
    """The row of one language; a value that the run did not measure is None.

    Attributes:
      language: a language's code, ``mean``, or a source such as ``de:wiki``.
      tokens: tokens that were read in training.
      planned: planned share of the first task's rows, over the steps so far.
      realised: realised share of these rows.
      loss: held-out loss in nats a predicted token.
      accuracy: held-out accuracy, as a share of predicted tokens.
      bits_per_byte: held-out bits per byte.
      exact_match: share of questions whose answer is right.
      f1: F1 of entities, classes or answers.
      pearson: correlation of predicted and gold numbers.
      spearman: correlation of their ranks.
      retrieval_at_1: mean accuracy over the language pairs with this language, both directions.
    """

    language: str
    tokens: int | None = None
    planned: float | None = None
    realised: float | None = None
    loss: float | None = None
    accuracy: float | None = None
    bits_per_byte: float | None = None
    exact_match: float | None = None
    f1: float | None = None
    pearson: float | None = None
    spearman: float | None = None
    retrieval_at_1: float | None = None


MEASURED = ("loss", "accuracy", "bits_per_byte", "exact_match", "f1", "pearson", "spearman")  # of the first task


def language_rows(
    languages: Sequence[str],
    metrics: Mapping[str, float],
    tokens: Mapping[str, int],
    planned: Mapping[str, float],
    realised: Mapping[str, float],
    sources: Sequence[str] = (),
) -> list[LanguageRow]:
    """Make a row of each language, with its sources below it, and one of means over languages.

    Args:
      languages: language codes in index order.
      metrics: {"eval/loss/de": value, …} of the last evaluation.
      tokens: {language: tokens that were read in training}.
      planned: {language: planned share of the first task's rows}.
      realised: {language: realised share of these rows}.
      sources: sources such as ``de:wiki``, which are keys of all of these, too; sources of pairs have no row.
    """
    retrieval = _retrieval(metrics, languages)

    def row(name: str) -> LanguageRow:
        return LanguageRow(
            name,
            tokens.get(name),
            planned.get(name),
            realised.get(name),
            **{metric: metrics.get(f"eval/{metric}/{name}") for metric in MEASURED},
            retrieval_at_1=retrieval.get(name),
        )

    rows = {code: [row(code), *(row(name) for name in sources if name.startswith(f"{code}:"))] for code in languages}
    means = mean_row([first for first, *_ in rows.values()], retrieval.get("mean"))
    return [*itertools.chain.from_iterable(rows.values()), means]


def mean_row(rows: Sequence[LanguageRow], retrieval: float | None = None) -> LanguageRow:
    """Return the row of means over the languages that have a value, and ``retrieval``, the mean over pairs."""

    def values(name: str) -> list[float]:
        return [value for row in rows if (value := getattr(row, name)) is not None]

    means = {name: float(np.mean(values(name))) if values(name) else None for name in MEASURED}
    return LanguageRow("mean", tokens=None, retrieval_at_1=retrieval, **means)


def language_table(rows: Sequence[LanguageRow], title: str = "") -> Table:
    """Return a table for ``table_console().print``; columns without any value are left out."""
    table = _table(title)
    columns = [name for name in COLUMNS if name == "language" or any(getattr(row, name) is not None for row in rows)]
    for name in columns:
        table.add_column(COLUMNS[name], justify="left" if name == "language" else "right")
    for row in rows:
        if row.language == "mean":
            table.add_section()
        cells = [row.language if name == "language" else format_cell(name, getattr(row, name)) for name in columns]
        table.add_row(*cells, style="bold" if row.language == "mean" else None)
    return table


def metrics_table(
    metrics: Mapping[str, float],
    languages: Sequence[str],
    title: str = "",
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> Table:
    """Return a table of all metrics of an evaluation: a row for each language, a column for each metric.

    Args:
      metrics: {"eval/loss/de": value, "eval/ranking/loss/de": value, …}; retrieval is averaged over a language's pairs.
      languages: language codes in index order.
      title: the title of the table.
      intervals: {metric key: its interval}, by directed pair for retrieval.
    """
    halves = half_widths(intervals or {})
    curves = curves_by_language({key: [(0, value)] for key, value in metrics.items()}, languages)
    columns = {name: {code: series[0][1] for code, series in lines["eval"].items()} for name, lines in curves.items()}
    retrieval = _retrieval(metrics, languages)
    columns |= {"retrieval_at_1": retrieval} if retrieval else {}
    table = _table(title)
    table.add_column("language")
    for name in columns:
        task, _, metric = name.rpartition("/")
        heading = COLUMNS.get(metric) or SHARES.get(metric) or SCORES.get(metric, metric)
        table.add_column(f"{task}\n{heading}".strip(), justify="right")
    for code in (*languages, *AVERAGES):
        cells = [
            format_cell(name.rpartition("/")[2], values.get(code), halves.get(f"eval/{name}/{code}"))
            for name, values in columns.items()
        ]
        if any(cells):
            if code in AVERAGES:
                table.add_section()
            table.add_row(code, *cells, style="bold" if code in AVERAGES else None)
    return table


def task_tables(metrics: Mapping[str, float], tasks: Iterable[str], languages: Sequence[str]) -> list[Table]:
    """Return a table of metrics for each task except the first, which :func:`language_table` shows.

    Args:
      metrics: {"eval/ranking/loss/de": value, …}.
      tasks: names of the tasks in the config's order.
      languages: language codes in index order.
    """
    tables = []
    for task in itertools.islice(tasks, 1, None):
        prefix = f"eval/{task}/"
        own = {f"eval/{key.removeprefix(prefix)}": value for key, value in metrics.items() if key.startswith(prefix)}
        tables += [metrics_table(own, languages, task)] if own else []
    return tables


def cosine_table(found: GradientCosines, title: str = "") -> Table:
    """Return a table of the cosines between gradients, with the norm of each gradient."""
    table = _table(title)
    table.add_column("")
    for name in (*found.names, "norm"):
        table.add_column(name, justify="right")
    for name, cosines, norm in zip(found.names, found.cosines, found.norms):
        table.add_row(name, *("–" if np.isnan(value) else f"{value:.2f}" for value in cosines), f"{norm:.3g}")
    return table


def transfer_table(matrix: TransferMatrix, task: str = "") -> Table:
    """Return a table of zero-shot transfer, with each source's mean on the other languages and its gap."""
    title = f"{task}: {matrix.metric} (%), source × target" if task else f"{matrix.metric} (%), source × target"
    table = _table(title)
    table.add_column("fine-tuned on")
    for target in matrix.targets:
        table.add_column(target, justify="right")
    for name in ("others", "gap"):
        table.add_column(name, justify="right", style="bold")
    table.add_column("checkpoint chosen by")
    for source, scores, chosen in zip(matrix.sources, matrix.scores, matrix.selected_by):
        cells = [f"{100 * score:.1f}" if np.isfinite(score) else "" for score in scores]
        others = [score for target, score in zip(matrix.targets, scores) if target != source and np.isfinite(score)]
        has_gap = source in matrix.targets and bool(others)
        gap = [f"{100 * matrix.transfer(source):.1f}", f"{100 * matrix.gap(source):.1f}"] if has_gap else ["", ""]
        table.add_row(source, *cells, *gap, chosen or "last step")
    return table


COLUMNS = {  # in two lines, so that the table fits a terminal of 80 columns
    "language": "language",
    "tokens": "tokens\nseen",
    "planned": "planned\n%",
    "realised": "realised\n%",
    "loss": "loss",
    "accuracy": "accuracy\n%",
    "bits_per_byte": "bits per\nbyte",
    "exact_match": "exact\nmatch %",
    "f1": "F1\n%",
    "pearson": "Pearson's\nr %",
    "spearman": "Spearman's\nρ %",
    "retrieval_at_1": "retrieval\n@1 %",
}

SHARES = {  # shown in percent
    **{name: COLUMNS[name] for name in ("accuracy", "exact_match", "f1", "pearson", "spearman", "retrieval_at_1")},
    "retrieval_at_1_cosine": "by cosine\n%",
    "retrieval_at_1_ratio_margin": "by margin\n%",
}

SCORES = {"chrf": "chrF++", "bleu": "BLEU"}  # from 0 to 100


def half_widths(intervals: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Return {metric key: half of the width of its interval}."""
    return {key: (high - low) / 2 for key, (low, high) in intervals.items()}


def format_cell(name: str, value: float | None, half: float | None = None) -> str:
    """Return a cell's text: counts with separators or in millions, shares in percent, the rest with three decimals.

    Args:
      name: the name of the column.
      value: the value of the cell.
      half: half of the width of its interval, which is written after the value.
    """
    if half is not None:
        return f"{format_cell(name, value)} ±{format_cell(name, half)}"
    if value is None:
        return ""
    if name == "tokens":
        return f"{int(value):,}" if value < 1e7 else f"{value / 1e6:,.1f} M"
    if name in ("planned", "realised"):
        return f"{100 * value:.2f}"
    if name in SHARES:
        return f"{100 * value:.1f}"
    if name == "perplexity":
        return f"{value:,.1f}"
    if name == "gap":
        return f"{value:+.3f}"
    return f"{value:.3f}"


def _retrieval(metrics: Mapping[str, float], languages: Sequence[str]) -> dict[str, float]:
    """Return {language or "mean": accuracy@1} of one evaluation, as :func:`retrieval_curves` averages it."""
    curves = retrieval_curves({key: [(0, value)] for key, value in metrics.items()}, languages)
    return {code: value for code, ((_, value),) in curves.items()}


def _table(title: str) -> Table:
    from rich.box import SIMPLE_HEAD

    from mlm_jax.common.tables import Table

    return Table(title=title or None, header_style="bold", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
