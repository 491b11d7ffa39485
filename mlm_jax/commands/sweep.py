"""``mlm-jax sweep``."""

from __future__ import annotations

import argparse

from mlm_jax.commands.options import add_config, path

ABOUT = "run the trials of a config file's sweep(), and compare them per language"
EXAMPLE = "--config configs/sweeps/alpha.py --workdir runs/alpha --dry-run"
RESUMES = True  # the same command continues what a signal stopped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    add_config(parser)
    parser.add_argument("--workdir", type=path, required=True, help="folder with a folder for each trial")
    parser.add_argument("--parallel", type=int, default=1, help="trials at a time, each on a device of its own")
    parser.add_argument(
        "--stop",
        choices=("halving", "median"),
        default="",
        help="end weak trials early, by what they have evaluated so far: asynchronous successive halving, or the median rule",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands instead of running them")


def run(options: argparse.Namespace) -> int:
    """Run the trials."""
    from mlm_jax.run.sweep import run_sweep

    return run_sweep(
        options.config,
        options.workdir,
        parallel=options.parallel,
        overrides=options.set,
        dry_run=options.dry_run,
        stop=options.stop,
    )
