"""``mlm-jax report``."""

from __future__ import annotations

import argparse

from mlm_jax.commands.options import path

ABOUT = "write report.html again from the metrics of a workdir"
EXAMPLE = "runs/mine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("workdir", type=path, help="folder of a run")
    parser.add_argument(
        "--beside", type=path, metavar="WORKDIR", help="another run: its curves, and differences to it, are shown too"
    )


def run(options: argparse.Namespace) -> None:
    """Write the report, and print where it is."""
    from mlm_jax.common.bucket import original
    from mlm_jax.common.disk import disk_errors
    from mlm_jax.report import write_report

    with disk_errors(options.workdir):
        report = write_report(options.workdir, options.beside)
    print(original(report))
