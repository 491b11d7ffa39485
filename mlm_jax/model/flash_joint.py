"""Flash attention that reads queries, keys and values where their joint product wrote them.

The kernels (:mod:`mlm_jax.model.flash`) take them from one array, and write their gradients into one, which is the gradient of the
product. RoPE turns queries and keys in place, and the kernels turn the gradients back. Apart, the three would be copied out of
the product, and their gradients turned and joined: 200 MB more for a layer 768 wide and 16 rows of 1,024 tokens.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from mlm_jax.model.flash import (
    Angles,
    Masking,
    Options,
    Tiles,
    attend,
    gradient_of_queries,
    gradients_of_keys,
    tiles_of,
)
from mlm_jax.model.layers import pad_length
from mlm_jax.model.positions import Rotation

TURNED = (32, 4)  # tokens and heads that a program of the rotation turns at most; powers of two


def flash_joint(
    joint: jax.Array,
    angles: Rotation | None,
    segment_ids: jax.Array,
    *,
    window: int,
    causal: bool,
    scale: float,
    tiles: Tiles | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Return self-attention ``[rows, length, heads, head_dim]``; 0 for a query whose keys are all masked.

    Args:
      joint: ``[rows, length, 3, heads, head_dim]``, queries, keys and values before RoPE; ``head_dim`` as in :mod:`flash`.
      angles: of each position, or None without RoPE.
      segment_ids: ``[rows, length]``; keys of segment 0 are always masked.
      window: attend to ``window // 2`` keys on either side only; 0 means all keys.
      causal: attend to no later key.
      scale: factor on the scores.
      tiles: block sizes of the kernels; :func:`mlm_jax.model.flash.tiles_of` if not given.
      interpret: run without a GPU, slowly, for tests.
    """
    length = joint.shape[1]
    tiles = tiles or tiles_of(joint.shape[-1], window)
    more = -length % math.lcm(*(size for tile in tiles for size in tile[:2]))
    turns = () if angles is None else tuple(pad_length(each[:, :, 0], 0, more) for each in angles)
    options = (Masking(window, causal), scale, tiles, interpret)
    return _flash(options, pad_length(joint, 0, more), turns, pad_length(segment_ids, 0, more))[:, :length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _flash(options: Options, joint: jax.Array, angles: Angles, segment_ids: jax.Array) -> jax.Array:
    return _forward(options, joint, angles, segment_ids)[0]


def _forward(
    options: Options, joint: jax.Array, angles: Angles, segment_ids: jax.Array
) -> tuple[jax.Array, tuple[Any, ...]]:
    joint = _turn(joint, angles, interpret=options[-1]) if angles else joint
    mixed, log_z = attend(options, (joint,) * 3, _where(segment_ids))
    return mixed, (joint, angles, segment_ids, mixed, log_z)


def _backward(options: Options, kept: Any, gradient: jax.Array) -> tuple[Any, ...]:
    joint, angles, segment_ids, mixed, log_z = kept
    arrays, where = (joint,) * 3, _where(segment_ids)
    of_joint, mean = gradient_of_queries(options, arrays, where, mixed, log_z, gradient, angles)
    (of_joint,) = gradients_of_keys(options, arrays, where, log_z, mean, gradient, angles, of_joint)
    return of_joint, None, None


_flash.defvjp(_forward, _backward)


def _where(segment_ids: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    return segment_ids, segment_ids, jnp.zeros(1, jnp.int32)


def _turn(joint: jax.Array, angles: Angles, *, interpret: bool) -> jax.Array:
    """Return ``joint`` with its queries and keys turned by the angles, in the same memory."""
    rows, length, _, heads, head_dim = joint.shape
    tokens, together = math.gcd(length, TURNED[0]), math.gcd(heads, TURNED[1])
    block = pl.BlockSpec((None, tokens, 3, together, head_dim), lambda i, head, row: (row, i, 0, head, 0))
    of_tokens = pl.BlockSpec((None, tokens, head_dim // 2), lambda i, head, row: (row, i, 0))
    return pl.pallas_call(
        _turn_kernel,
        grid=(length // tokens, heads // together, rows),
        in_specs=[block, of_tokens, of_tokens],
        out_specs=block,
        out_shape=jax.ShapeDtypeStruct(joint.shape, joint.dtype),
        input_output_aliases={0: 0},
        compiler_params=triton.CompilerParams(num_warps=4),
        interpret=interpret,
        name="flash_rotation",
    )(joint, *angles)


def _turn_kernel(joint_ref: Any, cos_ref: Any, sin_ref: Any, turned_ref: Any) -> None:
    cos, sin = cos_ref[...][:, None], sin_ref[...][:, None]  # [tokens, 1, head_dim / 2]
    half = cos.shape[-1]
    for part in (0, 1):  # queries and keys
        left = joint_ref[:, part, :, :half].astype(jnp.float32)  # [tokens, heads, head_dim / 2]
        right = joint_ref[:, part, :, half:].astype(jnp.float32)
        turned_ref[:, part, :, :half] = (left * cos - right * sin).astype(turned_ref.dtype)
        turned_ref[:, part, :, half:] = (right * cos + left * sin).astype(turned_ref.dtype)
