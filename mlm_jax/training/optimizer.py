"""Optimizers: one chain of clip, direction, decay and rate, with frozen parameters and absent languages left alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from mlm_jax.errors import UserError, nearest
from mlm_jax.training.regex_table import apply_table, path_name
from mlm_jax.training.schedule import learning_rate


def create(config: ConfigDict, steps: int, params: Any, logical_axes: Any) -> optax.GradientTransformation:
    """Return the optimizer that ``config.optimizer`` describes.

    Gradients are clipped once by their global norm; weight decay is decoupled (Loshchilov & Hutter 2019); parameters that
    are frozen get no state; the slice of a language that is absent from a step keeps its weights and moments.

    Args:
      config: ``config.optimizer``.
      steps: of the whole run, for the schedule.
      params: arrays or shapes.
      logical_axes: a like tree of tuples; "groups" marks the axis of language-indexed weights.

    Raises:
      UserError: the optimizer does not exist, or a regex table does not fit the parameters.
    """
    if config.name not in DIRECTIONS:
        raise UserError(f"no optimizer {config.name!r}{nearest(config.name, DIRECTIONS)}", remedy=f"use one of {', '.join(DIRECTIONS)}")
    decays = apply_table(config.decay_table, params, "optimizer.decay_table")
    rates = apply_table(config.rate_table, params, "optimizer.rate_table")
    frozen = apply_table(config.freeze_table, params, "optimizer.freeze_table")
    schedule = learning_rate(config, steps)
    trained = keep_absent_groups(
        optax.chain(
            optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
            DIRECTIONS[config.name](config, logical_axes, lambda tree: _same_paths(decays, tree)),
            optax.stateless(lambda updates, _: jax.tree.map(lambda u, r: u * r, updates, _same_paths(rates, updates))),
            optax.scale_by_learning_rate(schedule),
        ),
        logical_axes,
    )
    if not any(jax.tree.leaves(frozen)):
        return trained
    if all(jax.tree.leaves(frozen)):
        raise UserError("optimizer.freeze_table freezes every parameter", remedy="leave something to train")
    labels = jax.tree.map(lambda is_frozen: "frozen" if is_frozen else "trained", frozen)
    return optax.partition({"trained": trained, "frozen": optax.set_to_zero()}, labels)


def optimizer_state_shardings(transformation: optax.GradientTransformation, params: Any, shardings: Any) -> Any:
    """Return shardings of the optimizer's state: moments lie where their parameters lie, all else is whole everywhere.

    Args:
      transformation: from :func:`create`.
      params: shapes of the parameters.
      shardings: a like tree of ``NamedSharding``.
    """
    mesh = jax.tree.leaves(shardings)[0].mesh
    whole = NamedSharding(mesh, P())
    state = jax.eval_shape(transformation.init, params)

    def like_parameter(leaf: Any, parameter: Any, sharding: NamedSharding) -> Any:
        if isinstance(leaf, optax.MaskedNode):  # frozen, or another optimizer's
            return leaf
        # Factored moments (Adafactor) have other shapes than their parameters, and are small.
        return sharding if leaf.shape == parameter.shape else whole

    return optax.tree_utils.tree_map_params(
        transformation, like_parameter, state, params, shardings,
        transform_non_params=lambda _: whole, is_leaf=lambda node: isinstance(node, optax.MaskedNode),
    )  # fmt: skip


def keep_absent_groups(inner: optax.GradientTransformation, logical_axes: Any) -> optax.GradientTransformation:
    """Leave a language's slice of indexed weights, and its moments, bit for bit as they are where its gradient is zero.

    A language that is absent from a batch has a gradient of exactly zero; without this, decay and momentum would still
    move its weights. The optimizer's step count, and with it Adam's bias correction, stays that of the run.

    Args:
      inner: the optimizer.
      logical_axes: a tree like the parameters; "groups" marks the axis of slices.
    """
    leaves = jax.tree_util.tree_leaves_with_path(logical_axes, is_leaf=lambda node: isinstance(node, tuple))
    group_axis = {path_name(path): axes.index("groups") for path, axes in leaves if "groups" in axes}
    if not group_axis:
        return inner

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def presence(path: Any, gradient: jax.Array) -> jax.Array:
            axis = group_axis.get(path_name(path))
            if axis is None:
                return jnp.ones((), bool)
            return (gradient != 0).any(axis=tuple(range(axis + 1, gradient.ndim)))  # [layers, groups] or [groups]

        present = jax.tree_util.tree_map_with_path(presence, gradients)
        updates, new_state = inner.update(gradients, state, params)
        updates = jax.tree.map(lambda u, p: jnp.where(_broadcast(p, u), u, 0), updates, present)
        masks = optax.tree_utils.tree_map_params(
            inner, lambda leaf, p: leaf if isinstance(leaf, optax.MaskedNode) else _broadcast(p, leaf), new_state, present,
            transform_non_params=lambda leaf: jnp.ones((), bool), is_leaf=lambda node: isinstance(node, optax.MaskedNode),
        )  # fmt: skip
        return updates, jax.tree.map(jnp.where, masks, new_state, state)

    return optax.GradientTransformation(inner.init, update)


def _broadcast(present: jax.Array, leaf: jax.Array) -> jax.Array:
    """Give a mask over leading axes the rank of ``leaf``; a leaf without these axes (a placeholder) is always present."""
    if leaf.shape[: present.ndim] != present.shape:
        return jnp.ones((), bool)
    return present.reshape(present.shape + (1,) * (leaf.ndim - present.ndim))


def _same_paths(tree: Any, like: Any) -> Any:
    """Return ``tree``'s values in the structure of ``like``, which may lack frozen parameters."""
    values = {path_name(path): value for path, value in jax.tree_util.tree_leaves_with_path(tree)}
    return jax.tree_util.tree_map_with_path(lambda path, _: values[path_name(path)], like)


class StableAdamState(NamedTuple):
    """Step count and the two moments."""

    count: jax.Array
    mu: Any
    nu: Any


def scale_by_stable_adamw(beta1: float, beta2: float, epsilon: float, weight_decay: float = 0.0,
                          mask: Any = None) -> optax.GradientTransformation:  # fmt: skip
    """AdamW with each parameter's update, decay included, divided by max(1, RMS(g/√v)) (Wortsman et al. 2023).

    The debiased betas follow Adafactor: β̂_t = β (1 − β^{t−1}) / (1 − β^t).

    Args:
      beta1, beta2: decay of the two moments.
      epsilon: added to √v.
      weight_decay: decoupled decay.
      mask: parameters → tree of bool, which of them decay; None is all.
    """
    decay = optax.add_decayed_weights(weight_decay, mask)

    def init(params: Any) -> StableAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return StableAdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(gradients: Any, state: StableAdamState, params: Any = None) -> tuple[Any, StableAdamState]:
        count = state.count + 1
        debias = lambda beta: beta * (1 - beta ** (count - 1.0)) / (1 - beta ** (count + 0.0))  # noqa: E731
        beta1_hat, beta2_hat = debias(beta1), debias(beta2)
        mu = jax.tree.map(lambda m, g: beta1_hat * m + (1 - beta1_hat) * g, state.mu, gradients)
        nu = jax.tree.map(lambda v, g: beta2_hat * v + (1 - beta2_hat) * g * g, state.nu, gradients)

        def rms(v: jax.Array, g: jax.Array) -> jax.Array:
            return jnp.sqrt(jnp.mean(g * g / jnp.maximum(v, epsilon**2)))

        directions = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), mu, nu)
        directions, _ = decay.update(directions, decay.init(params), params)
        stable = jax.tree.map(lambda d, v, g: d / jnp.maximum(rms(v, g), 1.0), directions, nu, gradients)
        return stable, StableAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def scale_by_matrices(config: ConfigDict, logical_axes: Any) -> optax.GradientTransformation:
    """Muon for the kernels of layers, Adam for embeddings, norms, biases and heads (Jordan et al. 2024).

    A kernel such as [layers, embed, heads, head_dim] is a matrix embed × (heads · head_dim) for each layer.
    """
    leaves = jax.tree_util.tree_leaves_with_path(logical_axes, is_leaf=lambda node: isinstance(node, tuple))
    axes_of = {path_name(path): axes for path, axes in leaves}
    in_layers = lambda name: name.endswith("/kernel") and name.startswith(("encoder/", "decoder/"))  # noqa: E731

    def label(tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: "muon" if in_layers(path_name(path)) else "adam", tree)

    def dimensions(tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: _matrix(axes_of[path_name(path)]), tree)

    beta1, beta2 = config.betas
    return optax.partition(
        {
            "muon": optax.contrib.scale_by_muon(weight_dimension_numbers=dimensions, eps=config.epsilon),
            "adam": optax.scale_by_adam(beta1, beta2, config.epsilon),
        },
        label,
    )


def _matrix(axes: tuple[str, ...]) -> optax.contrib.MuonDimensionNumbers:
    """Say which axes of a kernel are its inputs and its outputs; "layers" and "groups" are neither."""
    own = [index for index, axis in enumerate(axes) if axis not in ("layers", "groups")]
    inputs = own[:1] if axes[own[0]] == "embed" else own[:-1]
    return optax.contrib.MuonDimensionNumbers(tuple(inputs), tuple(index for index in own if index not in inputs))


def _decayed(direction: optax.GradientTransformation, config: ConfigDict, mask: Any) -> optax.GradientTransformation:
    return optax.chain(direction, optax.add_decayed_weights(config.weight_decay, mask))


DIRECTIONS = {  # (config, logical axes, mask of decay) → gradient to direction, decay included, before the learning rate
    "adamw": lambda config, axes, mask: _decayed(optax.scale_by_adam(*config.betas, config.epsilon), config, mask),
    "stable_adamw": lambda config, axes, mask: scale_by_stable_adamw(*config.betas, config.epsilon, config.weight_decay, mask),
    "adafactor": lambda config, axes, mask: _decayed(
        optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0)), config, mask
    ),
    "lion": lambda config, axes, mask: _decayed(optax.scale_by_lion(*config.betas), config, mask),
    "muon": lambda config, axes, mask: _decayed(scale_by_matrices(config, axes), config, mask),
}
