"""The tables of ``mlm-jax plan``, and a search as JSON."""

from __future__ import annotations

import dataclasses

from rich.console import Console
from rich.table import Column

from mlm_jax.common.tables import Table
from mlm_jax.parallel.topology import Topology
from mlm_jax.planning.answer import Answer
from mlm_jax.planning.estimate import Estimate
from mlm_jax.planning.hlo import Work
from mlm_jax.planning.plan import Plan
from mlm_jax.planning.roofline import Roofline
from mlm_jax.planning.search import RULE, Found, warning

SHOWN = 10  # estimates that a search's table lists
BOUNDS = {"matmul": "matrix products", "hbm": "HBM", "links": "links", "network": "network"}


def show_answer(planned: Answer, console: Console) -> None:
    """Print the answer of a plan, below its tables."""
    console.print()
    for one in planned.lines():
        console.print(one)


def show_plan(made: Plan, topology: Topology, console: Console) -> None:
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
