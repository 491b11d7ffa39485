"""The cost of a step, from shapes only: its batch, its FLOPs, and parameters by group."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from mlm_jax.data.loading import curriculum
from mlm_jax.data.loading.batch import Batch, Rows, TaskBatch
from mlm_jax.data.store.manifest import WITH_LABELS
from mlm_jax.model.sharing import indexes
from mlm_jax.objectives import Objective
from mlm_jax.objectives.masking import Line
from mlm_jax.parallel.batches import batch_sharding
from mlm_jax.training.flops import Flops, step_flops
from mlm_jax.training.paths import by_path
from mlm_jax.training.step import Program


def batch_shapes(program: Program, phase: curriculum.Phase) -> Batch:
    """Return {task: TaskBatch} of ``ShapeDtypeStruct`` laid out on the mesh, the global rows of one step."""
    batch: Batch = {}
    for task, objective in program.objectives.items():
        entry = program.config.tasks[task]
        count = phase.rows(task, objective.kind, entry["rows"])
        batch[task] = task_shapes(program, task, count, phase.length(task, objective.kind, entry["length"]))
    return batch


def task_shapes(program: Program, task: str, count: int, length: int) -> TaskBatch:
    """Return a task's batch of ``count`` global rows of ``length`` tokens, as ``ShapeDtypeStruct`` laid out on the mesh."""

    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=batch_sharding(shape, program.mesh))

    objective = program.objectives[task]
    rows = Rows(array(count, length), array(count, length), array(count, length), array(count))
    batch: TaskBatch = {"inputs": rows}
    if objective.kind == "pairs":
        batch["targets"] = rows
    if objective.kind in WITH_LABELS:
        classes = program.state.params["classifiers"][task]["bias"].shape[-1]
        several = (length,) if objective.per_token else (classes,) if objective.kind == "multilabelled" else ()
        batch["labels"] = array(count, *several)
    return batch


def tokens_of(batch: Batch) -> int:
    """Return the number of tokens of a batch, including padding and both sides of pairs."""
    sides = (rows for task in batch.values() for rows in task.values() if isinstance(rows, Rows))
    return sum(math.prod(rows.tokens.shape) for rows in sides)


def in_phase(objective: Objective, phase: curriculum.Phase) -> Objective:
    """Return the objective with the phase's mask rate, if it masks."""
    if not objective.masks:
        return objective
    rate: Any = phase.mask_rate(objective.task, objective.mask_rate)  # type: ignore[attr-defined]
    if isinstance(rate, tuple):
        rate = Line(float(rate[0]), float(rate[1]), phase.start_step, phase.stop_step - 1)
    return dataclasses.replace(objective, mask_rate=rate)  # type: ignore[call-arg]


def phase_flops(program: Program, phase: curriculum.Phase, platform: str) -> Flops:
    """Return the FLOPs of one step of a curriculum phase.

    Args:
      program: the program of the run.
      phase: the phase of its curriculum.
      platform: "tpu" | "gpu" | "cpu", which decides how attention is computed.
    """
    objectives = {task: in_phase(objective, phase) for task, objective in program.objectives.items()}
    batch = batch_shapes(program, phase)
    params = program.state.params
    return step_flops(
        program.config, program.context, params, program.axes, batch, platform=platform, objectives=objectives
    )


def parameters_by_group(program: Program) -> dict[str, int]:
    """Return {group: number of parameters}; the names of indexed layers include their index, as in "decoder/0 by family"."""
    counts: dict[str, int] = {}
    for path, leaf in by_path(program.state.params).items():
        name, *rest = path.split("/")
        if name in ("encoder", "decoder"):
            weights, adapters = indexes(program.config.model[name][int(rest[0])])
            name, picked_by = (
                (f"{name}/{rest[0]}", weights) if "adapter" not in rest else (f"{name}/{rest[0]} adapters", adapters)
            )
            name += "" if picked_by == "shared" else f" by {picked_by}"
        counts[name] = counts.get(name, 0) + leaf.size
    return counts
