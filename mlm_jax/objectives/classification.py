"""Classification of whole texts and of single tokens, by a head of the task's own."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from mlm_jax.config.option import option
from mlm_jax.config.values import choice
from mlm_jax.data.loading.batch import Rows, TaskBatch
from mlm_jax.objectives.base import Context, Metrics, Objective, mean_weights, sum_by_language
from mlm_jax.objectives.traffic import Traffic

TRANSFORM = (
    "what stands before the output layer: nothing; a dense layer with tanh (XLM-R, BERT) or gelu (EuroBERT); or a head as "
    "of masked language modelling (ModernBERT)"
)
POOLING = (
    "what is classified: the mean of the hidden states; the first one (XLM-R, BERT); or late, each of them, and the mean "
    "of their logits is taken (EuroBERT)"
)


class LabelledExamples(NamedTuple):
    """Rows, their labels ([rows] or [rows, length], -1 = ignored) and the weight of each label."""

    rows: Rows
    labels: jax.Array
    weights: jax.Array


@dataclasses.dataclass(frozen=True)
class Labelled(Objective):
    """Mean −log P(label | hidden states)."""

    kind: ClassVar[str] = "labelled"
    transform: str = option("none", choice("none", "tanh", "gelu", "head"), TRANSFORM)

    def prepare(self, batch: TaskBatch, key: jax.Array, context: Context) -> LabelledExamples:
        """Weigh each label by one over the labels of the global batch."""
        labels = batch["labels"]
        real = labels >= 0
        return LabelledExamples(batch["inputs"], labels, real * mean_weights(real.sum(), labels))

    def traffic(self, examples: LabelledExamples) -> Traffic:
        """Return that all rows are encoded, and a vector of each label classified."""
        rows, length = examples.rows.tokens.shape
        return Traffic(rows, length, classified=math.prod(examples.labels.shape))

    def loss(
        self, model: Any, examples: LabelledExamples, context: Context, key: jax.Array | None
    ) -> tuple[jax.Array, Metrics]:
        """Return the mean loss, and loss and accuracy by language."""
        hidden = model.encode(examples.rows, task=self.task, key=key, same_language_rows=self.same_language_rows)
        logits = model.classify(self.task, hidden, examples.rows.segment_ids, pooled=not self.per_token).astype(
            jnp.float32
        )
        labels = jnp.maximum(examples.labels, 0)
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]
        real = examples.labels >= 0
        language = examples.rows.language.reshape(-1, *(1,) * (labels.ndim - 1))
        language = jnp.broadcast_to(language, labels.shape)
        count = sum_by_language(real, language, context)
        return (losses * examples.weights).sum(), {
            "loss": (sum_by_language(losses * real, language, context), count),
            "accuracy": (sum_by_language((logits.argmax(axis=-1) == labels) * real, language, context), count),
        }


@dataclasses.dataclass(frozen=True)
class Classification(Labelled):
    """Mean −log P(label | text)."""

    pooling: str = option("mean", choice("mean", "first", "late"), POOLING)


@dataclasses.dataclass(frozen=True)
class TokenClassification(Labelled):
    """Mean −log P(label of a word's first piece | text), for named entities and the like."""

    per_token: ClassVar[bool] = True
