"""Heads of tasks in published files: ``…ForSequenceClassification``, ``…ForTokenClassification``, ``…ForQuestionAnswering``.

A family lists its heads, each with its tensors and the form of ours that computes the same function.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlm_jax.common.errors import UserError
from mlm_jax.interop.family import Entry, Family, TaskHead
from mlm_jax.objectives import OBJECTIVES, objective_class

SEQUENCE, TOKEN, QUESTION = "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"
OUTPUT, DENSE, NORM = "classifiers/{task}", "classifier_transforms/{task}/dense", "classifier_transforms/{task}/norm"


def layer(theirs: str, ours: str) -> tuple[Entry, Entry]:
    """Return the entries of a dense layer's weight and bias."""
    return Entry(f"{theirs}.weight", (f"{ours}/kernel",)), Entry(f"{theirs}.bias", (f"{ours}/bias",))


def norm(theirs: str) -> tuple[Entry, Entry]:
    """Return the entries of the norm after a head's dense layer."""
    return Entry(f"{theirs}.weight", (f"{NORM}/scale",)), Entry(f"{theirs}.bias", (f"{NORM}/bias",))


def head_of(family: Family, architectures: Any) -> TaskHead | None:
    """Return the task's head that a config.json names, or None.

    Raises:
      UserError: the head has no counterpart here.
    """
    named = architectures[0] if isinstance(architectures, list) and architectures else ""
    suffix = "For" + str(named).rpartition("For")[2]
    if suffix not in (SEQUENCE, TOKEN, QUESTION, "ForMultipleChoice"):
        return None
    for head in family.heads:
        if head.suffix == suffix:
            return head
    raise UserError(f"architectures names {named}, whose head has no counterpart here")


def form_of(objective: str, task: str = "task") -> tuple[str, str | None]:
    """Return what transformers calls the head of an objective: (end of the class's name, "problem_type" of config.json).

    Raises:
      UserError: transformers has no such head, or there is no such objective.
    """
    form = objective_class(objective, task).published_head
    if form is None:
        raise UserError(f"the head of an objective {objective!r} has no counterpart in transformers")
    return form


def published_head(family: Family, objective: str) -> TaskHead:
    """Return the head that a family has for an objective of ours.

    Raises:
      UserError: the family has no such head.
    """
    suffix, _ = form_of(objective)
    head = next((head for head in family.heads if head.suffix == suffix), None)
    if head is None:
        raise UserError(f"{family.model_type!r} has no {suffix} that reads the encoder alone")
    return head


def options_for(head: TaskHead) -> dict[str, str]:
    """Return the options of a task of ours whose head is like a published one; pooling is the mean if the family has it."""
    pooling = "mean" if "mean" in head.poolings else next(iter(head.poolings), "")
    return {"transform": head.transform} | ({"pooling": pooling} if pooling else {})


def head_for(family: Family, objective: str, task: str, pooling: str, transform: str) -> TaskHead:
    """Return the head of a family that computes the same function as a task's head of ours.

    Raises:
      UserError: the family has no such head; the message names the options that prevent it.
    """
    head = published_head(family, objective)
    suffix = head.suffix
    wanted: list[tuple[str, str, tuple[str, ...]]] = [("transform", transform, (head.transform,))]
    if suffix == SEQUENCE:
        wanted.append(("pooling", pooling, tuple(head.poolings)))
    wrong = [
        f"tasks.{task}.{key} is {value!r}, not {' or '.join(map(repr, known))}"
        for key, value, known in wanted
        if value not in known
    ]
    if wrong:
        raise UserError(
            f"the head of task {task!r} cannot be expressed as {family.name}{suffix}: {'; '.join(wrong)}",
            remedy="train the task with these options",
        )
    return head


def with_head(family: Family, head: TaskHead, task: str) -> Family:
    """Return a family whose table has the head of this task in place of the one that predicts tokens."""
    entries = [
        dataclasses.replace(entry, ours=tuple(path.replace("{task}", task) for path in entry.ours))
        for entry in head.table
    ]
    body = [entry for entry in family.table if not entry.ours[0].startswith(("head/", "output"))]
    return dataclasses.replace(family, table=(*body, *entries))


def without_token_head(model: Any) -> Any:
    """Return ``config.model`` of the body alone."""
    body = copy.deepcopy(model)
    body.update(tied_embeddings=True, head_transform=False, biases=tuple(b for b in model.biases if b != "head"))
    return body


def objective_of(head: TaskHead, config: Mapping[str, Any], outputs: int) -> str:
    """Return our objective for a published head; transformers takes one output for regression.

    Args:
      head: the published head.
      config: its config.json.
      outputs: the number of outputs of its output layer.

    Raises:
      UserError: the objective of its training has no counterpart here.
    """
    given = config.get("problem_type") if head.suffix == SEQUENCE else None
    if head.suffix == SEQUENCE and given is None:
        given = "regression" if outputs == 1 else "single_label_classification"
    found = [name for name, kind in OBJECTIVES.items() if kind.published_head == (head.suffix, given)]
    if head.suffix == QUESTION and outputs != 2:
        raise UserError(f"a head that finds answers has 2 outputs, the first and the last token, not {outputs}")
    if not found or (given == "regression") != (outputs == 1 and head.suffix == SEQUENCE):
        raise UserError(f"problem_type is {json.dumps(given)} of {outputs} outputs, which has no counterpart here")
    return found[0]


def task_of(head: TaskHead, config: Mapping[str, Any], outputs: int) -> dict[str, Any]:
    """Return the options of a task of ours that has a head like a published one.

    Args:
      head: the published head.
      config: its config.json.
      outputs: the number of outputs of its output layer.

    Raises:
      UserError: its pooling or the objective of its training has no counterpart here.
    """
    objective = objective_of(head, config, outputs)
    task: dict[str, Any] = {"objective": objective, "rows": 32, "length": 128, "weight": 1.0}
    if head.transform != "none":
        task["transform"] = head.transform
    if head.suffix == SEQUENCE:
        found = [
            ours
            for ours, keys in head.poolings.items()
            if all(config.get(key, head.defaults.get(key)) == value for key, value in keys.items())
        ]
        if not found:
            keys = {key for keys in head.poolings.values() for key in keys}
            raise UserError(
                f"{', '.join(f'{key} is {config.get(key)!r}' for key in sorted(keys))}, which has no counterpart here"
            )
        task["pooling"] = found[0]
    return task


def label_names(config: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Return the names of a published head's classes, as transformers has them.

    Raises:
      UserError: they are not texts, or one occurs twice.
    """
    named = config.get("id2label") or {}
    if not isinstance(named, dict):
        raise UserError(f"id2label is {json.dumps(named)[:60]}; it must be an object")
    names = tuple(named.get(str(index), f"LABEL_{index}") for index in range(count))
    if not all(isinstance(name, str) for name in names) or len({*names}) < count:
        raise UserError(f"id2label names {json.dumps(names)[:200]}; each class must have a text of its own")
    return names


def describe(head: TaskHead, objective: str, labels: Sequence[str], pooling: str) -> dict[str, Any]:
    """Return the keys of config.json for a head.

    Args:
      head: the head that is written.
      objective: the objective of the task.
      labels: names of its classes.
      pooling: option of the task.
    """
    keys: dict[str, Any] = {
        "id2label": {str(index): name for index, name in enumerate(labels)},
        "label2id": {name: index for index, name in enumerate(labels)},
        "classifier_dropout": 0.0,  # our classifiers have no dropout
    }
    if head.suffix == SEQUENCE:
        keys |= {"problem_type": form_of(objective)[1], **head.poolings[pooling]}
    return keys
