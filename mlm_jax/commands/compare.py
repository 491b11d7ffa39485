"""``mlm-jax compare``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlm_jax.commands.options import path
from mlm_jax.common.errors import UserError

if TYPE_CHECKING:
    from mlm_jax.report.comparison import Run

LONGEST_TITLE = 80  # characters
ABOUT = "compare runs: the config keys that differ, and each metric, language by language"
EXAMPLE = "runs/one runs/another --output comparison.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "workdirs", type=path, nargs="+", metavar="RUN", help="workdirs of runs; the first is the baseline"
    )
    parser.add_argument(
        "--metric",
        default="",
        help="metric of the table of languages, such as accuracy; by default the one that ranks the runs",
    )
    parser.add_argument(
        "--output", type=path, default="", metavar="FILE.html", help="page to write: tables, charts and curves"
    )


def page_title(runs: Sequence[Run]) -> str:
    """Return the names of the runs, or how many there are if the names are too long for a title."""
    names = " · ".join(run.name for run in runs)
    return names if len(names) <= LONGEST_TITLE else f"{len(runs)} runs"


def run(options: argparse.Namespace) -> None:
    """Print the tables, and write the page."""
    from mlm_jax.common.bucket import local_path
    from mlm_jax.common.console import table_console
    from mlm_jax.report.comparison import compare_workdirs, metric_named
    from mlm_jax.report.comparison_page import write_comparison
    from mlm_jax.report.comparison_tables import language_comparison, seeds_table, settings_table, summary_table

    if len(options.workdirs) < 2:
        raise UserError("there is nothing to compare", remedy="name two runs or more")
    runs = compare_workdirs([local_path(workdir) for workdir in options.workdirs])
    console = table_console()
    if runs[0].settings:
        console.print(settings_table(runs))
    console.print(summary_table(runs))
    if (seeds := seeds_table(runs)) is not None:
        console.print(seeds)
    if metric := metric_named(runs, options.metric):
        console.print(language_comparison(runs, metric, runs[0]))
    if options.output:
        print(write_comparison(Path(options.output), runs, title=page_title(runs)))
