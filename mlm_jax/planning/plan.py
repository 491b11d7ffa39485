"""Compile a run's training step for devices that this machine lacks, and list its memory, work and speed."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from mlm_jax.data.loading import curriculum
from mlm_jax.objectives import kinds
from mlm_jax.parallel import devices
from mlm_jax.parallel.batches import check_rows, row_group
from mlm_jax.parallel.mesh import make_mesh
from mlm_jax.parallel.topology import Topology, check_mesh
from mlm_jax.planning.estimate import Estimator
from mlm_jax.planning.hlo import Work, work
from mlm_jax.planning.prepare import Planned, for_platform, prepare
from mlm_jax.planning.roofline import Roofline, roofline
from mlm_jax.training.cost import tokens_of
from mlm_jax.training.flops import Flops
from mlm_jax.training.paths import by_path
from mlm_jax.training.step import Program, make_train_step


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of HBM on each device, in the compiler's layout.

    Attributes:
      arguments: bytes of state and batch.
      outputs: bytes of the new state, without outputs that reuse the memory of an argument.
      temporaries: bytes of activations and other arrays that exist only within the step.
      peak: the sum of all.
      capacity: bytes that a program may use; 0 if they are not known.
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
class Plan:
    """Memory, work and speed of one step of a run on a topology.

    Attributes:
      topology: "v5e:4x4".
      mesh: {axis: devices}.
      dtype, microbatches, remat: settings of the step.
      memory: the memory of each device.
      parameters: {group: (bytes of all, bytes on each device)}; the group is the first part of a parameter's path.
      optimizer: the same for the optimizer state.
      flops: the FLOPs of all devices.
      work: the work of the compiled step on each device; None if the step does not fit.
      tokens: the number of tokens of a step.
      roofline: None if the step does not fit, or the chip has no peaks.
      compile_seconds: compile time on this machine.
      simulated: whether the step was compiled for simulated CPU devices. For GPUs, ``memory`` and ``roofline`` are then estimates
        by formula, and ``work`` is None, because the work of CPUs is not that of GPUs.
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
    work: Work | None
    tokens: int
    roofline: Roofline | None
    compile_seconds: float
    simulated: bool

    def as_json(self) -> dict[str, Any]:
        """Return the plan as JSON values, with derived values."""
        found = dataclasses.asdict(self)
        found |= found.pop("work") or {field.name: None for field in dataclasses.fields(Work)}
        found["memory"]["fits"] = self.memory.fits
        found["flops"] |= {"model": self.flops.model, "executed": self.flops.executed}
        if self.roofline is not None:
            found["roofline"] |= {"seconds": self.roofline.seconds, "bound": self.roofline.bound}
        return found


def plan(config: ConfigDict, topology: Topology) -> Plan:
    """Compile a run's training step for a topology, and return its plan; needs no data and no accelerator.

    If a curriculum changes the step, the phase with the most FLOPs is planned.

    Args:
      config: the run's config; its data may not exist.
      topology: the devices.

    Raises:
      UserError: the config is invalid, or nothing here can compile for the topology.
    """
    simulated = devices.is_simulated(topology)
    original, chip = config, topology.chip
    config = for_platform(config, topology, simulated=simulated)
    check_mesh(config.mesh, topology)
    mesh = make_mesh(config.mesh, devices.devices(topology))
    # Simulated devices belong to one process.
    groups = row_group(mesh)[1] if not (simulated and chip.platform == "gpu") else topology.hosts
    for tasks in curriculum.tasks_by_phase(config, kinds(config.tasks)):
        check_rows(tasks, mesh, config.training.microbatches, groups)
    planned = prepare(config, topology, mesh)
    begin = time.perf_counter()
    memory, done = _compile(planned, topology)
    seconds = time.perf_counter() - begin
    parameters, optimizer = _by_group(planned.program)
    tokens, flops, bounds = tokens_of(planned.batch), planned.flops, None
    if done is not None and not simulated:
        over = (done.collectives, done.network)
        links, network = (sum(one.sent for one in kinds.values()) for kinds in over)
        waited = (sum(one.waited for one in over[0].values()), sum(one.waited for one in over[1].values()))
        bounds = roofline(
            topology,
            planned.flops,
            hbm=memory.arguments + 2 * done.written,
            links=links,
            network=network,
            tokens=tokens,
            waited=waited,
        )
    if simulated and chip.platform == "gpu":
        estimator = Estimator(original, topology)
        guess = estimator(dict(mesh.shape), config.model.remat, config.training.microbatches)
        memory = Memory(guess.arguments, 0.0, guess.temporaries, guess.peak, topology.capacity)
        done, flops, bounds = None, estimator.flops, guess.roofline
    return Plan(
        str(topology),
        dict(mesh.shape),
        config.model.dtype,
        config.training.microbatches,
        config.model.remat,
        memory,
        parameters,
        optimizer,
        flops,
        done,
        tokens,
        bounds,
        seconds,
        simulated,
    )


def _compile(planned: Planned, topology: Topology) -> tuple[Memory, Work | None]:
    program, batch = planned.program, planned.batch
    simulated = devices.is_simulated(topology)  # such devices have the memory of this machine
    capacity = 0.0 if simulated else topology.capacity
    arguments = sum(_bytes(leaf)[1] for leaf in jax.tree.leaves((program.state, batch)))
    lowered = make_train_step(program, objectives=planned.objectives).lower(program.state, batch)  # type: ignore[attr-defined]
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        # libtpu reports the memory either of the whole program, or of its temporaries alone.
        whole = re.search(r"Used ([\d.]+)([KMG]) of ([\d.]+)([KMG]) hbm", str(error))
        alone = re.search(r"temporaries \(([\d.]+)([KMG])\) exceeds available HBM \(([\d.]+)([KMG])\)", str(error))
        sizes = whole or alone
        if "RESOURCE_EXHAUSTED" not in str(error) or sizes is None:
            raise
        unit = {"K": 2**10, "M": 2**20, "G": 2**30}
        used, available = float(sizes[1]) * unit[sizes[2]], float(sizes[3]) * unit[sizes[4]]
        temporaries = used - arguments if whole else used
        return Memory(arguments, 0.0, temporaries, arguments + temporaries, available), None
    found = compiled.memory_analysis()
    outputs = found.output_size_in_bytes - found.alias_size_in_bytes
    peak = found.argument_size_in_bytes + outputs + found.temp_size_in_bytes + found.generated_code_size_in_bytes
    memory = Memory(found.argument_size_in_bytes, outputs, found.temp_size_in_bytes, peak, capacity)
    return memory, work(compiled.as_text(), topology.slices, topology.linked if topology.chip.platform == "gpu" else 0)


def _by_group(program: Program) -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]]]:
    """Return {group: (bytes, bytes on each device)} of the parameters, and of the optimizer's state."""
    groups = set(program.state.params)
    found: list[dict[str, tuple[int, int]]] = []
    for tree in (program.state.params, program.state.optimizer_state):
        sums: dict[str, tuple[int, int]] = {}
        for path, leaf in by_path(tree).items():
            group = next((name for name in path.split("/") if name in groups), "counters")
            total, each = sums.get(group, (0, 0))
            more = _bytes(leaf)
            sums[group] = (total + more[0], each + more[1])
        found.append(sums)
    return found[0], found[1]


def _bytes(leaf: Any) -> tuple[int, int]:
    each = leaf.sharding.shard_shape(leaf.shape)
    return math.prod(leaf.shape) * leaf.dtype.itemsize, math.prod(each) * leaf.dtype.itemsize
