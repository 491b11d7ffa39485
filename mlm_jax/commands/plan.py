"""``mlm-jax plan``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from typing import TYPE_CHECKING

from mlm_jax.commands.options import add_config, config_of
from mlm_jax.common.errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

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
    return plan_command(
        config_of(options), options.topology, chip=options.chip, as_json=options.json, confirm=options.search
    )


def plan_command(
    config: ConfigDict, topology_name: str, *, chip: str = "", as_json: bool = False, confirm: int | None = None
) -> int:
    """Print a plan, or the result of a search; return 1 if the step does not fit.

    Args:
      config: the config of the run.
      topology_name: a topology such as ``v5e:4x4``.
      chip: the value of ``--chip``: numbers of a chip that is not in the table.
      as_json: whether to print JSON only.
      confirm: search, and compile until this many plans fit; None plans the config without a search.

    Raises:
      UserError: for the reasons of :func:`mlm_jax.planning.plan.plan` and :func:`mlm_jax.planning.search.search`.
    """
    import jax

    from mlm_jax.common.console import plain_console, table_console
    from mlm_jax.parallel.devices import is_simulated, why_simulated
    from mlm_jax.parallel.topology import check_mesh, parse
    from mlm_jax.planning.answer import answer
    from mlm_jax.planning.estimate import Estimator
    from mlm_jax.planning.plan import plan
    from mlm_jax.planning.search import search, settings
    from mlm_jax.planning.tables import line, search_json, show_answer, show_plan, show_search

    if config.adapt.model:
        raise UserError(
            "adapt.model is set, so the size of the model is known only when it has been adapted",
            remedy="run mlm-jax prepare --workdir WORKDIR first, and plan with --config WORKDIR/adapted/config.json",
        )
    topology = parse(topology_name, chip)
    if is_simulated(topology) and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", topology.device_count)
    if confirm is None:
        check_mesh(config.mesh, topology)  # before a message that something is compiled
    console, progress = table_console(soft_wrap=True), plain_console(stderr=True)
    if confirm != 0:
        each = "each plan" if confirm else "the step"
        if reason := why_simulated(topology):
            progress.print(f"memory and speed are estimated by formula: {reason}")
        progress.print(f"compiling {each} for {topology}, which takes minutes for a deep model")
    if confirm is not None:
        found = search(config, topology, confirm=confirm, report=lambda _, made: progress.print(line(made)))
        first = found.plans[0] if found.plans else found.estimates[0]
        planned = answer(found.estimator, first)
        if as_json:
            json.dump(search_json(found) | {"answer": dataclasses.asdict(planned)}, sys.stdout, indent=2)
        else:
            show_search(found, console)
            console.print(f"take {settings(first, topology)}")
            show_answer(planned, console)
        return 0
    made = plan(config, topology)
    planned = answer(Estimator(config, topology), made)
    if as_json:
        json.dump(made.as_json() | {"answer": dataclasses.asdict(planned)}, sys.stdout, indent=2)
    else:
        show_plan(made, topology, console)
        show_answer(planned, console)
    return 0 if made.memory.fits else 1
