"""``mlm-jax prepare``."""

from __future__ import annotations

import argparse
import shlex

from mlm_jax.commands.options import adapted_config, add_config, path, store_folder
from mlm_jax.common.errors import UserError

ABOUT = "turn text into a token store"
EXAMPLE = "--config my_config.py --workdir runs/mine"
BEAM_OPTIONS = "--beam-options"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    add_config(parser)
    parser.add_argument(
        "--workdir", type=path, help="folder whose store/ is written, unless config.data.store names one"
    )
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--shard", metavar="I/N", help="write only shard I of N, counted from 0: for N machines at once")
    part.add_argument("--join", type=int, metavar="N", help="make the store from its N shards")
    part.add_argument("--beam", type=int, metavar="N", help="write N shards and join them as an Apache Beam pipeline")
    parser.add_argument(
        BEAM_OPTIONS, default="", metavar="'--runner=… …'", help="options of the pipeline, in one string"
    )


def arrange(arguments: list[str]) -> list[str]:
    """Join ``--beam-options`` and its value, which argparse would take for an option of ours ('--runner=…')."""
    if BEAM_OPTIONS not in arguments[:-1]:
        return arguments
    index = arguments.index(BEAM_OPTIONS)
    return [*arguments[:index], f"{BEAM_OPTIONS}={arguments[index + 1]}", *arguments[index + 2 :]]


def run(options: argparse.Namespace) -> None:
    """Prepare the store, one of its shards, or join shards."""
    from mlm_jax.data.store.freshness import is_fresh
    from mlm_jax.data.store.prepare import join, prepare, prepare_shard
    from mlm_jax.objectives import create_objectives
    from mlm_jax.training.check import check_data
    from mlm_jax.training.context import check_vocabulary

    config = adapted_config(options)
    check_data(config, create_objectives(config.tasks))  # errors should come now, not after hours of preparing
    folder = store_folder(config, options.workdir)
    if not is_fresh(config, folder):
        check_vocabulary(config)
    for option, number in (("--join", options.join), ("--beam", options.beam)):
        if number is not None and number < 1:
            raise UserError(f"{option} must be at least 1, not {number}", remedy="give the number of shards")
    if options.shard:
        index, slash, count = options.shard.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal()):
            raise UserError(f"--shard {options.shard} is not I/N", remedy="write --shard 0/8")
        prepare_shard(config, folder, int(index), int(count))
    elif options.join:
        join(config, folder, options.join)
    elif options.beam:
        from mlm_jax.data.store import beam

        beam.run(config, folder, options.beam, shlex.split(options.beam_options))
    else:
        prepare(config, folder)
