"""The small parts of a Transformer: projections, norms, feed-forward layers.

Each accepts its parameters as declared, or with a leading axis of runs of rows (:mod:`mlm_jax.model.sharing`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from mlm_jax.model.parameters import parameter
from mlm_jax.model.sharing import per_row
from mlm_jax.parallel.mesh import platform
from mlm_jax.parallel.rules import constrain, shards_over


class Dense(nnx.Module):
    """A projection of the last ``len(inputs)`` axes to ``outputs``; kernel ``[*inputs, *outputs]``.

    Args:
      inputs: {logical axis: size}.
      outputs: {logical axis: size}.
      bias: whether to add a bias.
      stddev: the standard deviation of the initial kernel.
      rngs: the random number generators of the initial kernel.
      kernel: role of the kernel (:data:`mlm_jax.model.parameters.BEGINS`).
    """

    low_rank: Any = None  # LoRA's addition to the product (mlm_jax.model.lora)

    def __init__(
        self,
        inputs: Mapping[str, int],
        outputs: Mapping[str, int],
        *,
        bias: bool,
        stddev: float,
        rngs: nnx.Rngs,
        kernel: str = "kernel",
    ):
        self.inputs, self.outputs = len(inputs), len(outputs)
        self.kernel = parameter(rngs, kernel, {**inputs, **outputs}, stddev)
        self.bias = parameter(rngs, "bias", outputs) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return ``[rows, …, *outputs]`` of ``[rows, …, *inputs]``."""
        return self.completed(self.product(x, self.kernel[...].astype(x.dtype)), x)

    def product(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Return ``[rows, …, *outputs]`` of ``[rows, …, *inputs]`` and a kernel with the axes of this layer's."""
        own = kernel.ndim - self.inputs - self.outputs  # 1 if each run of rows has its own kernel
        h = x.reshape(len(kernel), -1, *x.shape[1:]) if own else x  # [runs, rows of a run, …, *inputs]
        contract = range(h.ndim - self.inputs, h.ndim), range(own, own + self.inputs)
        y = jax.lax.dot_general(h, kernel, (contract, (range(own), range(own))))
        return y.reshape(*x.shape[: x.ndim - self.inputs], *y.shape[y.ndim - self.outputs :])

    def completed(self, y: jax.Array, x: jax.Array) -> jax.Array:
        """Return a product ``[rows, …, *outputs]`` of ``x``, plus this layer's low-rank product and bias, if it has them."""
        y = y if self.low_rank is None else y + self.low_rank(x)
        return y if self.bias is None else y + per_row(self.bias[...].astype(y.dtype), self.outputs, y)


def project(x: jax.Array, *layers: Dense) -> list[jax.Array]:
    """Return the output ``[rows, …, *outputs]`` of each layer for the same input.

    On a GPU, one product with the concatenated kernels gives all of them: it reads ``x`` once, and the gradient of ``x`` is
    one product instead of a sum of several. With a tensor mesh axis the products stay separate: each device has a part of
    every kernel, and concatenation would move these parts.

    Args:
      x: ``[rows, …, *inputs]``.
      layers: layers with the same inputs; their outputs may differ in size along the first axis only.
    """
    if platform() != "gpu" or shards_over("tensor") > 1:
        return [layer(x) for layer in layers]
    axis = -layers[0].outputs
    ends = np.cumsum([layer.kernel.shape[axis] for layer in layers])
    parts = jnp.split(with_gradient_in_one_piece(_joint_product(x, layers)), ends[:-1], axis=axis)
    return [layer.completed(part, x) for layer, part in zip(layers, parts, strict=True)]


def project_jointly(x: jax.Array, *layers: Dense) -> jax.Array:
    """Return the outputs of layers for the same input as one array, ``[rows, …, layers · first output, …]``.

    Args:
      x: ``[rows, …, *inputs]``.
      layers: layers with the same inputs, all with a bias or all without, and without a low-rank addition.
    """
    together = _joint_product(x, layers)
    biases = [layer.bias[...].astype(x.dtype) for layer in layers if layer.bias is not None]
    outputs = layers[0].outputs
    return together + per_row(jnp.concatenate(biases, axis=-outputs), outputs, together) if biases else together


def _joint_product(x: jax.Array, layers: Sequence[Dense]) -> jax.Array:
    kernels = [layer.kernel[...].astype(x.dtype) for layer in layers]
    return layers[0].product(x, jnp.concatenate(kernels, axis=-layers[0].outputs))


@jax.custom_vjp
def with_gradient_in_one_piece(x: jax.Array) -> jax.Array:
    """Return ``x``; its gradient is written to memory once, before the products that read it.

    Otherwise XLA would fuse the concatenation of the parts' gradients into each of the two products, and write it twice if
    cuBLAS computes them: 300 MB more for a feed-forward layer of 16 rows of 1,024 tokens, in a program compiled for an H100.
    """
    return x


def _in_one_piece_forward(x: jax.Array) -> tuple[jax.Array, None]:
    return x, None


def _in_one_piece_backward(_: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.optimization_barrier(gradient),)


with_gradient_in_one_piece.defvjp(_in_one_piece_forward, _in_one_piece_backward)


def unit(vectors: jax.Array) -> jax.Array:
    """Scale vectors to length 1 in float32; a zero vector stays zero, with a finite gradient."""
    vectors = vectors.astype(jnp.float32)
    return vectors * jax.lax.rsqrt(jnp.maximum(jnp.square(vectors).sum(axis=-1, keepdims=True), 1e-12))


class Norm(nnx.Module):
    """LayerNorm or RMSNorm over the last axis, computed in float32 (Ba et al. 2016; Zhang & Sennrich 2019)."""

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        self.kind, self.epsilon = config.norm, config.norm_epsilon
        self.scale = parameter(rngs, "scale", {"norm": config.width})
        self.bias = parameter(rngs, "bias", {"norm": config.width}) if "norm" in config.biases else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return ``[rows, …, width]``."""
        y = normalised(self.kind == "layer", self.epsilon, x, per_row(self.scale[...], 1, x))
        return (y if self.bias is None else y + per_row(self.bias[...], 1, y)).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def normalised(centred: bool, epsilon: float, x: jax.Array, scale: jax.Array) -> jax.Array:
    """Return (x − mean) / deviation · scale over the last axis, float32.

    The gradient is written out so that it starts from the mean and the deviation of the forward pass. XLA for GPUs would
    otherwise compute both again and write a float32 product for the gradient of ``scale``: three times the bytes.

    Args:
      centred: whether to subtract the mean (LayerNorm), or not (RMSNorm).
      epsilon: added to the variance.
      x: ``[…, width]``.
      scale: ``[width]``, or an array that broadcasts to ``x``.
    """
    return _normalise(centred, epsilon, x, scale)[0]


def _normalise(centred: bool, epsilon: float, x: jax.Array, scale: jax.Array) -> tuple[jax.Array, Any]:
    y = x.astype(jnp.float32)
    mean = y.mean(axis=-1, keepdims=True) if centred else jnp.zeros((*x.shape[:-1], 1), jnp.float32)
    variance = jnp.square(y).mean(axis=-1, keepdims=True) - jnp.square(mean)  # one pass over x gives both means
    rate = jax.lax.rsqrt(jnp.maximum(variance, 0) + epsilon)  # 1 / deviation
    return (y - mean) * rate * scale, (x, scale, mean, rate)


def _normalise_backward(centred: bool, epsilon: float, kept: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, scale, mean, rate = jax.lax.optimization_barrier(kept)
    unit = (x.astype(jnp.float32) - mean) * rate
    slope = gradient * scale
    of_x = slope - unit * (slope * unit).mean(axis=-1, keepdims=True)
    if centred:
        of_x -= slope.mean(axis=-1, keepdims=True)
    of_scale = jax.linear_transpose(lambda scale: unit * scale, scale)(gradient)[0]
    return (of_x * rate).astype(x.dtype), of_scale


normalised.defvjp(_normalise, _normalise_backward)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}
GATED = {"geglu": "gelu", "geglu_tanh": "gelu_tanh", "swiglu": "silu"}  # {gated layer: its gate's activation}


def activation_of(config: ConfigDict) -> Callable[[jax.Array], jax.Array]:
    """Return the activation of the model's dense layers; if feed-forward layers are gated, that of the gate."""
    return ACTIVATIONS[GATED.get(config.activation, config.activation)]


class FeedForward(nnx.Module):
    """Position-wise feed-forward layer, gated if the activation is a GLU variant (Shazeer 2020)."""

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        self.activation = activation_of(config)
        wide, narrow = {"mlp": config.mlp_width}, {"embed": config.width}
        options = {"bias": "mlp" in config.biases, "stddev": config.initializer_stddev, "rngs": rngs}
        self.up = Dense(narrow, wide, **options)
        self.gate = Dense(narrow, wide, **options) if config.activation in GATED else None
        self.down = Dense(wide, narrow, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return ``[rows, length, width]``."""
        if self.gate is None:
            hidden = self.activation(self.up(x))  # [rows, length, mlp_width]
        else:
            gate, up = project(x, self.gate, self.up)
            hidden = self.activation(gate) * up
        return self.down(constrain(hidden, "rows", "length", "activation_mlp"))


def computation_type(name: str, platform: str) -> Any:
    """Return the type that ``config.model.dtype`` means on a platform: bfloat16 or float32."""
    return jnp.bfloat16 if name == "bfloat16" or (name == "auto" and platform != "cpu") else jnp.float32


def pad_length(x: jax.Array, before: int, after: int) -> jax.Array:
    """Return ``[rows, before + length + after, …]`` of ``[rows, length, …]``, with zeros (segments of padding) around it."""
    return jnp.pad(x, ((0, 0), (before, after)) + ((0, 0),) * (x.ndim - 2))


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zero a share of the values and scale up the rest; the identity without a key."""
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(x.dtype)


def split_key(key: jax.Array | None, count: int) -> Sequence[jax.Array | None]:
    """Return ``count`` keys, or ``count`` times None without a key."""
    return (None,) * count if key is None else list(jax.random.split(key, count))
