"""Out of memory: instead of XLA's traceback, the error names settings with which the step should fit the devices."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax

from mlm_jax.common.errors import UserError
from mlm_jax.parallel.batches import shapes_of
from mlm_jax.parallel.chips import Chip, chip_of
from mlm_jax.parallel.memory import machine_memory
from mlm_jax.parallel.topology import Topology
from mlm_jax.planning.advice import changes, lines
from mlm_jax.planning.prepare import Known
from mlm_jax.training.step import Program

EXHAUSTED = "RESOURCE_EXHAUSTED"  # XLA's errors begin with this if an allocation fails


@contextlib.contextmanager
def must_fit(
    program: Program, labels: dict[str, int], run: Callable | None = None, batch: Any = None
) -> Iterator[None]:
    """Turn XLA's error about too little memory into one that names settings with which the step should fit.

    Args:
      program: the program of the run.
      labels: {classification task: number of labels}.
      run: the jitted step that runs inside the block, to read its compiled size. None if the block runs no step.
      batch: the batch of that step.

    Raises:
      UserError: the devices have too little memory.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if EXHAUSTED not in str(error):
            raise
        # With several processes, compiling again would wait for the others, which have no error.
        known = compiled_bytes(program, run, batch) if run is not None and jax.process_count() == 1 else None
        raise too_large(program, labels, known) from error


def too_large(program: Program, labels: dict[str, int], compiled: tuple[float, float] | None) -> UserError:
    """Return the error of a step that does not fit.

    Args:
      program: the program of the run.
      labels: {classification task: number of labels}.
      compiled: bytes of the step's arguments and temporaries on each device, if the compiler reports them.
    """
    topology, config = topology_of(program), program.config
    known = Known(program.context, program.languages, labels)
    temporaries = compiled[1] if compiled else None
    found = changes(config, topology, dict(program.mesh.shape), temporaries=temporaries, known=known)
    needs = f"needs {sum(compiled) / 1e9:,.1f} GB" if compiled else "needs more memory than is available"
    has = f" on each device, which has {topology.capacity / 1e9:,.1f} GB" if topology.capacity else " on each device"
    return UserError(
        f"a training step {needs}{has}",
        remedy=f"by an estimate, one of these fits: {lines(found)}" if found else lines(found),
    )


def compiled_bytes(program: Program, run: Callable, batch: Any) -> tuple[float, float] | None:
    """Return the bytes of a step's arguments and temporaries on each device; None if the step cannot be compiled.

    Args:
      program: the program of the run.
      run: the jitted step.
      batch: the arrays of the batch.
    """
    try:
        found = run.lower(program.state, shapes_of(batch)).compile().memory_analysis()  # type: ignore[attr-defined]
    except jax.errors.JaxRuntimeError as error:
        if EXHAUSTED not in str(error):
            raise
        return None
    return found.argument_size_in_bytes, found.temp_size_in_bytes


def topology_of(program: Program) -> Topology:
    """Return the devices of a run's mesh as a topology with their memory."""
    devices = list(program.mesh.devices.flat)
    first = next(device for device in devices if device.process_index == jax.process_index())
    memory = (first.memory_stats() or {}).get("bytes_limit", 0)
    if first.platform == "cpu":
        memory = machine_memory() / jax.local_device_count()
    chip = chip_of(first) or Chip(first.device_kind, first.platform, (), 0.0, 0.0, 0.0, 0.0, 0.0, len(devices), 1, "")
    chip = dataclasses.replace(chip, devices_per_chip=1, hbm_bytes=memory or chip.hbm_bytes / chip.devices_per_chip)
    slices = int(program.config.mesh.slices)
    return Topology(chip, (len(devices) // slices,), slices, memory=float(memory))
