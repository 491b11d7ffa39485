"""Classification of texts with any number of classes, such as topics or emotions."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mlm_jax.config.option import option
from mlm_jax.config.values import choice
from mlm_jax.objectives.base import Context, Metrics, means_by_language, sum_by_language
from mlm_jax.objectives.labelled import POOLING, Labelled, LabelledExamples


@dataclasses.dataclass(frozen=True)
class MultiLabelClassification(Labelled):
    """Mean over texts and classes of −log P(whether the text has the class | text)."""

    kind: ClassVar[str] = "multilabelled"
    published_head: ClassVar[tuple[str, str | None]] = ("ForSequenceClassification", "multi_label_classification")
    metric_names: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "f1")
    pooling: str = option("mean", choice("mean", "first", "late"), POOLING)

    def loss(
        self, model: Any, examples: LabelledExamples, context: Context, key: jax.Array | None
    ) -> tuple[jax.Array, Metrics]:
        """Return the mean loss, and by language: loss, share of right decisions, and F1 over all texts and classes.

        F1 is 2 · hits / (2 · hits + misses + false alarms), the micro average.
        """
        rows, labels = examples.rows, examples.labels  # [rows, classes]
        logits, real = self.outputs(model, rows, key), self.is_real(labels)
        losses = jax.nn.softplus(jnp.where(labels == 1, -logits, logits))
        predicted, true = (logits > 0) & real, labels == 1
        metrics = means_by_language({"loss": losses, "accuracy": predicted == true}, real, rows.language, context)
        hits, decided = ((2 * (predicted & true)).sum(axis=1), (predicted.astype(int) + true).sum(axis=1))  # [rows]
        metrics["f1"] = (
            sum_by_language(hits, rows.language, context),
            sum_by_language(decided, rows.language, context),
        )
        return (losses * examples.weights).sum(), metrics
