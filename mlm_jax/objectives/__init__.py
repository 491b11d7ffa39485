"""Objectives: one file each, and the table that configs choose from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mlm_jax.common.errors import nearest
from mlm_jax.config.values import BadValue
from mlm_jax.objectives.base import Context, Metrics, Objective, from_options
from mlm_jax.objectives.classification import Classification, TokenClassification
from mlm_jax.objectives.cross_attention_mlm import CrossAttentionMaskedLanguageModelling
from mlm_jax.objectives.denoising import Denoising
from mlm_jax.objectives.mlm import MaskedLanguageModelling
from mlm_jax.objectives.ranking import TranslationRanking
from mlm_jax.objectives.tlm import TranslationLanguageModelling
from mlm_jax.objectives.translation import Translation

OBJECTIVES: dict[str, type[Objective]] = {
    "mlm": MaskedLanguageModelling,
    "tlm": TranslationLanguageModelling,
    "cross_attention_mlm": CrossAttentionMaskedLanguageModelling,
    "ranking": TranslationRanking,
    "translation": Translation,
    "denoising": Denoising,
    "classification": Classification,
    "token_classification": TokenClassification,
}
MASKED = ("mlm", "tlm", "cross_attention_mlm")  # those that predict hidden pieces
PARTS = {  # {what an objective needs of a model: (its name, how to have it)}
    "decoder": ("a decoder", 'set model.decoder=({"layers": 6, "weights": "shared"},)'),
    "cross_lingual": ("cross-lingual attention", 'set model.cross_lingual={"score": "scaled_dot", "fuse": "residual"}'),
}
TASK_KEYS = ("objective", "rows", "length", "weight", "data", "evaluate_on", "packed", "directions")  # the rest are options

__all__ = [
    "MASKED", "OBJECTIVES", "TASK_KEYS", "Context", "Metrics", "Objective", "check_parts", "create_objectives",
    "first_task", "kinds",
]  # fmt: skip


def create_objectives(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Objective]:
    """Return {task: objective} for ``config.tasks``.

    Raises:
      BadValue: an objective or an option does not exist (the nearest one is named), or options cannot work together.
    """
    objectives = {}
    for task, entry in tasks.items():
        name = entry.get("objective", "")
        if not isinstance(name, str) or name not in OBJECTIVES:
            raise BadValue(f"tasks.{task}.objective", f"task {task!r}: no objective {name!r}{nearest(name, OBJECTIVES)}",
                           f"choose from {', '.join(OBJECTIVES)}")  # fmt: skip
        if "evaluate_on" in entry and OBJECTIVES[name].kind != "labelled":
            raise BadValue(f"tasks.{task}.evaluate_on", f"tasks.{task}.evaluate_on names labelled sets, which {name} reads none of")
        options = {key: value for key, value in entry.items() if key not in TASK_KEYS}
        objectives[task] = from_options(OBJECTIVES[name], options, task, TASK_KEYS)
    return objectives


def check_parts(objectives: Mapping[str, Objective], model: ConfigDict) -> None:
    """Check that a model has what each task needs of it.

    Args:
      objectives: of each task.
      model: ``config.model``.

    Raises:
      BadValue: it has not.
    """
    for task, objective in objectives.items():
        if objective.needs and not model[objective.needs]:
            name, remedy = PARTS[objective.needs]
            raise BadValue(f"model.{objective.needs}", f"task {task!r} needs a model with {name}", remedy)


def first_task(tasks: Mapping[str, Mapping[str, Any]], *objectives: str) -> str:
    """Return the first task of the first of these objectives that a run has, or else its first task.

    Whose weights to encode with where they are indexed by the task.
    """
    found = [task for name in objectives for task, entry in tasks.items() if entry.get("objective") == name]
    return (found or list(tasks))[0]


def kinds(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return {task: kind of stream it reads} for ``config.tasks``."""
    return {task: objective.kind for task, objective in create_objectives(tasks).items()}
