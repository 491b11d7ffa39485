"""Regression: a number for a text or a pair of texts, such as how similar two sentences are, or how good a translation is."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mlm_jax.config.option import option
from mlm_jax.config.values import choice
from mlm_jax.data.loading.batch import Rows
from mlm_jax.objectives.base import Context, Metrics
from mlm_jax.objectives.labelled import POOLING, Labelled, LabelledExamples, by_language


@dataclasses.dataclass(frozen=True)
class Regression(Labelled):
    """Mean (output − number)², for semantic similarity and the like (Cer et al. 2017)."""

    kind: ClassVar[str] = "scored"
    metric_names: ClassVar[tuple[str, ...]] = ("loss",)
    pooling: str = option("mean", choice("mean", "first", "late"), POOLING)

    def loss(
        self, model: Any, examples: LabelledExamples, context: Context, key: jax.Array | None
    ) -> tuple[jax.Array, Metrics]:
        """Return the mean squared error, and that by language."""
        real = self.is_real(examples.labels)
        wanted = jnp.where(real, jax.lax.bitcast_convert_type(examples.labels, jnp.float32), 0.0)
        losses = jnp.square(self.predictions(model, examples.rows, key) - wanted)
        return (losses * examples.weights).sum(), by_language({"loss": losses}, real, examples.rows, context)

    def is_real(self, labels: jax.Array) -> jax.Array:
        """Return which numbers are there: −1 is no number as the bits of a float32."""
        return labels != -1

    def predictions(self, model: Any, rows: Rows, key: jax.Array | None = None) -> jax.Array:
        """Return the number of each text, ``[rows]`` float32."""
        return self.outputs(model, rows, key)[:, 0]
