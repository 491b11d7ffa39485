"""Plans as tables or JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import sys

import jax
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Column

from mlm_jax.common.console import plain_console, table_console
from mlm_jax.common.tables import Table
from mlm_jax.parallel.devices import is_simulated, why_simulated
from mlm_jax.parallel.topology import Topology, check_mesh, parse
from mlm_jax.planning.answer import Answer, answer
from mlm_jax.planning.estimate import Estimate, Estimator
from mlm_jax.planning.hlo import Work
from mlm_jax.planning.plan import Plan, plan
from mlm_jax.planning.roofline import Roofline
from mlm_jax.planning.search import RULE, Found, search, settings, warning

SHOWN = 10  # estimates that a search's table lists
BOUNDS = {"matmul": "matrix products", "hbm": "HBM", "links": "links", "network": "network"}


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
      UserError: for the reasons of :func:`plan` and :func:`search`.
    """
    topology = parse(topology_name, chip)
    if is_simulated(topology) and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", topology.device_count)
    if confirm is None:
        check_mesh(config.mesh, topology)  # before anything is said to be compiled
    console, progress = table_console(soft_wrap=True), plain_console(stderr=True)
    if confirm != 0:
        each = "each plan" if confirm else "the step"
        if reason := why_simulated(topology):
            progress.print(f"memory and speed are estimated by formula: {reason}")
        progress.print(f"compiling {each} for {topology}, which takes minutes for a deep model")
    if confirm is not None:
        found = search(config, topology, confirm=confirm, report=lambda _, made: progress.print(line(made)))
        first = found.plans[0] if found.plans else found.estimates[0]
        said = answer(found.estimator, first)
        if as_json:
            json.dump(search_json(found) | {"answer": dataclasses.asdict(said)}, sys.stdout, indent=2)
        else:
            show_search(found, console)
            console.print(f"take {settings(first, topology)}")
            show_answer(said, console)
        return 0
    made = plan(config, topology)
    said = answer(Estimator(config, topology), made)
    if as_json:
        json.dump(made.as_json() | {"answer": dataclasses.asdict(said)}, sys.stdout, indent=2)
    else:
        show(made, topology, console)
        show_answer(said, console)
    return 0 if made.memory.fits else 1


def show_answer(said: Answer, console: Console) -> None:
    """Print the answer of a plan, below its tables."""
    console.print()
    for one in said.lines():
        console.print(one)


def show(made: Plan, topology: Topology, console: Console) -> None:
    """Print a plan as tables."""
    console.print(line(made))
    if made.simulated and topology.chip.platform == "gpu":
        console.print(
            f"compiled for simulated CPU devices, which shows that shards and mesh work; memory and bounds of a "
            f"{topology.chip.name} are by formula"
        )
    memory = Table("HBM on each device", _number("GB"))
    for name in ("arguments", "outputs", "temporaries", "peak", "capacity"):
        if name != "capacity" or made.memory.capacity:  # unknown of simulated CPUs
            memory.add_row(name, _gb(getattr(made.memory, name)))
    console.print(memory)
    groups = Table("group", *map(_number, ("parameters GB", "on each device", "optimizer GB", "on each device")))
    for name in dict.fromkeys((*made.parameters, *made.optimizer)):
        sizes = (*made.parameters.get(name, (0, 0)), *made.optimizer.get(name, (0, 0)))
        groups.add_row(name, *(_gb(size) for size in sizes))
    console.print(groups)
    if made.work is not None:
        _show_work(made.work, console, simulated=made.simulated)
    flops = Table("FLOPs of a step", _number("TFLOP"))
    for name, value in (
        *made.flops.parts.items(),
        ("recomputed", made.flops.recomputed),
        ("in all", made.flops.executed),
    ):
        flops.add_row(name, _thousandths(value / 1e12))
    console.print(flops)
    bounds = made.roofline
    if bounds is not None:
        table = Table("bound", _number("ms a step"))
        for kind, name in BOUNDS.items():
            if kind != "network" or bounds.network:
                table.add_row(name, _thousandths(getattr(bounds, kind) * 1e3))
        console.print(table)
        console.print(f"MFU at most {bounds.mfu:.1%}; peaks: {topology.chip.source}")
    if topology.chip.platform == "gpu" and not made.simulated:
        console.print(
            "not known without the card: which kernels autotuning takes (cuBLAS instead of Triton, other tile "
            "sizes), and the workspace of cuBLAS, cuDNN and NCCL"
        )
    console.print(f"compiled in {made.compile_seconds:.1f} s")


def _show_work(done: Work, console: Console, *, simulated: bool) -> None:
    if done.collectives or done.network:
        table = Table("collective", "over", *map(_number, ("a step", "GB sent by each device", "of it waited for")))
        for over, kinds in (("links", done.collectives), ("network", done.network)):
            for kind, one in kinds.items():
                table.add_row(kind, over, f"{one.count:,}", _gb(one.sent), _gb(one.waited))
        console.print(table)
    else:
        console.print("no collectives: devices send each other nothing")
    if not simulated:
        table = Table("kernels", _number("a step"))
        for kind, count in done.kernels.items():
            table.add_row(kind, f"{count:,}")
        console.print(table)
    if done.unknown_loops:
        console.print(f"{done.unknown_loops} loop(s) of unknown length: their work is counted once")
    if done.cycles:
        console.print(
            f"{done.cycles / 1e6:,.1f} M cycles by the compiler's cost model, without attention kernels and collectives"
        )


def show_search(found: Found, console: Console) -> None:
    """Print the estimates and the compiled plans, both in the order of their rank."""
    topology, shown = found.topology, f"{min(SHOWN, len(found.estimates))} of {len(found.estimates)} meshes"
    console.print(f"{found.tried} combinations of mesh, remat and microbatches estimated by formula for {topology}")
    console.print(f"of each mesh the first that should fit ({shown}), {RULE}:")
    table = _search_table()
    for one in found.estimates[:SHOWN]:
        table.add_row(
            mesh_name(one.mesh),
            one.remat,
            str(one.microbatches),
            _gb(one.peak),
            *_speed(one.roofline),
            warning(one.mesh, topology),
        )
    console.print(table)
    if not found.compiled:
        return
    if found.compiled[0][1].simulated:
        console.print(
            f"{len(found.compiled)} of them compiled for simulated CPU devices; what fits and how fast is the formula's"
        )
        return
    console.print(f"{len(found.compiled)} compiled, of which {len(found.plans)} fit:")
    table = _search_table("estimated GB")
    for one, made in found.ranked:
        peak = _gb(made.memory.peak) + ("" if made.memory.fits else " does NOT fit")
        table.add_row(
            mesh_name(made.mesh),
            made.remat,
            str(made.microbatches),
            peak,
            *_speed(made.roofline),
            warning(made.mesh, topology),
            _gb(one.peak),
        )
    console.print(table)


def search_json(found: Found) -> dict:
    """Return the result of a search as JSON values; plans that fit come first."""
    plans = [made.as_json() for _, made in found.ranked]
    estimates = [estimate_json(one) | {"warning": warning(one.mesh, found.topology)} for one in found.estimates]
    return {"tried": found.tried, "rule": RULE, "estimates": estimates, "plans": plans}


def estimate_json(one: Estimate) -> dict:
    """Return an estimate as JSON values, with derived values."""
    bounds = one.roofline
    follows = {"seconds": bounds.seconds, "bound": bounds.bound} if bounds else {}
    return dataclasses.asdict(one) | {"peak": one.peak} | follows


def line(made: Plan) -> str:
    """Return a plan in one line."""
    what = f"{made.topology} {mesh_name(made.mesh)} {made.dtype} remat={made.remat} microbatches={made.microbatches}"
    if not made.memory.capacity:
        return f"{what}: compiles"
    verdict = "fits" if made.memory.fits else "does NOT fit"
    return f"{what}: {_gb(made.memory.peak)} of {_gb(made.memory.capacity)} GB, {verdict}{' by formula' if made.simulated else ''}"


def mesh_name(mesh: dict[str, int]) -> str:
    """Return a mesh as "fsdp=4 tensor=2"."""
    return " ".join(f"{axis}={size}" for axis, size in mesh.items() if size > 1) or "one device"


def _search_table(*more: str) -> Table:
    return Table(
        Column("mesh", no_wrap=True),
        "remat",
        *map(_number, ("microbatches", "peak GB", "tokens/s expected", "at most")),
        "bound by",
        "warning",
        *map(_number, more),
    )


def _speed(bounds: Roofline | None) -> tuple[str, str, str]:
    if bounds is None:
        return "", "", ""
    return f"{bounds.expected_tokens_per_second:,.0f}", f"{bounds.tokens_per_second:,.0f}", BOUNDS[bounds.bound]


def _number(heading: str) -> Column:
    return Column(heading, justify="right", no_wrap=True)


def _gb(size: float) -> str:
    return _thousandths(size / 1e9)


def _thousandths(value: float) -> str:
    return "<0.001" if 0 < value < 0.0005 else f"{value:,.3f}"
