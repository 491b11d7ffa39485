"""The pod on a laptop: compile a run's real training step for devices that are not there, and say what it would take."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from mlm_jax.batch import Batch
from mlm_jax.data import curriculum
from mlm_jax.errors import UserError
from mlm_jax.objectives import Objective, kinds
from mlm_jax.parallel import topology as topologies
from mlm_jax.parallel.flops import Flops, mfu
from mlm_jax.parallel.hlo import Collective, Work, work
from mlm_jax.parallel.mesh import AXES, make_mesh
from mlm_jax.parallel.topology import Topology
from mlm_jax.training.context import planned_context
from mlm_jax.training.cost import batch_shapes, in_phase, phase_flops, tokens_of
from mlm_jax.training.step import Program, build_program, make_train_step


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of HBM on each device, as the compiler lays them out.

    Attributes:
      arguments: state and batch.
      outputs: the new state, without what takes the place of an argument.
      temporaries: activations and whatever else lives within the step.
      peak: the most there is at any time.
      capacity: of the device; 0 where there is none to speak of (CPU).
    """

    arguments: float
    outputs: float
    temporaries: float
    peak: float
    capacity: float

    @property
    def fits(self) -> bool:
        """Return whether the step can run."""
        return not self.capacity or self.peak <= self.capacity


@dataclasses.dataclass(frozen=True)
class Roofline:
    """The least time a step can take, if all of a kind of work went at its peak and the kinds overlapped wholly.

    Attributes:
      matmul: seconds of matrix products, with those that are repeated.
      hbm: seconds to write each intermediate to HBM and to read it once.
      links: seconds to send what collectives send.
      tokens_per_second: over all devices, at most.
      mfu: at most.
    """

    matmul: float
    hbm: float
    links: float
    tokens_per_second: float
    mfu: float

    @property
    def seconds(self) -> float:
        """Return the time of the slowest kind of work."""
        return max(self.matmul, self.hbm, self.links)

    @property
    def bound(self) -> str:
        """Return which kind that is."""
        return max(("matmul", "hbm", "links"), key=lambda name: getattr(self, name))


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one step of a run takes on a topology.

    Attributes:
      topology: "v5e:4x4".
      mesh: {axis: devices}.
      dtype, microbatches, remat: of the step.
      memory: of each device.
      parameters: {group: (bytes of all, bytes on each device)}, a group being the first part of the path.
      optimizer: the same of the optimizer's state.
      flops: of all devices.
      collectives: {kind: how many and how much each device sends}; None if the step does not fit.
      unknown_loops: loops whose collectives are counted once.
      tokens: of a step.
      roofline: None if the step does not fit, or the chip has no peak.
      compile_seconds: on this machine.
      simulated: whether the numbers of memory and collectives are of simulated CPU devices.
    """

    topology: str
    mesh: dict[str, int]
    dtype: str
    microbatches: int
    remat: str
    memory: Memory
    parameters: dict[str, tuple[int, int]]
    optimizer: dict[str, tuple[int, int]]
    flops: Flops
    collectives: dict[str, Collective] | None
    unknown_loops: int
    tokens: int
    roofline: Roofline | None
    compile_seconds: float
    simulated: bool

    def as_json(self) -> dict[str, Any]:
        """Return the plan as JSON has it, with what follows from it."""
        found = dataclasses.asdict(self)
        found["memory"]["fits"] = self.memory.fits
        found["flops"] |= {"model": self.flops.model, "executed": self.flops.executed}
        if self.roofline is not None:
            found["roofline"] |= {"seconds": self.roofline.seconds, "bound": self.roofline.bound}
        return found


def plan(config: ConfigDict, topology: Topology) -> Plan:
    """Compile a run's training step for a topology, and return what it takes; needs no data and no accelerator.

    Where a curriculum changes the step, the phase with the most FLOPs is planned.

    Args:
      config: the run's config; its data may not exist.
      topology: what to plan for.

    Raises:
      UserError: the config cannot work, or the topology cannot be compiled for.
    """
    config = for_platform(config, topology)
    chip = topology.chip
    mesh = make_mesh(config.mesh, topologies.devices(topology))
    languages = planned_languages(config)
    context = planned_context(languages, config)
    labels = planned_labels(config)
    program = build_program(config, context, languages, mesh, labels=labels)
    phases = curriculum.resolve(config, languages, tuple(config.data.parallel))
    costs = [phase_flops(program, phase, chip.platform) for phase in phases]
    flops, phase = max(zip(costs, phases), key=lambda pair: pair[0].model)
    objectives = {task: in_phase(objective, phase) for task, objective in program.objectives.items()}
    batch = batch_shapes(config, mesh, phase)

    begin = time.perf_counter()
    memory, done = _compile(program, objectives, batch, capacity=chip.hbm_bytes / chip.devices_per_chip)
    seconds = time.perf_counter() - begin
    parameters, optimizer = _by_group(program)
    tokens = tokens_of(batch)
    return Plan(
        str(topology), dict(mesh.shape), config.model.dtype, config.training.microbatches, config.model.remat, memory,
        parameters, optimizer, flops, None if done is None else done.collectives, 0 if done is None else done.unknown_loops,
        tokens, None if done is None or not chip.peak_flops else roofline(topology, flops, memory, done, tokens), seconds,
        chip.platform != "tpu",
    )  # fmt: skip


def for_platform(config: ConfigDict, topology: Topology) -> ConfigDict:
    """Return a copy of the config in which what is chosen by platform is chosen for the topology's, not for this machine's."""
    config = config.copy_and_resolve_references()
    platform = topology.chip.platform
    if config.model.dtype == "auto":
        config.model.dtype = "float32" if platform == "cpu" else "bfloat16"
    if platform == "gpu":  # simulated on CPU devices, which have no cuDNN
        config.model.attention = "reference"
    return config


def planned_languages(config: ConfigDict) -> tuple[str, ...]:
    """Return the run's languages: ``config.languages``, or as its data names them.

    Raises:
      UserError: neither names any.
    """
    named = [*config.data.corpora, *(side for pair in config.data.parallel for side in pair.split("-"))]
    named += [side for name in config.data.mixture_languages.values() for side in name.split("-")]
    named += [entry["language"] for entry in config.data.labelled.values()]
    languages = tuple(config.languages) or tuple(dict.fromkeys(named))
    if not languages:
        raise UserError("the config names no languages", remedy="set config.languages or config.data.corpora")
    return languages


def planned_labels(config: ConfigDict) -> dict[str, int]:
    """Return {classification task: number of labels} by what ``config.data.labelled`` says.

    Raises:
      UserError: it does not say which labels there are.
    """
    found = {}
    for task, kind in kinds(config.tasks).items():
        if kind != "labelled":
            continue
        wanted = tuple(config.tasks[task].get("data", ())) or tuple(config.data.labelled)
        labels = [config.data.labelled[name].get("labels", ()) for name in wanted if name in config.data.labelled]
        if not labels or not labels[0]:
            raise UserError(f"task {task!r}: how many labels there are is only known from data, which a plan does not read",
                            remedy='write "labels": (...) in config.data.labelled')  # fmt: skip
        found[task] = len(labels[0])
    return found


def roofline(topology: Topology, flops: Flops, memory: Memory, done: Work, tokens: int) -> Roofline:
    """Return the bounds that peak rates set on a step."""
    chip, parts = topology.chip, topology.chip.devices_per_chip
    matmul = flops.executed / (topology.chips * chip.peak_flops)
    hbm = (memory.arguments + 2 * done.written) / (chip.hbm_bandwidth / parts)
    links = sum(one.sent for one in done.collectives.values()) / (chip.link_bandwidth / parts)
    seconds = max(matmul, hbm, links)
    return Roofline(matmul, hbm, links, tokens / seconds, mfu(flops.model, seconds, topology.chips, chip.peak_flops))


def search(config: ConfigDict, topology: Topology, *, report: Any = None) -> list[Plan]:
    """Return the plans that fit, the fastest bound first: of each mesh the one that saves least memory.

    For a mesh, recomputation and then microbatches are raised until the step fits, for each only costs time. Meshes
    whose state alone is too large are left out.

    Args:
      config: the run's config.
      topology: what to plan for.
      report: called with each plan as it is made.

    Raises:
      UserError: nothing fits.
    """
    found = []
    for mesh in meshes(config, topology):
        for remat, parts in savings(config, mesh):
            trial = config.copy_and_resolve_references()
            trial.mesh.update(mesh)
            trial.model.remat, trial.training.microbatches = remat, parts
            made = plan(trial, topology)
            if report is not None:
                report(made)
            if made.memory.fits:
                found.append(made)
                break
            state = sum(each for _, each in (*made.parameters.values(), *made.optimizer.values()))
            if state > made.memory.capacity:
                break
    if not found:
        raise UserError(f"no mesh, microbatches or recomputation make this step fit {topology}",
                        remedy="use more chips, fewer rows or a smaller model")  # fmt: skip
    return sorted(found, key=lambda made: -(made.roofline.tokens_per_second if made.roofline else 0.0))


def meshes(config: ConfigDict, topology: Topology) -> Iterator[dict[str, int]]:
    """Yield {axis: devices} of powers of two over data, fsdp and tensor whose product is the topology's devices."""
    devices, rows = topology.device_count, min(entry["rows"] for entry in config.tasks.values())
    sizes = [2**power for power in range(devices.bit_length()) if devices % 2**power == 0]
    for tensor in sizes:
        if tensor > 8 or config.model.heads % tensor or config.model.mlp_width % tensor:
            continue
        for fsdp in sizes:
            if devices % (tensor * fsdp) == 0 and rows % (devices // tensor) == 0:
                yield dict(zip(AXES, (devices // (tensor * fsdp), fsdp, tensor, 1), strict=True))


def savings(config: ConfigDict, mesh: dict[str, int]) -> Iterator[tuple[str, int]]:
    """Yield (remat, microbatches) from what is fastest to what saves most memory."""
    rows = min(entry["rows"] for entry in config.tasks.values()) // (mesh["data"] * mesh["fsdp"])
    yield from (("none", 1), ("dots", 1))
    yield from (("full", parts) for parts in (1, 2, 4, 8, 16, 32) if rows % parts == 0)


def _compile(program: Program, objectives: dict[str, Objective], batch: Batch, *,
             capacity: float) -> tuple[Memory, Work | None]:  # fmt: skip
    arguments = sum(_bytes(leaf)[1] for leaf in jax.tree.leaves((program.state, batch)))
    lowered = make_train_step(program, objectives=objectives).lower(program.state, batch)  # type: ignore[attr-defined]
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        # libtpu says either how much the whole program takes, or how much its temporaries alone do.
        whole = re.search(r"Used ([\d.]+)([KMG]) of ([\d.]+)([KMG]) hbm", str(error))
        alone = re.search(r"temporaries \(([\d.]+)([KMG])\) exceeds available HBM \(([\d.]+)([KMG])\)", str(error))
        said = whole or alone
        if "RESOURCE_EXHAUSTED" not in str(error) or said is None:
            raise
        unit = {"K": 2**10, "M": 2**20, "G": 2**30}
        used, available = float(said[1]) * unit[said[2]], float(said[3]) * unit[said[4]]
        temporaries = used - arguments if whole else used
        return Memory(arguments, 0.0, temporaries, arguments + temporaries, available), None
    found = compiled.memory_analysis()
    outputs = found.output_size_in_bytes - found.alias_size_in_bytes
    peak = found.argument_size_in_bytes + outputs + found.temp_size_in_bytes + found.generated_code_size_in_bytes
    memory = Memory(found.argument_size_in_bytes, outputs, found.temp_size_in_bytes, peak, capacity)
    return memory, work(compiled.as_text())


def _by_group(program: Program) -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]]]:
    """Return {group: (bytes, bytes on each device)} of the parameters, and of the optimizer's state."""
    groups = set(program.state.params)
    found: list[dict[str, tuple[int, int]]] = []
    for tree in (program.state.params, program.state.optimizer_state):
        sums: dict[str, tuple[int, int]] = {}
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            names = [str(getattr(entry, "key", getattr(entry, "name", ""))) for entry in path]
            group = next((name for name in names if name in groups), "counters")
            total, each = sums.get(group, (0, 0))
            more = _bytes(leaf)
            sums[group] = (total + more[0], each + more[1])
        found.append(sums)
    return found[0], found[1]


def _bytes(leaf: Any) -> tuple[int, int]:
    each = leaf.sharding.shard_shape(leaf.shape)
    return math.prod(leaf.shape) * leaf.dtype.itemsize, math.prod(each) * leaf.dtype.itemsize


def plan_command(config: ConfigDict, topology_name: str, *, as_json: bool = False, searching: bool = False) -> int:
    """Print a plan, or the plans of a search; return 1 if the step does not fit.

    Raises:
      UserError: as :func:`plan` and :func:`search`.
    """
    topology = topologies.parse(topology_name)
    if topology.chip.platform != "tpu" and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", topology.device_count)
    console = Console(soft_wrap=True, highlight=False)
    if searching:
        progress = Console(stderr=True, highlight=False)
        plans = search(config, topology, report=lambda made: progress.print(_line(made)))
        if as_json:
            json.dump([made.as_json() for made in plans], sys.stdout, indent=2)
        else:
            console.print(search_table(plans))
        return 0
    made = plan(config, topology)
    if as_json:
        json.dump(made.as_json(), sys.stdout, indent=2)
    else:
        show(made, topology, console)
    return 0 if made.memory.fits else 1


def show(made: Plan, topology: Topology, console: Console) -> None:
    """Print a plan as tables."""
    console.print(_line(made))
    if made.simulated:
        console.print(f"compiled for simulated CPU devices: memory and collectives are not those of a {topology.chip.name}")
    memory = Table("HBM on each device", "GB", title_justify="left")
    for name in ("arguments", "outputs", "temporaries", "peak", "capacity"):
        memory.add_row(name, _gb(getattr(made.memory, name)))
    console.print(memory)
    groups = Table("group", "parameters GB", "on each device", "optimizer GB", "on each device")
    for name in dict.fromkeys((*made.parameters, *made.optimizer)):
        sizes = (*made.parameters.get(name, (0, 0)), *made.optimizer.get(name, (0, 0)))
        groups.add_row(name, *(_gb(size) for size in sizes))
    console.print(groups)
    if made.collectives is not None:
        table = Table("collective", "a step", "GB sent by each device")
        for kind, one in made.collectives.items():
            table.add_row(kind, f"{one.count:,}", _gb(one.sent))
        console.print(table)
        if made.unknown_loops:
            console.print(f"{made.unknown_loops} loop(s) of unknown length: what they send is counted once")
    flops = Table("FLOPs of a step", "TFLOP")
    for name, value in (*made.flops.parts.items(), ("recomputed", made.flops.recomputed), ("in all", made.flops.executed)):
        flops.add_row(name, f"{value / 1e12:,.3f}")
    console.print(flops)
    if made.roofline is not None:
        bounds = made.roofline
        table = Table("bound", "ms a step")
        for name, value in (("matrix products", bounds.matmul), ("HBM", bounds.hbm), ("links", bounds.links)):
            table.add_row(name, f"{value * 1e3:,.2f}")
        console.print(table)
        console.print(f"at most {bounds.tokens_per_second:,.0f} tokens/s, MFU {bounds.mfu:.1%}; peaks: {topology.chip.source}")
    console.print(f"compiled in {made.compile_seconds:.1f} s")


def search_table(plans: list[Plan]) -> Table:
    """Return the plans as rows, in their order."""
    table = Table("mesh", "remat", "microbatches", "peak GB", "tokens/s at most", "bound by")
    for made in plans:
        speed = made.roofline
        table.add_row(_mesh(made), made.remat, str(made.microbatches), _gb(made.memory.peak),
                      f"{speed.tokens_per_second:,.0f}" if speed else "", speed.bound if speed else "")  # fmt: skip
    return table


def _line(made: Plan) -> str:
    verdict = "fits" if made.memory.fits else "does NOT fit"
    return (
        f"{made.topology} {_mesh(made)} {made.dtype} remat={made.remat} microbatches={made.microbatches}: "
        f"{_gb(made.memory.peak)} of {_gb(made.memory.capacity)} GB, {verdict}"
    )


def _mesh(made: Plan) -> str:
    return " ".join(f"{axis}={size}" for axis, size in made.mesh.items() if size > 1) or "one device"


def _gb(size: float) -> str:
    return f"{size / 1e9:,.3f}"
