"""The labelled sets on which each task is evaluated: the sets that it reads, and unclaimed sets with labels of the task only."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlm_jax.common.errors import UserError, nearest
from mlm_jax.config.values import several
from mlm_jax.data.store.manifest import WITH_LABELS
from mlm_jax.data.store.store import Store, Stream
from mlm_jax.data.text.labelled import OUTPUTS

log = logging.getLogger(__name__)


def labelled_sets(
    store: Store, tasks: Mapping[str, Mapping[str, Any]], read: Mapping[str, Sequence[Stream]]
) -> dict[str, tuple[Stream, ...]]:
    """Return {task: sets to evaluate it on} for the tasks that read labelled text.

    A task is evaluated on the sets that it reads and on those of its "evaluate_on". If it has no "evaluate_on", it is also
    evaluated on every set that no task names and whose labels are all among its own; this measures zero-shot transfer.

    Args:
      store: the token store.
      tasks: ``config.tasks``.
      read: {task: sets it reads}, for the tasks that read labelled text.

    Raises:
      UserError: a set has a label that its task does not have, its labels are those of several tasks, or it has
        no held-out examples of the task's kind.
    """
    found = {task: [*streams] for task, streams in read.items()}
    named = {task: several(tasks[task]["evaluate_on"]) for task in read if "evaluate_on" in tasks[task]}
    for task, names in named.items():
        for stream in (store.stream(name) for name in names):
            if not _is_held_out(stream) or not _alike(stream, read[task][0]):
                raise UserError(
                    f"task {task!r} cannot be tested on {stream.name!r}, which has no held-out labels of its kind",
                    remedy=f"correct its entry in config.data.labelled, or tasks.{task}.evaluate_on",
                )
            _check_labels(stream, task, read[task][0].labels)
            found[task] += [] if stream in found[task] else [stream]
    taken = {stream.name for streams in read.values() for stream in streams}.union(*named.values())
    left = []
    for stream in store.streams.values():
        if stream.name in taken or not _is_held_out(stream):
            continue
        others = [task for task in read if task not in named and _alike(stream, read[task][0])]
        knowing = [task for task in others if set(stream.labels) <= set(read[task][0].labels)]
        near = [task for task in others if set(stream.labels) & set(read[task][0].labels)]
        if len(knowing) > 1:
            raise UserError(
                f"the labelled set {stream.name!r} has labels of the tasks {' and '.join(map(repr, knowing))}",
                remedy=f'name it in one of the tasks: "evaluate_on": ({stream.name!r},)',
            )
        if near and not knowing:
            _check_labels(stream, near[0], read[near[0]][0].labels)
        if knowing:
            found[knowing[0]].append(stream)
        else:
            left.append(stream.name)
    if read and left:  # a run without labelled tasks may share its store with runs that have some
        log.warning(
            "no task is evaluated on the labelled sets %s, since no task has all of their labels", ", ".join(left)
        )
    return {task: tuple(streams) for task, streams in found.items()}


def in_task_order(labels: np.ndarray, stream: Stream, names: Sequence[str]) -> np.ndarray:
    """Return a set's labels as indices of a task's classes; −1 stays −1.

    Args:
      labels: class numbers of any shape; ``[rows, classes]`` if texts have several labels; or the bits of float32 numbers.
      stream: the set.
      names: the names of the task's classes.
    """
    if stream.kind in OUTPUTS:  # no classes
        return labels
    if stream.kind == "multilabelled":
        ordered = np.where(labels[:, :1] < 0, -1, np.zeros((1, len(names)), np.int32))
        ordered[:, [names.index(label) for label in stream.labels]] = labels
        return ordered
    return np.array([*(names.index(label) for label in stream.labels), -1], np.int32)[labels]


def _check_labels(stream: Stream, task: str, names: Sequence[str]) -> None:
    for label in stream.labels:
        if label not in names:
            raise UserError(
                f"the labelled set {stream.name!r} has the label {label!r}, which task {task!r} does not have"
                f"{nearest(label, names)}",
                remedy='list the same "labels" for both in config.data.labelled, '
                f"or name the sets that it is tested on in tasks.{task}.evaluate_on",
            )


def _is_held_out(stream: Stream) -> bool:
    return stream.kind in WITH_LABELS and "validation" in stream.splits and stream.split("validation").documents > 0


def _alike(stream: Stream, other: Stream) -> bool:
    """Return whether the labels of two sets are of the same kind (of words, of whole texts, several, numbers)."""
    return stream.kind == other.kind and per_token(stream) == per_token(other)


def per_token(stream: Stream) -> bool:
    """Return whether a set's labels are those of words (at their first pieces), not of whole texts."""
    return next(iter(stream.splits.values()))["labels"].per_token
