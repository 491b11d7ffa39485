"""Cross-entropy over a large vocabulary, without holding all logits in memory.

The loss is linear in its cotangent, so the forward pass over a chunk of positions can compute the gradients at once
(as Liger-Kernel does; Hsu et al. 2024): logits are computed once, chunk by chunk, and are neither kept nor recomputed.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from mlm_jax.model.layers import pad_length
from mlm_jax.parallel.mesh import platform
from mlm_jax.parallel.rules import constrain, shards_of

NEVER = -1e9  # logit of rows of the table without a piece: their probability is zero; −∞ could give ∞ − ∞


def weighted_cross_entropy(
    hidden: jax.Array,
    table: jax.Array,
    bias: jax.Array | None,
    labels: jax.Array,
    weights: jax.Array,
    *,
    vocabulary_size: int,
    chunk: int = 0,
    logits_bytes: float = math.inf,
    z_loss: float = 0.0,
    smoothing: float = 0.0,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return Σ weight · (−Σ_v q_v log P(v) + z_loss · log²Z), and per-position losses and hits.

    q is (1 − smoothing) on the label and smoothing / vocabulary on every piece (Szegedy et al. 2016, section 7).

    Args:
      hidden: ``[rows, positions, width]``.
      table: ``[vocabulary, width]`` output embeddings; rows from ``vocabulary_size`` on are padding and get no mass.
      bias: ``[vocabulary]`` or None.
      labels: ``[rows, positions]`` int32.
      weights: ``[rows, positions]`` float32; 0 where nothing is predicted.
      vocabulary_size: number of real pieces.
      chunk: number of positions of each row whose logits exist at once; 0 means as many as ``logits_bytes`` allow.
      logits_bytes: bytes that a device has for logits and their gradient, if ``chunk`` is 0.
      z_loss: weight of log²Z (Chowdhery et al. 2022).
      smoothing: the smoothing of the labels, in the sum only.

    Returns:
      the scalar sum (differentiable in hidden, table and bias), −log P(label) of each position in nats
      ``[rows, positions]``, and whether its label was the likeliest piece ``[rows, positions]`` bool.
    """
    if bias is None:
        bias = jnp.zeros(table.shape[0], jnp.float32)
    rows, positions = labels.shape
    if not chunk:
        size = logit_bytes(hidden.dtype.itemsize, platform()) * (rows // shards_of("rows", rows))
        size *= len(table) // shards_of("activation_vocabulary", len(table))
        chunk = positions_that_fit(positions, size, logits_bytes)
    options = (vocabulary_size, chunk, float(z_loss), float(smoothing))
    return _cross_entropy(options, hidden, table, bias, labels, weights)


def logit_bytes(itemsize: int, here: str) -> int:
    """Return the bytes of one logit in training and of its gradient.

    Args:
      itemsize: bytes of an element of the hidden states; the gradient has their type, and on a GPU the logits have it too.
      here: the platform, "cpu" | "gpu" | "tpu".
    """
    return itemsize + (itemsize if here == "gpu" else jnp.dtype(jnp.float32).itemsize)


def positions_that_fit(positions: int, size: float, memory: float) -> int:
    """Return the number of positions of each row in one chunk, such that there are few chunks of nearly equal size.

    Args:
      positions: the number of all positions of a row.
      size: bytes of one position, for all rows of a device.
      memory: the largest number of bytes of a chunk.
    """
    chunks = min(max(math.ceil(positions * size / memory), 1), positions)
    return math.ceil(positions / chunks)


Options = tuple[int, int, float, float]  # vocabulary size, chunk, z-loss, smoothing


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cross_entropy(
    options: Options, hidden: jax.Array, table: jax.Array, bias: jax.Array, labels: jax.Array, weights: jax.Array
) -> Any:
    total, losses, hits, _ = _scan_chunks(options, hidden, table, bias, labels, weights, with_gradients=False)
    return total, losses, hits


def _forward(options: Options, *arrays: jax.Array) -> tuple[Any, Any]:
    total, losses, hits, gradients = _scan_chunks(options, *arrays, with_gradients=True)
    return (total, losses, hits), gradients


def _backward(options: Options, gradients: Any, cotangents: Any) -> tuple[Any, ...]:
    hidden_gradient, table_gradient, bias_gradient = gradients
    scale = cotangents[0]
    return (
        (hidden_gradient * scale).astype(hidden_gradient.dtype),
        (table_gradient * scale).astype(table_gradient.dtype),
        bias_gradient * scale,
        None,
        None,
    )


_cross_entropy.defvjp(_forward, _backward)


@jax.named_scope("cross_entropy")
def _scan_chunks(
    options: Options,
    hidden: jax.Array,
    table: jax.Array,
    bias: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    *,
    with_gradients: bool,
) -> tuple[Any, Any, Any, Any]:
    vocabulary_size, chunk, z_loss, smoothing = options
    rows, positions, width = hidden.shape
    chunk = min(chunk or positions, positions)
    count = -(-positions // chunk)
    pad = count * chunk - positions
    # The rows of each device stay separate, so that a device sums its own part of the table's gradient. The parts are summed
    # over devices once at the end, instead of once for each chunk.
    shards = shards_of("rows", rows)

    def split(x: jax.Array) -> jax.Array:  # [rows, positions, …] → [chunks, shards, rows / shards, chunk, …]
        return jnp.moveaxis(pad_length(x, 0, pad).reshape(shards, rows // shards, count, chunk, *x.shape[2:]), 2, 0)

    def join(x: jax.Array) -> jax.Array:  # and back
        return jnp.moveaxis(x, 0, 2).reshape(rows, count * chunk, *x.shape[4:])[:, :positions]

    # Devices that share the table's width gather the table here, once, and not in every chunk. Without the first line, XLA for
    # GPUs gathers the float32 parameter and converts it afterwards, which sends twice the bytes.
    table = constrain(table, "vocabulary", "embed")
    table = constrain(table, "activation_vocabulary", "activation_embed")
    # One column of ones would be enough, but 769 columns are not a multiple of 8: cuBLAS then uses a kernel that takes
    # 1.4 times as long (docs/training.md).
    columns_of_ones = 8 - width % 8
    columns = jnp.arange(table.shape[0])
    column_is_real = columns < vocabulary_size  # [vocabulary]
    offset = jnp.where(column_is_real, bias, NEVER)  # one addition to the logits, without a second pass for the padding

    # On a GPU, training is limited by memory traffic here: 16-bit logits halve it, and sums over them are still float32.
    # Losses in evaluation are computed from float32 logits.
    kept = hidden.dtype if with_gradients and platform() == "gpu" else jnp.float32

    def one_chunk(carry: Any, part: Any) -> tuple[Any, Any]:
        total, gradient = carry  # the gradient of the table and, in column ``width``, of the bias
        hidden_part, labels_part, weights_part = part
        logits = jnp.einsum("srpd,vd->srpv", hidden_part, table, preferred_element_type=kept)
        logits = constrain(logits, "rows", None, None, "activation_vocabulary") + offset
        log_z = jax.nn.logsumexp(logits, axis=-1)  # [shards, rows / shards, chunk]
        # A sum instead of a look-up, for which a device would need the columns of other devices.
        is_label = columns == labels_part[..., None]
        label_logit = jnp.where(is_label, logits, 0.0).sum(axis=-1)
        losses = log_z - label_logit
        hits = label_logit >= logits.max(axis=-1)
        trained = losses + z_loss * jnp.square(log_z)
        if smoothing:
            mean_logit = jnp.where(column_is_real, logits, 0.0).sum(axis=-1) / vocabulary_size
            trained += smoothing * (label_logit - mean_logit)
        total += jnp.sum(weights_part * trained)
        if not with_gradients:
            return (total, gradient), (losses, hits, None)
        # d total / d logits = weight · ((1 + 2 z log Z) · softmax − q)
        scale = weights_part * (1.0 + 2.0 * z_loss * log_z)
        slope = scale[..., None] * jnp.exp(logits - log_z[..., None])
        slope -= jnp.where(is_label, (1.0 - smoothing) * weights_part[..., None], 0.0)
        if smoothing:
            slope -= jnp.where(column_is_real, smoothing / vocabulary_size * weights_part[..., None], 0.0)
        slope = slope.astype(hidden.dtype)
        hidden_gradient = jnp.einsum("srpv,vd->srpd", slope, table, preferred_element_type=jnp.float32)
        # The bias is the weight of a constant feature, so one product gives both gradients. A separate sum over all logits would
        # be slow on CPUs, and TPUs would compute the exponentials again for it.
        with_one = jnp.pad(hidden_part, ((0, 0),) * 3 + ((0, columns_of_ones),), constant_values=1)
        gradient += jnp.einsum("srpv,srpd->svd", slope, with_one, preferred_element_type=jnp.float32)
        gradient = constrain(gradient, "rows", "activation_vocabulary", "activation_embed")
        return (total, gradient), (losses, hits, hidden_gradient.astype(hidden.dtype))

    zero = jnp.zeros((), jnp.float32)
    shape = (shards, table.shape[0], width + columns_of_ones)
    carry = (zero, jnp.zeros(shape, jnp.float32) if with_gradients else zero)
    parts = (split(hidden), split(labels), split(weights))
    if count == 1:
        carry, outputs = one_chunk(carry, jax.tree.map(lambda x: x[0], parts))
        outputs = jax.tree.map(lambda x: x[None], outputs)
    else:
        carry, outputs = jax.lax.scan(one_chunk, carry, parts)
    losses, hits, hidden_gradient = jax.tree.map(join, outputs)
    gradients = None
    if with_gradients:
        table_gradient = constrain(carry[1][..., :width].sum(axis=0), "vocabulary", "embed").astype(table.dtype)
        gradients = (hidden_gradient, table_gradient, carry[1][..., width].sum(axis=0).astype(bias.dtype))
    return carry[0], losses, hits, gradients
