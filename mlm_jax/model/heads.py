"""Heads: the layers before the output layer of masked language modelling, classifiers, and learned task weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from mlm_jax.model.layers import ACTIVATIONS, Dense, Norm, activation_of
from mlm_jax.model.parameters import parameter


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


class Form(NamedTuple):
    """The layers of a classifier between the hidden states and its output layer.

    Attributes:
      pooling: the vector of a whole text: ``mean`` of the tokens' hidden states | ``first`` token | ``late``: the mean of the
        tokens' logits.
      transform: ``none`` | ``tanh`` or ``gelu``: a dense layer with this activation | ``head``: the same layers as in the head
        of masked language modelling (ModernBERT).
    """

    pooling: str = "mean"
    transform: str = "none"


class Classifiers(nnx.Module):
    """One output layer for each classification task, by name."""

    def __init__(self, config: ConfigDict, labels: Mapping[str, int], *, rngs: nnx.Rngs):
        for task, count in labels.items():
            layer = Dense(
                {"embed": config.width}, {"labels": count}, bias=True, stddev=config.initializer_stddev, rngs=rngs
            )
            setattr(self, task, layer)


class DenseTransform(nnx.Module):
    """A dense layer with an activation before a classifier's output layer (BERT's pooler, XLM-R's head)."""

    def __init__(self, config: ConfigDict, transform: str, *, rngs: nnx.Rngs):
        width = config.width
        self.activation = {"tanh": jnp.tanh, "gelu": ACTIVATIONS["gelu"]}[transform]
        self.dense = Dense(
            {"embed": width}, {"activation_embed": width}, bias=True, stddev=config.initializer_stddev, rngs=rngs
        )

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Return ``[…, width]``."""
        return self.activation(self.dense(hidden))


class Transforms(nnx.Module):
    """The layers before the output layer of each classification task whose transform is not "none", by name."""

    def __init__(self, config: ConfigDict, forms: Mapping[str, Form], *, rngs: nnx.Rngs):
        for task, form in forms.items():
            if form.transform == "head":
                setattr(self, task, MaskedHead(config, rngs=rngs))
            elif form.transform != "none":
                setattr(self, task, DenseTransform(config, form.transform, rngs=rngs))


class LogVariances(nnx.Module):
    """log σ² of each task whose weight in the loss is learned, by name (Kendall et al. 2018)."""

    def __init__(self, tasks: tuple[str, ...], *, rngs: nnx.Rngs):
        for task in tasks:
            setattr(self, task, parameter(rngs, "log_variance", {}))
