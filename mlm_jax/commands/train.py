"""``mlm-jax train``."""

from __future__ import annotations

import argparse

from mlm_jax.commands.options import add_config, config_of, path

ABOUT = "train a model: prepare the data if needed, resume if there is a checkpoint"
EXAMPLE = "--config my_config.py --workdir runs/mine --set optimizer.learning_rate=1e-3"
HUGE_PAGES = True  # the process may start itself again with huge pages, which make steps on a CPU faster
RESUMES = True  # the same command continues what a signal stopped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    add_config(parser)
    parser.add_argument("--workdir", type=path, required=True, help="folder of checkpoints, metrics and the report")
    parser.add_argument(
        "--init-from",
        type=path,
        metavar="CHECKPOINT",
        help='workdir or checkpoint whose weights a new run begins with, as checkpoint.init["from"]; the rest of '
        "checkpoint.init (include, exclude, rename) comes from the config",
    )
    parser.add_argument("--coordinator", help="HOST:PORT of process 0, if no cluster environment sets it")
    parser.add_argument("--process-count", type=int, help="processes of the job")
    parser.add_argument("--process-index", type=int, help="index of this process")


def run(options: argparse.Namespace) -> None:
    """Train."""
    from mlm_jax.parallel import multihost

    config = config_of(options)
    if options.init_from:
        config.checkpoint.init = {**config.checkpoint.init, "from": options.init_from}
    with multihost.job(options.coordinator, options.process_count, options.process_index):
        from mlm_jax.run.loop import train

        train(config, options.workdir)
