"""Attention: one function and a mask that is said, not built; what computes it depends on the platform.

``reference`` is einsum and a float32 softmax, block by block where a window makes that cheaper; it runs everywhere and
is what the kernels (:mod:`mlm_jax.model.kernels`) are tested against.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mlm_jax.common.errors import UserError
from mlm_jax.model import kernels
from mlm_jax.model.layers import pad_length

NEVER = -1e30  # score of a key that is not seen; finite, so that a query which sees nothing stays finite
SMALLEST_BLOCK = 32  # queries to a block of windowed attention, at least


def platform() -> str:
    """Return what the program is traced for, "cpu" | "gpu" | "tpu": the mesh's devices (``jax.set_mesh``), or JAX's own."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def attention(query: jax.Array, key: jax.Array, value: jax.Array, *, segment_ids: jax.Array,
              kv_segment_ids: jax.Array | None = None, window: int = 0, causal: bool = False,
              bias: jax.Array | None = None, scale: float | None = None, implementation: str = "auto") -> jax.Array:  # fmt: skip
    """Return softmax(scale · query keyᵀ + bias) value, where a query sees the keys of its own segment only.

    Args:
      query: ``[rows, length, heads, head_dim]``.
      key: ``[rows, kv_length, kv_heads, head_dim]``; each of its heads serves ``heads / kv_heads`` query heads.
      value: ``[rows, kv_length, kv_heads, head_dim]``.
      segment_ids: ``[rows, length]``; 0 is padding, whose output means nothing.
      kv_segment_ids: ``[rows, kv_length]``, those of the queries if not given; keys of segment 0 are never seen.
      window: see ``window // 2`` keys to either side only (Beltagy et al. 2020); 0 is all.
      causal: see no later key.
      bias: ``[1 or rows, heads, length, kv_length]`` added to the scores.
      scale: 1/√head_dim if not given.
      implementation: ``auto`` (the fastest that can) | ``reference`` | ``cudnn`` (GPU) | ``splash`` (TPU).

    Returns:
      ``[rows, length, heads, head_dim]``.

    Raises:
      UserError: the platform, or the kernel, cannot do what ``implementation`` asks for.
    """
    kv_segment_ids = segment_ids if kv_segment_ids is None else kv_segment_ids
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    chosen = choose(implementation, query, key, bias)
    if chosen == "splash":
        return kernels.splash(query * scale, key, value, segment_ids, kv_segment_ids, window=window, causal=causal)
    block = max(window // 2, SMALLEST_BLOCK)
    if chosen == "reference" and window and bias is None and query.shape[1] == key.shape[1] >= 4 * block:
        return local(query * scale, key, value, segment_ids, window=window, causal=causal, block=block)
    mask = seen(segment_ids, kv_segment_ids, window=window, causal=causal)
    if chosen == "cudnn":
        return kernels.cudnn(query, key, value, mask, scale=scale)
    return reference(query * scale, key, value, mask, bias)


def choose(implementation: str, query: jax.Array, key: jax.Array, bias: jax.Array | None) -> str:
    """Return the implementation to use for arguments of these shapes.

    Raises:
      UserError: as :func:`attention` says.
    """
    here = platform()
    obstacles = {"splash": kernels.splash_obstacle, "cudnn": kernels.cudnn_obstacle}
    if implementation in obstacles:
        if query.shape[1] == 1:  # one step of decoding: a kernel for long rows has nothing to do here
            return "reference"
        obstacle = obstacles[implementation](here, query, key, bias)
        if obstacle:
            raise UserError(f"model.attention={implementation!r}: {obstacle}", remedy="set model.attention='auto'")
        return implementation
    if implementation == "reference":
        return "reference"
    for name, obstacle_of in obstacles.items():
        if not obstacle_of(here, query, key, bias) and min(query.shape[1], key.shape[1]) >= kernels.LANES:
            return name
    return "reference"


def seen(segment_ids: jax.Array, kv_segment_ids: jax.Array, *, window: int, causal: bool) -> jax.Array:
    """Return which keys each query sees, ``[rows, length, kv_length]`` bool."""
    mask = (segment_ids[:, :, None] == kv_segment_ids[:, None, :]) & (kv_segment_ids > 0)[:, None, :]
    ahead = np.arange(kv_segment_ids.shape[1])[None, :] - np.arange(segment_ids.shape[1])[:, None]  # key − query
    return mask & within(ahead, window=window, causal=causal)


def within(ahead: np.ndarray, *, window: int, causal: bool) -> np.ndarray:
    """Return whether a key that is so far ahead of the query may be seen."""
    allowed = np.ones(ahead.shape, bool)
    if window:
        allowed &= np.abs(ahead) <= window // 2
    if causal:
        allowed &= ahead <= 0
    return allowed


def reference(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
    """Return softmax(query keyᵀ + bias) value over the keys in ``mask`` ``[rows, length, kv_length]``, written out."""
    turned = lambda x: jnp.swapaxes(x, 1, 2)  # noqa: E731
    return turned(reference_by_head(turned(query), turned(key), turned(value), mask, bias))


def reference_by_head(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
    """Return :func:`reference` of arrays ``[rows, heads, length, head_dim]``, the order in which they are multiplied.

    A cache of keys and values is kept so: in any other order XLA would turn all of it around for every token written.
    """
    rows, heads, length, head_dim = query.shape
    kv_heads = key.shape[1]
    grouped = query.reshape(rows, kv_heads, heads // kv_heads, length, head_dim)
    scores = jnp.einsum("rngqd,rnkd->rngqk", grouped, key, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias.reshape(-1, kv_heads, heads // kv_heads, *bias.shape[2:])
    weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, NEVER), axis=-1).astype(value.dtype)
    return jnp.einsum("rngqk,rnkd->rngqd", weights, value).reshape(query.shape)


def local(query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array, *, window: int, causal: bool,
          block: int) -> jax.Array:  # fmt: skip
    """Return windowed self-attention: a block of queries meets its own block of keys and the two beside it.

    Args:
      query: ``[rows, length, heads, head_dim]``, scaled.
      key: ``[rows, length, kv_heads, head_dim]``.
      value: ``[rows, length, kv_heads, head_dim]``.
      segment_ids: ``[rows, length]``.
      window: > 0.
      causal: as in :func:`attention`.
      block: queries to a block, at least ``window // 2``.
    """
    length = query.shape[1]
    count = -(-length // block)
    fold = lambda x: x.reshape(x.shape[0], -1, block, *x.shape[2:])  # noqa: E731
    blocks = lambda x: fold(pad_length(x, 0, count * block - length))  # noqa: E731

    def neighbourhoods(x: jax.Array) -> jax.Array:
        folded = fold(pad_length(x, block, (count + 1) * block - length))  # [rows, count + 2, block, …]
        return jnp.concatenate([folded[:, :-2], folded[:, 1:-1], folded[:, 2:]], axis=2)  # [rows, count, 3 block, …]

    own, near = blocks(segment_ids), neighbourhoods(segment_ids)
    ahead = np.arange(-block, 2 * block)[None, :] - np.arange(block)[:, None]  # [block, 3 block]
    mask = (own[..., :, None] == near[..., None, :]) & (near > 0)[..., None, :]  # [rows, count, block, 3 block]
    mask = mask & within(ahead, window=window, causal=causal)
    each_block = jax.vmap(reference, in_axes=1, out_axes=1)
    mixed = each_block(blocks(query), neighbourhoods(key), neighbourhoods(value), mask)
    return mixed.reshape(query.shape[0], count * block, *query.shape[2:])[:, :length]
