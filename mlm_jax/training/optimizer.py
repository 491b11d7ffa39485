"""Optimizers: clipping, direction, decay and learning rate in a chain that leaves frozen and absent parameters unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError, nearest
from mlm_jax.config.keys import KEY
from mlm_jax.config.values import BadValue
from mlm_jax.model.lora import is_low_rank
from mlm_jax.training.directions import DIRECTIONS, Axes, direction
from mlm_jax.training.layer_decay import layer_factors
from mlm_jax.training.paths import by_path, map_by_path
from mlm_jax.training.regex_table import apply_table
from mlm_jax.training.schedule import learning_rate

OF_TASKS = ("classifiers/", "classifier_transforms/", "uncertainty/")  # parameters that belong to tasks


def create(
    config: ConfigDict,
    steps: int,
    params: Any,
    logical_axes: Any,
    curriculum: Sequence[Mapping[str, Any]] = (),
    peak: Any = None,
) -> optax.GradientTransformation:
    """Return the optimizer that ``config.optimizer`` describes.

    Gradients are clipped by the global norm over all trained parameters. Weight decay is decoupled (Loshchilov & Hutter
    2019). Frozen parameters have no state and do not change. The slice of a language that is absent from a step keeps its
    weights and moments.

    Args:
      config: ``config.optimizer``.
      steps: the number of steps of the whole run, for the schedule.
      params: arrays or shapes.
      logical_axes: a tree of tuples like ``params``; "groups" marks the axis of language-indexed weights.
      curriculum: ``config.curriculum``, which may change the learning rate.
      peak: the highest learning rate, which may be traced; ``config.learning_rate`` if not given.

    Raises:
      UserError: the optimizer does not exist, or a regex table does not fit the parameters.
    """
    if config.name not in DIRECTIONS:
        raise BadValue(
            "optimizer.name",
            f"no optimizer {config.name!r}{nearest(config.name, DIRECTIONS)}",
            f"use one of {', '.join(DIRECTIONS)}",
        )
    axes_of = axes_by_path(logical_axes)
    decays = apply_table(config.decay_table, params, "optimizer.decay_table")
    rates = apply_table(config.rate_table, params, "optimizer.rate_table")
    if config.layer_decay != 1:
        factors = layer_factors(params, axes_of, config.layer_decay)
        rates = map_by_path(lambda name, rate: rate * factors[name], rates)
    frozen = frozen_parameters(config, params)
    trained = keep_absent_groups(
        optax.chain(
            optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
            direction(config, axes_of, lambda tree: _same_paths(decays, tree)),
            optax.stateless(lambda updates, _: jax.tree.map(lambda u, r: u * r, updates, _same_paths(rates, updates))),
            optax.scale_by_learning_rate(learning_rate(config, steps, curriculum, peak)),
        ),
        axes_of,
    )
    trained = keep_rows(trained, frozen_rows(config, params, axes_of), axes_of)
    if not any(jax.tree.leaves(frozen)):
        return trained
    labels = jax.tree.map(lambda is_frozen: "frozen" if is_frozen else "trained", frozen)
    return optax.partition({"trained": trained, "frozen": optax.set_to_zero()}, labels)


def frozen_parameters(config: ConfigDict, params: Any) -> Any:
    """Return a tree like ``params`` of bool: whether ``config.optimizer`` freezes all of a parameter.

    The default table freezes no parameter; or, if the model has LoRA, all but those of LoRA and of the heads of tasks.

    Raises:
      UserError: the regex table does not fit the parameters, or leaves nothing to train.
    """
    table = apply_table(config.freeze_table, params, "optimizer.freeze_table")
    frozen = jax.tree.map(lambda value: value is True, table, is_leaf=_is_ranges)
    if tuple(map(tuple, config.freeze_table)) == KEY["optimizer.freeze_table"].default:
        frozen = beside_low_rank(frozen)
    if all(jax.tree.leaves(frozen)):
        raise UserError("optimizer.freeze_table freezes every parameter", remedy="leave something to train")
    return frozen


def beside_low_rank(frozen: Any) -> Any:
    """Return the tree with all frozen except low-rank products and the heads of tasks, if there are low-rank products."""
    paths = by_path(frozen)
    if not any(map(is_low_rank, paths)):
        return frozen
    return map_by_path(lambda path, _: not (is_low_rank(path) or path.startswith(OF_TASKS)), frozen)


Ranges = tuple[tuple[int, int], ...]  # (first row, one past the last)


def frozen_rows(config: ConfigDict, params: Any, axes_of: dict[str, Axes]) -> dict[str, Ranges]:
    """Return {parameter path: ranges} of parameters that ``config.optimizer`` freezes in part.

    The ranges are of pieces of the vocabulary, or of slices of language-indexed weights.

    Raises:
      UserError: such a parameter has neither a vocabulary axis nor an index, or has fewer rows.
    """
    rows: dict[str, Ranges] = {}
    table = apply_table(config.freeze_table, params, "optimizer.freeze_table")
    for (name, value), leaf in zip(by_path(table, is_leaf=_is_ranges).items(), jax.tree.leaves(params)):
        if isinstance(value, bool):
            continue
        axis = _row_axis(axes_of[name])
        if axis is None:
            raise UserError(
                f"optimizer.freeze_table freezes {value!r} rows of {name!r}, whose rows are neither pieces of "
                "the vocabulary nor languages",
                remedy="freeze it whole (True) or not at all (False)",
            )
        ranges = ((0, value),) if isinstance(value, int) else tuple((first, behind) for first, behind in value)
        if not 0 < ranges[-1][1] <= leaf.shape[axis] or ranges == ((0, leaf.shape[axis]),):
            raise UserError(
                f"optimizer.freeze_table freezes {value} rows of {name!r}, which has the shape {leaf.shape}",
                remedy="name at most as many rows as there are",
            )
        rows[name] = ranges
    return rows


def _is_ranges(node: Any) -> bool:
    return isinstance(node, (tuple, list))


def _row_axis(axes: Axes) -> int | None:
    """Return the axis along which a parameter can be frozen in part: pieces of the vocabulary, or slices of indexed weights."""
    return next((axis for axis, name in enumerate(axes) if name in ("vocabulary", "groups")), None)


def keep_rows(
    inner: optax.GradientTransformation, rows: dict[str, Ranges], axes_of: dict[str, Axes]
) -> optax.GradientTransformation:
    """Keep the rows of some pieces or languages bit for bit, and leave them out of the gradient's norm.

    Args:
      inner: the optimizer.
      rows: {parameter path: ranges of rows to keep}.
      axes_of: {parameter path: logical axes}.
    """
    if not rows:
        return inner

    def only_others(tree: Any) -> Any:
        def mask(name: str, leaf: jax.Array) -> jax.Array:
            if name not in rows:
                return leaf
            axis = _row_axis(axes_of[name])
            assert axis is not None  # checked by frozen_rows
            index = jnp.arange(leaf.shape[axis])
            kept = jnp.stack([(first <= index) & (index < behind) for first, behind in rows[name]]).any(axis=0)
            return jnp.where(jnp.expand_dims(kept, [a for a in range(leaf.ndim) if a != axis]), 0, leaf)

        return map_by_path(mask, tree)

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = inner.update(only_others(gradients), state, params)
        return only_others(updates), state

    return optax.GradientTransformation(inner.init, update)


def optimizer_state_shardings(transformation: optax.GradientTransformation, params: Any, shardings: Any) -> Any:
    """Return shardings of the optimizer's state: moments are split like their parameters, everything else is replicated.

    Args:
      transformation: from :func:`create`.
      params: shapes of the parameters.
      shardings: a tree of ``NamedSharding`` like ``params``.
    """
    mesh = jax.tree.leaves(shardings)[0].mesh
    whole = NamedSharding(mesh, P())
    state = jax.eval_shape(transformation.init, params)

    def like_parameter(leaf: Any, parameter: Any, sharding: NamedSharding) -> Any:
        if _is_masked(leaf):
            return leaf
        if leaf.ndim != parameter.ndim:
            return whole  # a placeholder for a moment that this parameter does not have
        # Along each axis, a moment has the size of its parameter, or 1 if it is factored.
        split = (*sharding.spec, *[None] * (leaf.ndim - len(sharding.spec)))
        return NamedSharding(mesh, P(*(s if n == m else None for s, n, m in zip(split, leaf.shape, parameter.shape))))

    return optax.tree_utils.tree_map_params(
        transformation,
        like_parameter,
        state,
        params,
        shardings,
        transform_non_params=lambda _: whole,
        is_leaf=_is_masked,
    )


def keep_absent_groups(inner: optax.GradientTransformation, axes_of: dict[str, Axes]) -> optax.GradientTransformation:
    """Keep a language's slice of indexed weights and its moments bit for bit if its gradient is zero.

    A language that is absent from a batch has a gradient of exactly zero; without this, decay and momentum would still
    move its weights. The optimizer's step count, and with it Adam's bias correction, stays that of the run, so the moments
    of a language that first occurs late are corrected as if they were old. If its gradients are constant, its k-th step is
    (1 − β₁ᵏ) / √(1 − β₂ᵏ) of what it should be: 0.71 at first and up to 1.55 with the betas (0.9, 0.98), but 3.2 and up to
    6.6 with (0.9, 0.999).

    Args:
      inner: the optimizer.
      axes_of: {parameter path: logical axes}; "groups" marks the axis of slices.
    """
    if not any("groups" in axes for axes in axes_of.values()):
        return inner

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        present = present_groups(gradients, axes_of)
        updates, new_state = inner.update(gradients, state, params)
        updates = jax.tree.map(lambda u, p: jnp.where(spread(p, u), u, 0), updates, present)
        masks = optax.tree_utils.tree_map_params(
            inner,
            lambda leaf, p: leaf if _is_masked(leaf) else spread(p, leaf),
            new_state,
            present,
            transform_non_params=lambda leaf: jnp.ones((), bool),
            is_leaf=_is_masked,
        )
        return updates, jax.tree.map(jnp.where, masks, new_state, state)

    return optax.GradientTransformation(inner.init, update)


def present_groups(gradients: Any, axes_of: dict[str, Axes]) -> Any:
    """Return a tree of bool: whether the gradient of each parameter, or slice (``[layers, groups]``), has a value other than 0."""

    def presence(name: str, gradient: jax.Array) -> jax.Array:
        axes = axes_of[name]
        if "groups" not in axes:
            return jnp.ones((), bool)
        return (gradient != 0).any(
            axis=tuple(range(axes.index("groups") + 1, gradient.ndim))
        )  # [layers, groups] or [groups]

    return map_by_path(presence, gradients)


def spread(present: jax.Array, leaf: jax.Array) -> jax.Array:
    """Reshape a mask over leading axes to the rank of ``leaf``; True for a leaf without these axes (a placeholder)."""
    if leaf.shape[: present.ndim] != present.shape:
        return jnp.ones((), bool)
    return present.reshape(present.shape + (1,) * (leaf.ndim - present.ndim))


def axes_by_path(logical_axes: Any) -> dict[str, Axes]:
    """Return {parameter path: logical axes} of a tree of logical axes."""
    return by_path(logical_axes, is_leaf=lambda node: isinstance(node, tuple))


def _same_paths(tree: Any, like: Any) -> Any:
    """Return ``tree``'s values in the structure of ``like``, which may lack frozen parameters."""
    values = by_path(tree)
    return map_by_path(lambda name, _: values[name], like)


def _is_masked(node: Any) -> bool:
    """Return whether a node is optax's placeholder for a parameter that is frozen or belongs to another part of the optimizer."""
    return isinstance(node, optax.MaskedNode)
