"""Cosines between the gradients of tasks or of languages: whether they change the shared weights in the same direction."""

from __future__ import annotations

import functools
import re
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlm_jax.common.errors import UserError, nearest
from mlm_jax.data.loading.batch import Batch, Rows, TaskBatch
from mlm_jax.parallel.memory import Fitting
from mlm_jax.training.optimizer import axes_by_path
from mlm_jax.training.paths import by_path
from mlm_jax.training.step import Program


class GradientCosines(NamedTuple):
    """Cosines between gradients (Yu et al. 2020, definition 1; between languages, Wang et al. 2021).

    Attributes:
      names: tasks or language codes.
      cosines: ``[names, names]`` over the parameters, and the slices of indexed parameters, in which both gradients are not
        zero; NaN if there are none.
      norms: ``[names]`` of the gradients over the chosen parameters.
    """

    names: tuple[str, ...]
    cosines: np.ndarray
    norms: np.ndarray


def between_tasks(
    program: Program, params: Any, batch: Batch, *, parameters: str = ".*", seed: int = 0
) -> GradientCosines:
    """Compare the gradients of the tasks' losses, before their weights in the total.

    Args:
      program: the compiled run.
      params: parameters at which to measure.
      batch: global batch of every task, as arrays on the mesh or the host.
      parameters: regex of whole parameter paths, such as ``encoder/.*``.
      seed: the seed of the masks.

    Raises:
      UserError: the regex matches no parameter.
    """
    chosen = _chosen(params, parameters)
    found = []
    for task in program.objectives:
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(task.encode()))
        found.append(_gradient(program, task)(params, batch[task], key))
    return _compare(program, tuple(program.objectives), found, chosen)


def between_languages(
    program: Program, params: Any, batch: Batch, *, task: str, parameters: str = ".*", seed: int = 0
) -> GradientCosines:
    """Compare the gradients of a task's terms of the loss, one a language that the batch has.

    Args:
      program: the compiled run.
      params: parameters at which to measure.
      batch: as in :func:`between_tasks`; a row of a pair counts for its target's language.
      task: the task whose loss is divided by language.
      parameters: as in :func:`between_tasks`.
      seed: the seed of the masks.

    Raises:
      UserError: there is no such task, its loss is not a sum over rows of one language each, or the regex matches no
        parameter.
    """
    if task not in program.objectives:
        raise UserError(f"no task {task!r}{nearest(task, program.objectives)}")
    if not program.objectives[task].additive:
        raise UserError(
            f"the loss of task {task!r} compares rows of all languages, so it has no terms of single languages"
        )
    if program.objectives[task].mixes_languages:
        raise UserError(
            f"the rows of task {task!r} contain two languages and predict pieces of both",
            remedy="compare languages by a task whose rows have one language each, such as mlm",
        )
    chosen = _chosen(params, parameters)
    rows = _texts(batch[task])
    present = np.unique(np.asarray(rows.language)[np.asarray(rows.segment_ids).any(axis=1)])
    gradient = _gradient(program, task)
    found = [gradient(params, only_language(batch[task], language), jax.random.key(seed)) for language in present]
    return _compare(program, tuple(program.languages[language] for language in present), found, chosen)


def only_language(batch: TaskBatch, language: int) -> TaskBatch:
    """Turn the rows of other languages into padding, and ignore their labels."""
    keep = _texts(batch).language == language  # [rows]
    part: TaskBatch = {}
    for name, value in batch.items():
        if isinstance(value, Rows):
            part[name] = value._replace(segment_ids=jnp.where(keep[:, None], value.segment_ids, 0))
        else:
            part[name] = jnp.where(keep.reshape(-1, *(1,) * (value.ndim - 1)), value, -1)
    return part


@functools.lru_cache(maxsize=8)
def _gradient(program: Program, task: str) -> Fitting:
    """Return the compiled gradient of a task's loss."""
    objective, context = program.objectives[task], program.context

    def loss(params: Any, batch: TaskBatch, key: jax.Array) -> jax.Array:
        return objective.loss(program.model(params), objective.prepare(batch, key, context), context, None)[0]

    return Fitting(jax.jit(jax.grad(loss)), "the gradient of")


def _texts(batch: TaskBatch) -> Rows:
    return batch["targets"] if "targets" in batch else batch["inputs"]


def _chosen(params: Any, parameters: str) -> list[int]:
    """Return for each parameter whether the regex matches its path."""
    names = list(by_path(params))
    chosen = [index for index, name in enumerate(names) if re.fullmatch(parameters, name)]
    if not chosen:
        raise UserError(
            f"no parameter matches {parameters!r}{nearest(parameters, names)}",
            remedy="give --parameters a regex of whole paths, such as 'encoder/.*'",
        )
    return chosen


def _compare(program: Program, names: tuple[str, ...], gradients: list[Any], chosen: list[int]) -> GradientCosines:
    flat = [jax.tree.leaves(gradient) for gradient in gradients]
    axes = list(axes_by_path(program.axes).values())

    def products(leaves: list[jax.Array], axes: tuple[str, ...]) -> jax.Array:
        stacked = jnp.stack(leaves)  # [names, …]
        slices = jnp.moveaxis(stacked, axes.index("groups") + 1, 0) if "groups" in axes else stacked[None]
        vectors = slices.reshape(*slices.shape[:2], -1)  # [groups or 1, names, …]
        return jnp.einsum("gip,gjp->gij", vectors, vectors, precision="highest")

    # One parameter at a time: the products of its slices show which names share it.
    grams = np.concatenate(
        [np.asarray(products([leaves[i] for leaves in flat], axes[i]), np.float64) for i in chosen]
    )  # [slices, names, names]
    squares = np.diagonal(grams, axis1=1, axis2=2)  # [slices, names]
    shared = (squares[:, :, None] > 0) & (squares[:, None, :] > 0)  # [slices, names, names]
    own = np.where(shared, squares[:, :, None], 0.0).sum(axis=0)
    lengths = np.sqrt(own * own.T)
    dots = np.where(shared, grams, 0.0).sum(axis=0)
    cosines = np.divide(dots, lengths, out=np.full_like(dots, np.nan), where=lengths > 0)
    return GradientCosines(names, cosines, np.sqrt(squares.sum(axis=0)))
