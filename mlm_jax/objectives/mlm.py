"""Masked language modelling with the exact per-language loss."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from mlm_jax.data.loading.batch import TaskBatch
from mlm_jax.objectives.base import Context, Metrics, language_weights, means_by_language
from mlm_jax.objectives.cross_entropy import weighted_cross_entropy
from mlm_jax.objectives.masking import Masked, Masking
from mlm_jax.objectives.traffic import Traffic


class MaskedExamples(NamedTuple):
    """Masked rows with the language and the weight of each prediction, both ``[rows, capacity]``."""

    masked: Masked
    language: jax.Array
    weights: jax.Array


@dataclasses.dataclass(frozen=True)
class MaskedLanguageModelling(Masking):
    """Predict masked tokens: L = Σ_l (1/N_l) Σ_i −log P(x_i^l | x_∖i^l) (Devlin et al. 2019; Conneau et al. 2020)."""

    kind: ClassVar[str] = "text"

    def prepare(self, batch: TaskBatch, key: jax.Array, context: Context) -> MaskedExamples:
        """Mask tokens of the global batch and weight each by 1/N_l."""
        return weigh(self.mask(key, batch["inputs"], context), context)

    def traffic(self, examples: MaskedExamples) -> Traffic:
        """Count: all rows are encoded, and the masked positions are scored."""
        rows, length = examples.masked.rows.tokens.shape
        predicted = math.prod(examples.masked.positions.shape)
        return Traffic(rows, length, predicted=predicted, headed=predicted)

    def loss(
        self, model: Any, examples: MaskedExamples, context: Context, key: jax.Array | None
    ) -> tuple[jax.Array, Metrics]:
        """Return the weighted sum of −log P over the masked tokens, and loss and accuracy by language."""
        hidden = model.encode(examples.masked.rows, task=self.task, key=key, same_language_rows=self.same_language_rows)
        return predict_masked(model, hidden, examples, context)


def weigh(masked: Masked, context: Context) -> MaskedExamples:
    """Give each masked token the weight 1/N_l of its row's language, counted over the global batch."""
    weights = language_weights(masked.chosen.sum(axis=1), masked.rows.language, context)  # [rows]
    language = jnp.broadcast_to(masked.rows.language[:, None], masked.chosen.shape)
    return MaskedExamples(masked, language, masked.chosen * weights[:, None])


def predict_masked(
    model: Any, hidden: jax.Array, examples: MaskedExamples, context: Context
) -> tuple[jax.Array, Metrics]:
    """Score the masked tokens from ``[rows, length, width]`` hidden states; only their positions reach the head."""
    masked, language = examples.masked, examples.language
    picked = jnp.take_along_axis(hidden, masked.positions[..., None], axis=1)  # [rows, capacity, width]
    table, bias = model.output_table()
    total, losses, hits = weighted_cross_entropy(
        model.masked_head(picked),
        table,
        bias,
        masked.labels,
        examples.weights,
        vocabulary_size=context.vocabulary_size,
        chunk=context.chunk,
        logits_bytes=context.logits_bytes,
        z_loss=context.z_loss,
    )
    return total, means_by_language({"loss": losses, "accuracy": hits}, masked.chosen, language, context)
