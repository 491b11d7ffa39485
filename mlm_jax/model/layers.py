"""The small parts of a Transformer: projections, norms, feed-forward layers, rotary positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from mlm_jax.parallel.rules import constrain


def parameter(rngs: nnx.Rngs, shape: Sequence[int], axes: Sequence[str], stddev: float | None) -> nnx.Param:
    """Return a float32 parameter with its logical axes: normal with ``stddev``, zeros for 0, ones for None."""
    if stddev is None:
        value = jnp.ones(shape, jnp.float32)
    elif stddev == 0:
        value = jnp.zeros(shape, jnp.float32)
    else:
        value = stddev * jax.random.normal(rngs.params(), shape, jnp.float32)
    return nnx.Param(value, axes=tuple(axes))


class Dense(nnx.Module):
    """A projection from the last ``len(inputs)`` axes to ``outputs``; kernel ``[*inputs, *outputs]``."""

    def __init__(self, inputs: dict[str, int], outputs: dict[str, int], *, bias: bool, stddev: float, rngs: nnx.Rngs):
        self.contracted = len(inputs)
        self.kernel = parameter(rngs, (*inputs.values(), *outputs.values()), (*inputs, *outputs), stddev)
        self.bias = parameter(rngs, tuple(outputs.values()), tuple(outputs), 0) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        axes = tuple(range(x.ndim - self.contracted, x.ndim)), tuple(range(self.contracted))
        y = jax.lax.dot_general(x, self.kernel[...].astype(x.dtype), (axes, ((), ())))
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class Norm(nnx.Module):
    """LayerNorm or RMSNorm over the last axis, computed in float32 (Ba et al. 2016; Zhang & Sennrich 2019)."""

    def __init__(self, width: int, config: ConfigDict, *, rngs: nnx.Rngs):
        self.kind, self.epsilon = config.norm, config.norm_epsilon
        self.scale = parameter(rngs, (width,), ("norm",), None)
        self.bias = parameter(rngs, (width,), ("norm",), 0) if "norm" in config.biases else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        if self.kind == "layer":
            y = y - y.mean(axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(axis=-1, keepdims=True) + self.epsilon) * self.scale[...]
        return (y if self.bias is None else y + self.bias[...]).astype(x.dtype)


ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}
GATED = {"geglu": "gelu", "geglu_tanh": "gelu_tanh", "swiglu": "silu"}


class FeedForward(nnx.Module):
    """Position-wise feed-forward layer, gated where the activation ends in "glu" (Shazeer 2020)."""

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        self.activation = GATED.get(config.activation, config.activation)
        wide, narrow = {"mlp": config.mlp_width}, {"embed": config.width}
        bias, stddev = "mlp" in config.biases, config.initializer_stddev
        self.up = Dense(narrow, wide, bias=bias, stddev=stddev, rngs=rngs)
        self.gate = Dense(narrow, wide, bias=bias, stddev=stddev, rngs=rngs) if config.activation in GATED else None
        self.down = Dense(wide, narrow, bias=bias, stddev=stddev, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        act = ACTIVATIONS[self.activation]
        hidden = act(self.up(x)) if self.gate is None else act(self.gate(x)) * self.up(x)
        return self.down(constrain(hidden, "rows", "length", "activation_mlp"))


def rotary(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
    """Turn ``[rows, length, heads, head_dim]`` by their positions (RoFormer; Su et al. 2021), halves layout."""
    half = x.shape[-1] // 2
    frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)  # [half]
    angle = positions[..., None, None].astype(jnp.float32) * frequency  # [rows, length, 1, half]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zero a share of the values and scale up the rest; the identity without a key."""
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(x.dtype)
