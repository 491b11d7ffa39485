"""Weak scaling by plan: memory, FLOPs and sent bytes of a chip, for more chips with the same rows on each.

    python benchmarks/weak_scaling.py --config configs/xlmr_xxl.py --rows-per-chip 4 \
        v5p:4x4x4 v5p:8x8x8 v5p:16x16x16

Scaling is perfect if the columns are the same in all rows. Nothing is run: every row is the real step, compiled for that
topology on this machine (docs/scale.md explains the numbers).
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.table import Table

from mlm_jax.common.errors import UserError
from mlm_jax.config import load_config
from mlm_jax.parallel import topology as topologies
from mlm_jax.planning.plan import Plan, plan
from mlm_jax.planning.tables import line, mesh_name


def planned(config_file: str, overrides: list[str], topology_name: str, rows_per_chip: int) -> Plan:
    """Return the plan of a config whose every task has ``rows_per_chip`` rows on each chip of a topology."""
    topology = topologies.parse(topology_name)
    config = load_config(config_file, tuple(overrides))
    config.mesh.slices = topology.slices
    config.tasks = {name: {**entry, "rows": rows_per_chip * topology.chips} for name, entry in config.tasks.items()}
    return plan(config, topology)


def row(made: Plan) -> tuple[str, ...]:
    """Return a plan as a line of the table."""
    chips = topologies.parse(made.topology).chips
    both = (made.work.collectives, made.work.network) if made.work else ({}, {})
    sent = [sum(one.sent for one in kinds.values()) / 1e9 for kinds in both]
    speed = f"{made.roofline.tokens_per_second / chips:,.0f}" if made.roofline else "does not fit"
    holds, computes = made.memory.peak / 1e9, made.flops.executed / chips / 1e12
    numbers = (f"{number:.2f}" for number in (holds, computes, *sent))
    return f"{chips:,}", made.topology, mesh_name(made.mesh), *numbers, speed, f"{made.compile_seconds:.0f}"


def main() -> int:
    """Print the table, a line as soon as its plan is made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("topologies", nargs="+", help="such as v5p:4x4x4 2xv5p:4x4x4")
    parser.add_argument("--config", required=True)
    parser.add_argument("--rows-per-chip", type=int, required=True, help="of every task")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    table = Table(
        "chips",
        "topology",
        "mesh",
        "HBM GB a chip",
        "TFLOP a chip",
        "links GB a chip",
        "network GB a chip",
        "tokens/s a chip at most",
        "compiled in s",
    )
    progress = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        for name in options.topologies:
            made = planned(options.config, options.set, name, options.rows_per_chip)
            progress.print(line(made), " | ".join(row(made)))
            table.add_row(*row(made))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    Console(width=160).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
