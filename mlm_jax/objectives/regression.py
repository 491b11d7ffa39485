"""Regression: a number for a text or a pair of texts, such as the similarity of two sentences or the quality of a translation."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mlm_jax.config.option import option
from mlm_jax.config.values import choice
from mlm_jax.data.loading.batch import Rows
from mlm_jax.objectives.base import Context, Metrics, means_by_language
from mlm_jax.objectives.labelled import POOLING, Labelled, LabelledExamples


@dataclasses.dataclass(frozen=True)
class Regression(Labelled):
    """Mean (output − number)², for example for semantic similarity (Cer et al. 2017)."""

    kind: ClassVar[str] = "scored"
    published_head: ClassVar[tuple[str, str | None]] = ("ForSequenceClassification", "regression")
    metric_names: ClassVar[tuple[str, ...]] = ("loss",)
    pooling: str = option("mean", choice("mean", "first", "late"), POOLING)

    def loss(
        self, model: Any, examples: LabelledExamples, context: Context, key: jax.Array | None
    ) -> tuple[jax.Array, Metrics]:
        """Return the mean squared error, over all rows and by language."""
        real = self.is_real(examples.labels)
        wanted = jnp.where(real, jax.lax.bitcast_convert_type(examples.labels, jnp.float32), 0.0)
        losses = jnp.square(self.predictions(model, examples.rows, key) - wanted)
        return (losses * examples.weights).sum(), means_by_language(
            {"loss": losses}, real, examples.rows.language, context
        )

    def is_real(self, labels: jax.Array) -> jax.Array:
        """Return which labels are numbers: the bits of −1 are NaN as a float32."""
        return labels != -1

    def predictions(self, model: Any, rows: Rows, key: jax.Array | None = None) -> jax.Array:
        """Return the number of each text, ``[rows]`` float32."""
        return self.outputs(model, rows, key)[:, 0]
