"""Objectives: one file each, and the table that configs choose from."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError, nearest, one_line
from mlm_jax.config.values import BadValue
from mlm_jax.data.store.manifest import WITH_LABELS
from mlm_jax.model.sharing import by_language
from mlm_jax.objectives.base import Context, Metrics, Objective, from_options
from mlm_jax.objectives.classification import Classification, TokenClassification
from mlm_jax.objectives.cross_attention_mlm import CrossAttentionMaskedLanguageModelling
from mlm_jax.objectives.denoising import Denoising
from mlm_jax.objectives.mlm import MaskedLanguageModelling
from mlm_jax.objectives.multilabel import MultiLabelClassification
from mlm_jax.objectives.question_answering import QuestionAnswering
from mlm_jax.objectives.ranking import TranslationRanking
from mlm_jax.objectives.regression import Regression
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
    "multilabel_classification": MultiLabelClassification,
    "regression": Regression,
    "question_answering": QuestionAnswering,
}
PARTS = {  # {part of a model that an objective needs: (its name, how to add it)}
    "decoder": ("a decoder", 'set model.decoder=({"layers": 6, "weights": "shared"},)'),
    "cross_lingual": ("cross-lingual attention", 'set model.cross_lingual={"score": "scaled_dot", "fuse": "residual"}'),
}
FIRST_CHOICE = {"masks": "text", "writes": "pairs", "embeds": "pairs"}  # the preferred kind of stream
# Keys that every task has; the others are options of its objective.
TASK_KEYS = "objective", "rows", "length", "weight", "data", "evaluate_on", "packed", "directions"

__all__ = [
    "OBJECTIVES",
    "TASK_KEYS",
    "Context",
    "Metrics",
    "Objective",
    "check_parts",
    "create_objectives",
    "kinds",
    "metric_prefix",
    "objective_class",
    "task_that",
]


def objective_class(name: Any, task: str) -> type[Objective]:
    """Return the objective that a task names: one of ``OBJECTIVES``, or the user's own as "module:Class".

    Raises:
      BadValue: there is no such objective (the nearest one is named), or the module cannot be imported.
    """
    key = f"tasks.{task}.objective"
    if isinstance(name, str) and name in OBJECTIVES:
        return OBJECTIVES[name]
    module, colon, attribute = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not colon:
        raise BadValue(
            key,
            f"task {task!r}: no objective {name!r}{nearest(name, OBJECTIVES)}",
            f"choose from {', '.join(OBJECTIVES)}, or name your own as 'module:Class'",
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise BadValue(
            key,
            f"{key}: cannot import {name!r}: {one_line(error)}",
            "put the module on the Python path (PYTHONPATH, or beside the config file)",
        ) from error
    if not (isinstance(found, type) and issubclass(found, Objective)):
        raise BadValue(key, f"{key}: {name!r} is not a subclass of mlm_jax.objectives.Objective", "see CONTRIBUTING.md")
    return found


def create_objectives(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Objective]:
    """Return {task: objective} for ``config.tasks``.

    Raises:
      BadValue: an objective or an option does not exist (the nearest one is named), a value is invalid, or options contradict
        each other.
    """
    objectives = {}
    for task, entry in tasks.items():
        kind = objective_class(entry.get("objective", ""), task)
        if "evaluate_on" in entry and kind.kind not in WITH_LABELS:
            key = f"tasks.{task}.evaluate_on"
            raise BadValue(key, f"{key} names labelled sets, and {entry['objective']} reads none")
        options = {key: value for key, value in entry.items() if key not in TASK_KEYS}
        objectives[task] = from_options(kind, options, task, TASK_KEYS)
    return objectives


def check_parts(objectives: Mapping[str, Objective], model: ConfigDict) -> None:
    """Check that a model has the part that each task needs.

    Args:
      objectives: the objective of each task.
      model: ``config.model``.

    Raises:
      BadValue: the model lacks a part.
      UserError: encoder weights are indexed by language, but the rows of a task contain several languages.
    """
    for task, objective in objectives.items():
        if objective.needs and not model[objective.needs]:
            name, remedy = PARTS[objective.needs]
            raise BadValue(f"model.{objective.needs}", f"task {task!r} needs a model with {name}", remedy)
        if objective.mixes_languages and by_language(model.encoder):
            raise UserError(
                f"the rows of task {task!r} contain two languages, but the encoder's weights are indexed by one language",
                remedy="share the encoder's weights, or use translation ranking instead",
            )


def task_that(role: str, tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the first task whose objective has a role, or else the first task; its weights are used if tasks have their own.

    Args:
      role: masks | writes | embeds, an attribute of :class:`.Objective`.
      tasks: ``config.tasks``; of several tasks, those that read the role's ``FIRST_CHOICE`` come first.
    """
    classes = {task: objective_class(entry["objective"], task) for task, entry in tasks.items()}
    found = [task for task, kind in classes.items() if getattr(kind, role)]
    return min(found, key=lambda task: classes[task].kind != FIRST_CHOICE[role], default=next(iter(tasks)))


def metric_prefix(phase: str, task: str, tasks: Mapping[str, Any]) -> str:
    """Return the prefix of a task's metrics: "eval" for the first task, "eval/TASK" for others.

    Args:
      phase: train | eval.
      task: the task.
      tasks: ``config.tasks``.
    """
    return phase if task == next(iter(tasks)) else f"{phase}/{task}"


def kinds(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return {task: kind of stream it reads} for ``config.tasks``."""
    return {task: objective.kind for task, objective in create_objectives(tasks).items()}
