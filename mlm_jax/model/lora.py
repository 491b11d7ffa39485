"""LoRA: a trained low-rank product is added to a frozen kernel, W + (alpha / rank) · A B (Hu et al. 2022)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from mlm_jax.model.layers import Dense

PRODUCTS = ("query", "key", "value", "output", "gate", "up", "down")
DEFAULT_PRODUCTS = ("query", "value")  # as in the paper
KERNEL = re.compile(r"(?P<dense>.*)/low_rank/(?P<part>first|second)/kernel")


class LowRank(nnx.Module):
    """The addition to a dense layer's output, ``(alpha / rank) · x A B``; zero at the start."""

    def __init__(self, dense: Dense, settings: Mapping[str, Any], *, rngs: nnx.Rngs):
        axes = dict(zip(dense.kernel.get_metadata()["axes"], dense.kernel.shape, strict=True))
        names, rank = [*axes], {"rank": settings["rank"]}
        inputs = {name: axes[name] for name in names[: dense.inputs]}
        outputs = {name: axes[name] for name in names[dense.inputs :]}
        spread = 1 / math.sqrt(3 * math.prod(inputs.values()))  # the same standard deviation as PEFT's
        self.scale = scale_of(settings)
        self.first = Dense(inputs, rank, bias=False, stddev=spread, rngs=rngs)
        self.second = Dense(rank, outputs, bias=False, stddev=0.0, kernel="zero_kernel", rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return ``[rows, …, *outputs]`` of ``[rows, …, *inputs]``."""
        return self.scale * self.second(self.first(x))


def scale_of(settings: Mapping[str, Any]) -> float:
    """Return alpha / rank of ``config.model.lora``; alpha is the rank if it is not given."""
    return settings.get("alpha", settings["rank"]) / settings["rank"]


def add_low_rank(settings: Mapping[str, Any], *parts: nnx.Module | None, rngs: nnx.Rngs) -> None:
    """Add a low-rank product to each dense layer that ``config.model.lora`` names, in some parts of a Transformer layer.

    Args:
      settings: ``config.model.lora``; {} means no LoRA.
      parts: attention and feed-forward layers; the named dense layers are their attributes.
      rngs: the random number generators of the initial weights.
    """
    for part in parts if settings else ():
        for name in settings.get("products", DEFAULT_PRODUCTS):
            dense = getattr(part, name, None)
            if dense is not None:
                dense.low_rank = LowRank(dense, settings, rngs=rngs)


def is_low_rank(path: str) -> bool:
    """Return whether a parameter is one of those that LoRA adds."""
    return KERNEL.fullmatch(path) is not None


def merged(flat: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return parameters without LoRA, in which each kernel is W + (alpha / rank) · A B.

    Args:
      flat: {path: array} of a model with LoRA; kernels may be stacked along leading axes.
      settings: ``config.model.lora``.
    """
    found = {path: value for path, value in flat.items() if not is_low_rank(path)}
    for path in flat:
        name = KERNEL.fullmatch(path)
        if name and name["part"] == "first":
            kernel = f"{name['dense']}/kernel"
            first, second = flat[path], flat[path.replace("/first/", "/second/")]
            ahead = first.ndim + second.ndim - 2 - flat[kernel].ndim  # stacked axes: of layers, and of languages
            both = first.reshape(*first.shape[:ahead], -1, first.shape[-1]) @ second.reshape(
                *second.shape[: ahead + 1], -1
            )
            found[kernel] = flat[kernel] + scale_of(settings) * both.reshape(flat[kernel].shape)
    return found
