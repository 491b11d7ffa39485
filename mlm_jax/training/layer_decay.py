"""Layer-wise decay of the learning rate: layers further from the output have a lower rate (Clark et al. 2020, ELECTRA)."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlm_jax.training.directions import Axes
from mlm_jax.training.paths import by_path

STACKS = ("encoder", "decoder")
# Parameters before the first layer.
EMBEDDINGS = (
    "embedding",
    "position_embedding",
    "type_embedding",
    "language_embedding",
    "embedding_norm",
    "encoder_relative",
    "decoder_relative",
    "characters",
)


def layer_factors(params: Any, axes_of: dict[str, Axes], decay: float) -> dict[str, np.ndarray]:
    """Return {parameter path: factor on its learning rate}, of a shape that multiplies the parameter.

    Layer i of n, counted from 0, has decay^(n − i), embeddings have decay^(n + 1) of the deeper stack, and heads and final norms
    have 1.

    Args:
      params: arrays or shapes.
      axes_of: {parameter path: logical axes}; "layers" is the axis of stacked layers.
      decay: factor from one layer to the one before.
    """
    leaves = by_path(params)
    first: dict[str, int] = {}  # {layer group, such as "encoder/0": number of its first layer}
    total = dict.fromkeys(STACKS, 0)
    sizes = {
        "/".join(path.split("/")[:2]): leaf.shape[axes_of[path].index("layers")]
        for path, leaf in leaves.items()
        if path.startswith(STACKS) and "layers" in axes_of[path]
    }
    for group in sorted(sizes, key=lambda name: (name.split("/")[0], int(name.split("/")[1]))):
        stack = group.split("/")[0]
        first[group] = total[stack]
        total[stack] += sizes[group]

    def factor(path: str, leaf: Any) -> np.ndarray:
        top, *rest = path.split("/")
        group = f"{top}/{rest[0]}" if rest else ""
        if group in first:
            layers = first[group] + np.arange(sizes[group])
            powers = np.float32(decay) ** (total[top] - layers).astype(np.float32)  # [layers]
            axis = axes_of[path].index("layers")
            return powers.reshape([-1 if n == axis else 1 for n in range(leaf.ndim)])
        power = max(total.values()) + 1 if top in EMBEDDINGS else 0
        return np.full([1] * leaf.ndim, decay**power, np.float32)

    return {path: factor(path, leaf) for path, leaf in leaves.items()}
