"""The program of a run without its data, for the platform of a topology: a plan compiles or estimates it."""

from __future__ import annotations

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError
from mlm_jax.config.values import several
from mlm_jax.data.loading import curriculum
from mlm_jax.data.loading.batch import Batch
from mlm_jax.data.store.manifest import WITH_LABELS
from mlm_jax.data.text.labelled import OUTPUTS, kind_of
from mlm_jax.data.text.languages import run_languages
from mlm_jax.objectives import Context, Objective, kinds
from mlm_jax.parallel.gpu_targets import TARGETS
from mlm_jax.parallel.topology import Topology
from mlm_jax.training.context import planned_context
from mlm_jax.training.cost import batch_shapes, in_phase, phase_flops
from mlm_jax.training.flops import Flops
from mlm_jax.training.step import Program, build_program

FAST_ATTENTION = (8, 0)  # the lowest compute capability that the kernels of attention run on


@dataclasses.dataclass(frozen=True)
class Known:
    """Properties of the data, known once a run has started; a plan before the run only has the config.

    Attributes:
      context: facts about the vocabulary.
      languages: language codes in index order.
      labels: {classification task: number of labels}.
    """

    context: Context
    languages: tuple[str, ...]
    labels: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Planned:
    """A run's program without its data, and the batch of one step, to be compiled or estimated.

    Attributes:
      program: the program, laid out on devices that need not exist.
      objectives: {task: objective} of the curriculum's phase with the most FLOPs.
      batch: the global rows of one step, as shapes.
      flops: the FLOPs of one step.
    """

    program: Program
    objectives: dict[str, Objective]
    batch: Batch
    flops: Flops


def prepare(config: ConfigDict, topology: Topology, mesh: Any, known: Known | None = None) -> Planned:
    """Return the program that a run would compile on a mesh, without its data.

    Args:
      config: the config, as :func:`for_platform` returns it.
      topology: the devices of the mesh.
      mesh: a ``Mesh`` to compile for, or an ``AbstractMesh`` for shapes only.
      known: properties of the data; None if only the config is known.

    Raises:
      UserError: the config is invalid, or has too little information about its data.
    """
    if known is None:
        languages = tuple(config.languages) or run_languages(config)
        known = Known(planned_context(languages, config), languages, planned_labels(config))
    languages = known.languages
    program = build_program(config, known.context, languages, mesh, labels=known.labels)
    phases = curriculum.resolve(config, languages, tuple(config.data.parallel))
    costs = [phase_flops(program, phase, topology.chip.platform) for phase in phases]
    flops, phase = max(zip(costs, phases), key=lambda pair: pair[0].model)
    objectives = {task: in_phase(objective, phase) for task, objective in program.objectives.items()}
    return Planned(program, objectives, batch_shapes(program, phase), flops)


def for_platform(config: ConfigDict, topology: Topology, *, simulated: bool = True) -> ConfigDict:
    """Return a copy of the config in which values that depend on the platform are those for the topology, not for this machine.

    Args:
      config: the config of the run.
      topology: the devices.
      simulated: whether simulated CPU devices replace GPUs, whose kernels they lack.
    """
    config = config.copy_and_resolve_references()
    platform = topology.chip.platform
    if config.model.dtype == "auto":
        config.model.dtype = "float32" if platform == "cpu" else "bfloat16"
    too_old = (
        platform == "gpu" and topology.chip.name in TARGETS and TARGETS[topology.chip.name].capability < FAST_ATTENTION
    )
    if platform == "gpu" and (simulated or too_old) and config.model.attention == "auto":
        config.model.attention = "reference"
    return config


def planned_labels(config: ConfigDict) -> dict[str, int]:
    """Return {classification task: number of labels} from ``config.data.labelled``.

    Raises:
      UserError: ``config.data.labelled`` does not list the labels.
    """
    found = {}
    for task, kind in kinds(config.tasks).items():
        if kind not in WITH_LABELS:
            continue
        named = several(config.tasks[task].get("data", ()))
        sets = [entry for name, entry in config.data.labelled.items() if name in named or not named]
        labels = [OUTPUTS.get(kind, entry.get("labels", ())) for entry in sets if kind_of(entry) == kind]
        if not labels or not labels[0]:
            raise UserError(
                f"task {task!r}: the number of labels is only known from data, which a plan does not read",
                remedy='write "labels": (...) in config.data.labelled',
            )
        found[task] = len(labels[0])
    return found
