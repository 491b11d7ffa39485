"""What reads the hidden states: the masked language modelling head, classifiers, and learned task weights."""

from __future__ import annotations

from collections.abc import Mapping

import jax
from flax import nnx
from ml_collections import ConfigDict

from mlm_jax.model.layers import Dense, Norm, activation_of, parameter


class MaskedHead(nnx.Module):
    """Dense, activation and norm before the output layer (Devlin et al. 2019)."""

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        width, bias = config.width, "mlp" in config.biases
        self.activation = activation_of(config)
        self.dense = Dense(
            {"embed": width}, {"activation_embed": width}, bias=bias, stddev=config.initializer_stddev, rngs=rngs
        )
        self.norm = Norm(config, rngs=rngs)

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Return ``[rows, positions, width]``."""
        return self.norm(self.activation(self.dense(hidden)))


class Classifiers(nnx.Module):
    """One output layer for each classification task, by name."""

    def __init__(self, config: ConfigDict, labels: Mapping[str, int], *, rngs: nnx.Rngs):
        for task, count in labels.items():
            layer = Dense(
                {"embed": config.width}, {"labels": count}, bias=True, stddev=config.initializer_stddev, rngs=rngs
            )
            setattr(self, task, layer)


class LogVariances(nnx.Module):
    """log σ² of each task whose weight in the loss is learned, by name (Kendall et al. 2018)."""

    def __init__(self, tasks: tuple[str, ...], *, rngs: nnx.Rngs):
        for task in tasks:
            setattr(self, task, parameter(rngs, (), (), 0))
