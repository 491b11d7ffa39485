"""``mlm-jax plan``."""

from __future__ import annotations

import argparse
import os

from mlm_jax.commands.options import add_config, config_of

ABOUT = "compile the training step for another machine's topology: memory, FLOPs, collectives, bounds"
EXAMPLE = "--config configs/mmbert_base.py --topology v5e:4x4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    add_config(parser)
    parser.add_argument(
        "--topology", required=True, help="v5e:4x4, 2xv5p:8x8x8 (two slices), H100:8, H100:4x8 (hosts), cpu:8 …"
    )
    parser.add_argument(
        "--chip",
        default="",
        metavar="FIELD=NUMBER,…",
        help="a chip of your own: hbm=24e9,flops=165e12,bandwidth=1e12; also links, network, per_host",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--search",
        nargs="?",
        type=int,
        const=3,
        metavar="N",
        help="estimate meshes, recomputation and microbatches, compile until N fit (3), and rank them",
    )


def run(options: argparse.Namespace) -> int:
    """Plan the step."""
    os.environ["JAX_PLATFORMS"] = "cpu"  # accelerators of this machine, if any, are not the topology's
    from mlm_jax.planning.tables import plan_command

    return plan_command(
        config_of(options), options.topology, chip=options.chip, as_json=options.json, confirm=options.search
    )
