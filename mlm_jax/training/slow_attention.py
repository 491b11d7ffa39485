"""Warnings if a run's attention cannot use the fast kernel of its accelerator, with remedies."""

from __future__ import annotations

import logging

from jax.sharding import Mesh
from ml_collections import ConfigDict

from mlm_jax.model.choice import Choice, choices
from mlm_jax.objectives import create_objectives

log = logging.getLogger(__name__)


def attention_of(config: ConfigDict, mesh: Mesh) -> dict[str, list[Choice]]:
    """Return {task: the attention implementation of each kind of layers in its rows}.

    Args:
      config: the config of the run.
      mesh: the mesh of the run's devices.

    Raises:
      UserError: ``model.attention`` names a kernel that these devices or shapes cannot use.
    """
    here, found = mesh.devices.flat[0].platform, {}
    for task, objective in create_objectives(config.tasks).items():
        length = objective.longest_row(config.tasks[task]["length"])
        found[task] = choices(config.model, length, length if objective.needs == "decoder" else 0, here=here)
    return found


def warn_of_slow_attention(config: ConfigDict, mesh: Mesh) -> None:
    """Log a warning for each reason why layers cannot use the accelerator's kernel; arguments as :func:`attention_of`."""
    obstacles: dict[tuple[str, str], list[str]] = {}
    for task, chosen in attention_of(config, mesh).items():
        for layers, _, obstacle in chosen:
            if obstacle:
                obstacles.setdefault(obstacle, []).append(f"{task} ({layers})")
    for (problem, remedy), where in obstacles.items():
        log.warning("slow attention in %s: %s; %s", ", ".join(where), problem, remedy)
