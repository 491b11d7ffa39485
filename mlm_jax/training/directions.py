"""Directions: each optimizer's update from a gradient, before the learning rate.

A stacked parameter counts as many tensors, one for each layer and language (the logical axes "layers" and "groups"): norms,
factored moments and orthogonalisations are computed for each of them separately.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from mlm_jax.training.paths import map_by_path

Axes = tuple[str, ...]  # logical axes of one parameter
AxesOf = Mapping[str, Axes]  # by parameter path
Mask = Callable[[Any], Any]  # parameters → tree of bool

STACKED = ("layers", "groups")
NOT_HIDDEN = ("vocabulary", "positions", "labels")  # kernels with such an axis are tables or outputs
SMALLEST_FACTORED = 128  # least rows and columns for which Adafactor factors a matrix's moments, as in T5X and optax
MUON_RMS = 0.2  # of Muon's updates: that of AdamW's in practice, so that both use the same learning rate and decay


def direction(config: ConfigDict, axes_of: AxesOf, decays: Mask) -> optax.GradientTransformation:
    """Return gradient → direction of ``config.optimizer``, weight decay included, before the learning rate.

    AdamW (Loshchilov & Hutter 2019), StableAdamW (Wortsman et al. 2023), Adafactor without parameter scaling (Shazeer &
    Stern 2018; Zhai et al. 2022), Lion (Chen et al. 2023), Muon (Jordan et al. 2024; scaled as Liu et al. 2025).

    Args:
      config: ``config.optimizer``; its name is one of ``DIRECTIONS``.
      axes_of: {parameter path: logical axes}.
      decays: parameters → tree of bool: whether each has weight decay.
    """
    beta1, beta2 = config.betas
    decay = optax.add_decayed_weights(config.weight_decay, decays)
    return DIRECTIONS[config.name](beta1, beta2, config.epsilon, decay, axes_of)


class StableAdamState(NamedTuple):
    """Steps taken and the two moments."""

    steps: jax.Array
    mu: Any
    nu: Any


def scale_by_stable_adamw(
    beta1: float, beta2: float, epsilon: float, decay: optax.GradientTransformation, axes_of: AxesOf
) -> optax.GradientTransformation:
    """AdamW with each tensor's update, decay included, divided by max(1, RMS(g/√v)) (Wortsman et al. 2023).

    The debiased betas follow Adafactor: β̂_t = β (1 − β^{t−1}) / (1 − β^t).

    Args:
      beta1: decay of the first moment.
      beta2: decay of the second moment.
      epsilon: added to √v.
      decay: adds the decayed weights.
      axes_of: {parameter path: logical axes}.
    """

    def init(params: Any) -> StableAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return StableAdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(gradients: Any, state: StableAdamState, params: Any = None) -> tuple[Any, StableAdamState]:
        steps = state.steps + 1
        debiased = [beta * (1 - beta ** (steps - 1.0)) / (1 - beta ** (steps + 0.0)) for beta in (beta1, beta2)]
        mu = jax.tree.map(lambda m, g: debiased[0] * m + (1 - debiased[0]) * g, state.mu, gradients)
        nu = jax.tree.map(lambda v, g: debiased[1] * v + (1 - debiased[1]) * g * g, state.nu, gradients)

        def stabilise(name: str, direction: jax.Array, v: jax.Array, g: jax.Array) -> jax.Array:
            own = own_axes(axes_of[name])
            rms = jnp.sqrt((g * g / jnp.maximum(v, epsilon**2)).mean(own, keepdims=True))  # [layers, groups, 1, …]
            return direction / jnp.maximum(rms, 1.0)

        directions = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), mu, nu)
        directions, _ = decay.update(directions, decay.init(params), params)
        stable = map_by_path(stabilise, directions, nu, gradients)
        return stable, StableAdamState(steps, mu, nu)

    return optax.GradientTransformation(init, update)


class FactoredState(NamedTuple):
    """Steps and second moments: of a matrix's rows and columns, or of all elements; unused moments are ``[1]``."""

    steps: jax.Array
    rows: Any
    columns: Any
    whole: Any


def scale_by_factored_rms(
    axes_of: AxesOf, *, exponent: float = 0.8, epsilon: float = 1e-30, largest_rms: float = 1.0
) -> optax.GradientTransformation:
    """Adafactor's direction: g/√v, with v the outer product of the means of rows and columns (Shazeer & Stern 2018).

    optax's own version factors the two largest axes of an array, which in a stack may be those of layers or languages.

    Args:
      axes_of: {parameter path: logical axes}.
      exponent: the moments decay by 1 − t^−exponent (section 7.2).
      epsilon: added to g² (ε₁).
      largest_rms: the largest root mean square of a tensor's direction; larger directions are scaled down (section 6).
    """

    def is_factored(name: str, leaf: Any) -> bool:
        return all(_size(leaf, axes) >= SMALLEST_FACTORED for axes in matrix_axes(axes_of[name]))

    def init(params: Any) -> FactoredState:
        def zeros(side: int | None) -> Any:
            def moment(name: str, leaf: Any) -> jax.Array:
                if is_factored(name, leaf) == (side is None):
                    return jnp.zeros((1,), leaf.dtype)
                reduced = () if side is None else matrix_axes(axes_of[name])[side]
                return jnp.zeros([1 if axis in reduced else size for axis, size in enumerate(leaf.shape)], leaf.dtype)

            return map_by_path(moment, params)

        return FactoredState(jnp.zeros((), jnp.int32), zeros(1), zeros(0), zeros(None))

    def update(gradients: Any, state: FactoredState, params: Any = None) -> tuple[Any, FactoredState]:
        steps = state.steps + 1
        kept = 1 - steps.astype(jnp.float32) ** -exponent

        def one(name: str, g: jax.Array, rows: jax.Array, columns: jax.Array, whole: jax.Array) -> tuple:
            axes = axes_of[name]
            squares = g * g + epsilon
            if is_factored(name, g):
                inputs, outputs = matrix_axes(axes)
                rows = kept * rows + (1 - kept) * squares.mean(outputs, keepdims=True)  # [layers, groups, inputs, 1]
                columns = kept * columns + (1 - kept) * squares.mean(inputs, keepdims=True)
                scaled = g * jax.lax.rsqrt(rows / rows.mean(inputs, keepdims=True)) * jax.lax.rsqrt(columns)
            else:
                whole = kept * whole + (1 - kept) * squares
                scaled = g * jax.lax.rsqrt(whole)
            rms = jnp.sqrt((scaled * scaled).mean(own_axes(axes), keepdims=True))
            return scaled / jnp.maximum(1.0, rms / largest_rms), rows, columns, whole

        found = map_by_path(one, gradients, state.rows, state.columns, state.whole)
        scaled, *moments = jax.tree.transpose(jax.tree.structure(gradients), jax.tree.structure((0, 0, 0, 0)), found)
        return scaled, FactoredState(steps, *moments)

    return optax.GradientTransformation(init, update)


def scale_by_muon(beta1: float, beta2: float, epsilon: float, axes_of: AxesOf) -> optax.GradientTransformation:
    """Muon for the kernels between hidden layers, Adam for tables, norms, biases and outputs (Jordan et al. 2024).

    A kernel such as [layers, embed, heads, head_dim] is a matrix embed × (heads · head_dim) for each layer. Its update
    is scaled to a root mean square of 0.2 (Liu et al. 2025, equation 4).

    Args:
      beta1: decay of Muon's momentum and of Adam's first moment.
      beta2: decay of Adam's second moment.
      epsilon: Adam's.
      axes_of: {parameter path: logical axes}.
    """

    def label(tree: Any) -> Any:
        return map_by_path(lambda name, _: "muon" if is_hidden_kernel(name, axes_of[name]) else "adam", tree)

    def dimensions(tree: Any) -> Any:
        return map_by_path(lambda name, _: optax.contrib.MuonDimensionNumbers(*matrix_axes(axes_of[name])), tree)

    def scale(name: str, update: jax.Array) -> jax.Array:
        inputs, outputs = matrix_axes(axes_of[name])
        return update * (MUON_RMS * math.sqrt(max(_size(update, inputs), _size(update, outputs))))

    muon = optax.chain(
        optax.contrib.scale_by_muon(beta=beta1, weight_dimension_numbers=dimensions),
        optax.stateless(lambda updates, _: map_by_path(scale, updates)),
    )
    return optax.partition({"muon": muon, "adam": optax.scale_by_adam(beta1, beta2, epsilon)}, label)


def own_axes(axes: Axes) -> tuple[int, ...]:
    """Return the axes of one tensor of a stack: all but layers and groups."""
    return tuple(index for index, axis in enumerate(axes) if axis not in STACKED)


def matrix_axes(axes: Axes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the input and the output axes of a kernel or table; a vector has only inputs, a scalar neither."""
    own = own_axes(axes)
    inputs = own[:1] if len(own) < 2 or axes[own[0]] == "embed" else own[:-1]
    return inputs, own[len(inputs) :]


def is_hidden_kernel(name: str, axes: Axes) -> bool:
    """Return whether a parameter is a matrix from one hidden layer to another."""
    return name.endswith("/kernel") and len(own_axes(axes)) > 1 and not any(axis in NOT_HIDDEN for axis in axes)


def _size(leaf: Any, axes: tuple[int, ...]) -> int:
    """Return the product of the sizes of some axes; 0 without axes."""
    return math.prod(leaf.shape[axis] for axis in axes) if axes else 0


DIRECTIONS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adamw": lambda beta1, beta2, epsilon, decay, axes: optax.chain(optax.scale_by_adam(beta1, beta2, epsilon), decay),
    "stable_adamw": scale_by_stable_adamw,
    "adafactor": lambda beta1, beta2, epsilon, decay, axes: optax.chain(scale_by_factored_rms(axes), decay),
    "lion": lambda beta1, beta2, epsilon, decay, axes: optax.chain(optax.scale_by_lion(beta1, beta2), decay),
    "muon": lambda beta1, beta2, epsilon, decay, axes: optax.chain(scale_by_muon(beta1, beta2, epsilon, axes), decay),
}
