"""The choice of the attention implementation: the fastest that the platform, the shapes and the type allow."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError
from mlm_jax.model.layers import computation_type
from mlm_jax.parallel.mesh import platform

FLASH_WIDTHS = (16, 32, 64, 128)  # widths of heads: powers of two whose blocks fit into shared memory
LANES = 128  # the smallest block of splash attention; a kernel is not faster for shorter rows
AUTO = "set model.attention='auto'"


class Obstacle(NamedTuple):
    """Why a kernel cannot be used, and what the user can change."""

    problem: str
    remedy: str


class Choice(NamedTuple):
    """The attention implementation of one kind of layer.

    Attributes:
      layers: description of the layers, such as "encoder, window of 128".
      implementation: "reference" | "flash" | "cudnn" | "splash".
      obstacle: why the platform's fastest kernel is not used; None if it is used, if the platform has none, or if rows are so
        short that it would not be faster.
    """

    layers: str
    implementation: str
    obstacle: Obstacle | None


def flash_obstacle(here: str, query: Any, key: Any, *, biased: bool) -> Obstacle | None:
    """Return why :mod:`mlm_jax.model.flash` cannot be used, or None.

    Args:
      here: the platform, "cpu" | "gpu" | "tpu".
      query: ``[rows, length, heads, head_dim]``, an array or its shape and type.
      key: ``[rows, kv_length, kv_heads, head_dim]``.
      biased: whether a position bias is added to the scores.
    """
    if obstacle := _gpu_obstacle("flash attention", here, query):
        return obstacle
    if biased:
        return Obstacle(
            "flash attention takes no position bias (model.position='relative')",
            "set model.position='rope', unless the weights are T5's",
        )
    if query.shape[-1] not in FLASH_WIDTHS:
        widths = ", ".join(map(str, FLASH_WIDTHS[:-1]))
        return Obstacle(
            f"flash attention takes heads of a width of {widths} or {FLASH_WIDTHS[-1]}, not of {query.shape[-1]}",
            "set model.head_width, or model.heads, so that a head is 64 or 128 wide",
        )
    if not has_triton():
        return Obstacle("this version of JAX cannot compile flash attention (Pallas for Triton)", "install jax<0.13")
    return None


def has_triton() -> bool:
    """Return whether this version of JAX compiles Pallas kernels by Triton."""
    return importlib.util.find_spec("jax.experimental.pallas.triton") is not None


def cudnn_obstacle(here: str, query: Any, key: Any, *, biased: bool) -> Obstacle | None:
    """Return why cuDNN's flash attention cannot be used, or None; arguments are those of :func:`flash_obstacle`."""
    if obstacle := _gpu_obstacle("cuDNN", here, query):
        return obstacle
    if biased:
        return Obstacle(
            "cuDNN gives no gradient for a position bias beside a mask (model.position='relative')",
            "set model.position='rope', unless the weights are T5's",
        )
    if query.shape[-1] % 8 or query.shape[-1] > 128:
        return Obstacle(
            f"cuDNN takes heads of a width that is a multiple of 8 up to 128, not of {query.shape[-1]}",
            "set model.head_width, or model.heads, so that a head is 64 or 128 wide",
        )
    odd = [length for length in (query.shape[1], key.shape[1]) if length % 2]
    if odd:
        return Obstacle(f"cuDNN takes rows of even length, not of {odd[0]}", "make the task's length even")
    return None


def _gpu_obstacle(kernel: str, here: str, query: Any) -> Obstacle | None:
    """Return why a GPU, or these queries, cannot use either of its kernels; None if they can."""
    if here != "gpu":
        return Obstacle(f"{kernel} runs on GPUs, not on {here.upper()}s", AUTO)
    if capability := old_gpu():
        return Obstacle(
            f"{kernel} needs compute capability 8.0, and this GPU has {capability}",
            "use an A100, L4, H100 or another GPU since 2020",
        )
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        return Obstacle(f"{kernel} computes in 16 bits, not in {query.dtype}", "set model.dtype='bfloat16'")
    return None


def splash_obstacle(here: str, query: Any, key: Any, *, biased: bool) -> Obstacle | None:
    """Return why splash attention cannot be used, or None; arguments are those of :func:`flash_obstacle`."""
    if here != "tpu":
        return Obstacle(f"splash attention runs on TPUs, not on {here.upper()}s", AUTO)
    if biased:
        return Obstacle(
            "splash attention takes no position bias (model.position='relative')",
            "set model.position='rope', unless the weights are T5's",
        )
    return None


OBSTACLES: dict[str, Callable[..., Obstacle | None]] = {
    "splash": splash_obstacle,
    "flash": flash_obstacle,
    "cudnn": cudnn_obstacle,
}
KERNELS_OF = {"tpu": ("splash",), "gpu": ("flash", "cudnn")}  # {platform: its kernels, the fastest first}


def old_gpu() -> str:
    """Return the compute capability of this machine's GPUs if it is below 8.0 or not NVIDIA's; "" otherwise, or without GPUs."""
    if jax.default_backend() != "gpu":
        return ""  # the program is compiled for GPUs that this machine lacks
    capability = str(getattr(jax.local_devices()[0], "compute_capability", ""))
    recent = re.fullmatch(r"(\d+)\.\d+", capability) and float(capability) >= 8
    return "" if recent else capability or "none"


def choose(implementation: str, query: Any, key: Any, *, biased: bool, here: str | None = None) -> str:
    """Return the implementation to use for arguments of these shapes.

    Args:
      implementation: ``config.model.attention``.
      query: ``[rows, length, heads, head_dim]``, an array or its shape and type.
      key: ``[rows, kv_length, kv_heads, head_dim]``.
      biased: whether a position bias is added to the scores.
      here: the platform; the one that the program is traced for if not given.

    Raises:
      UserError: the platform, or the kernel, cannot do what ``implementation`` asks for.
    """
    here = platform() if here is None else here
    if implementation in OBSTACLES:
        if query.shape[1] == 1:  # one step of decoding: kernels for long rows are not faster
            return "reference"
        if obstacle := OBSTACLES[implementation](here, query, key, biased=biased):
            raise UserError(f"model.attention={implementation!r}: {obstacle.problem}", remedy=AUTO)
        return implementation
    if implementation == "reference" or here not in KERNELS_OF or min(query.shape[1], key.shape[1]) < LANES:
        return "reference"
    able = (kernel for kernel in KERNELS_OF[here] if not OBSTACLES[kernel](here, query, key, biased=biased))
    return next(able, "reference")


def choices(model: ConfigDict, length: int, target_length: int = 0, *, here: str | None = None) -> list[Choice]:
    """Return the attention implementation of each kind of layer, for a run's log.

    Args:
      model: ``config.model``.
      length: tokens of the encoder's rows.
      target_length: tokens of the decoder's rows; 0 if the task has none.
      here: the platform; the one that programs are traced for if not given.

    Raises:
      UserError: for the reasons of :func:`choose`.
    """
    here = platform() if here is None else here
    relative = model.position == "relative"
    layers, every = sum(entry["layers"] for entry in model.encoder), max(1, model.global_every)
    slots = -(-length // model.character_downsampling) if model.character_downsampling else length
    kinds = [("encoder, whole rows" if every > 1 else "encoder", slots, slots, relative)]
    if every > 1 and layers > 1:
        kinds.append((f"encoder, window of {model.window}", slots, slots, relative))
    if model.decoder and target_length:
        kinds += [
            ("decoder", target_length, target_length, relative),
            ("decoder to encoder", target_length, slots, False),
        ]
    found = []
    for name, queries, keys, biased in kinds:
        query, key = shapes(model, queries, keys, here)
        chosen = choose(model.attention, query, key, biased=biased, here=here)
        fastest = KERNELS_OF.get(here, (chosen,))[0]
        gains = chosen != fastest and model.attention == "auto" and min(queries, keys) >= LANES
        found.append(Choice(name, chosen, OBSTACLES[fastest](here, query, key, biased=biased) if gains else None))
    return found


def shapes(model: ConfigDict, length: int, kv_length: int, here: str) -> tuple[Any, Any]:
    """Return shape and type of one row's queries and keys on a platform."""
    head_dim, dtype = model.head_width or model.width // model.heads, computation_type(model.dtype, here)
    query = jax.ShapeDtypeStruct((1, length, model.heads, head_dim), dtype)
    return query, jax.ShapeDtypeStruct((1, kv_length, model.kv_heads or model.heads, head_dim), dtype)
