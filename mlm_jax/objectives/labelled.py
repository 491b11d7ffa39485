"""The base of objectives that learn from labels: rows with labels, and the task's own head."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mlm_jax.config.option import option
from mlm_jax.config.values import choice
from mlm_jax.data.loading.batch import Rows, TaskBatch
from mlm_jax.objectives.base import Context, Objective, mean_weights
from mlm_jax.objectives.traffic import Traffic

TRANSFORM = (
    "the layer before the output layer: none; a dense layer with tanh (XLM-R, BERT) or gelu (EuroBERT); or a head like that "
    "of masked language modelling (ModernBERT)"
)
POOLING = (
    "the classified vector: the mean of the hidden states; the first one (XLM-R, BERT); or late: each hidden state is "
    "classified, and the mean of their logits is taken (EuroBERT)"
)


class LabelledExamples(NamedTuple):
    """Rows, their labels ([rows], [rows, length] or [rows, classes]; -1 = ignored) and the weight of each label's loss."""

    rows: Rows
    labels: jax.Array
    weights: jax.Array


@dataclasses.dataclass(frozen=True)
class Labelled(Objective):
    """Mean loss of the labels, given the hidden states."""

    transform: str = option("none", choice("none", "tanh", "gelu", "head"), TRANSFORM)

    def prepare(self, batch: TaskBatch, key: jax.Array, context: Context) -> LabelledExamples:
        """Weight each label by 1/(number of labels in the global batch)."""
        labels = batch["labels"]
        real = self.is_real(labels)
        return LabelledExamples(batch["inputs"], labels, real * mean_weights(real.sum(), labels))

    def is_real(self, labels: jax.Array) -> jax.Array:
        """Return which labels exist (bool, in the shape of ``labels``); the others are ignored."""
        return labels >= 0

    def traffic(self, examples: LabelledExamples) -> Traffic:
        """Count: all rows are encoded, and one vector of each text or token is classified."""
        rows, length = examples.rows.tokens.shape
        return Traffic(rows, length, classified=rows * length if self.per_token else rows)

    def outputs(self, model: Any, rows: Rows, key: jax.Array | None = None) -> jax.Array:
        """Return the outputs of the task's head, ``[rows, outputs]`` or ``[rows, length, outputs]`` float32."""
        hidden = model.encode(rows, task=self.task, key=key, same_language_rows=self.same_language_rows)
        return model.classify(self.task, hidden, rows.segment_ids, pooled=not self.per_token).astype(jnp.float32)

    def predictions(self, model: Any, rows: Rows) -> jax.Array:
        """Return the values that are compared with the labels of a held-out set: by default the outputs."""
        return self.outputs(model, rows)
