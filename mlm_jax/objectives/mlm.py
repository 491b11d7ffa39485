"""Masked language modelling with the exact per-language loss."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from mlm_jax.batch import TaskBatch
from mlm_jax.objectives.base import Context, Metrics, Objective, language_weights, sum_by_language
from mlm_jax.objectives.cross_entropy import weighted_cross_entropy
from mlm_jax.objectives.masking import Masked, mask_tokens


class MaskedExamples(NamedTuple):
    """Masked rows and the weight of each prediction, ``[rows, capacity]`` float32."""

    masked: Masked
    weights: jax.Array


@dataclasses.dataclass(frozen=True)
class MaskedLanguageModelling(Objective):
    """Predict hidden tokens: L = Σ_l (1/N_l) Σ_i −log P(x_i^l | x_∖i^l) (Devlin et al. 2019; Conneau et al. 2020).

    Attributes:
      mask_rate: share of each row's ordinary tokens to predict.
      unit: what is hidden together: ``token`` | ``word`` | ``span``.
      mean_span: mean length of a span in tokens.
      keep: share of the chosen tokens that are left as they are.
      replace: share of the chosen tokens that become a random piece.
    """

    kind: ClassVar[str] = "text"
    mask_rate: float = 0.3
    unit: str = "token"
    mean_span: float = 3.0
    keep: float = 0.1
    replace: float = 0.1

    def prepare(self, batch: TaskBatch, key: jax.Array, context: Context) -> MaskedExamples:
        """Hide tokens of the global batch and weigh each by 1/N_l."""
        masked = self.mask(key, batch["inputs"], context)
        counts = masked.chosen.sum(axis=1)  # [rows]
        weights = language_weights(counts, masked.rows.language, context)  # [rows]
        return MaskedExamples(masked, masked.chosen * weights[:, None])

    def mask(self, key: jax.Array, rows: Any, context: Context) -> Masked:
        """Hide tokens of ``rows`` as the options say."""
        return mask_tokens(key, rows, context, rate=self.mask_rate, unit=self.unit, mean_span=self.mean_span,
                           keep=self.keep, replace=self.replace)  # fmt: skip

    def loss(self, model: Any, examples: MaskedExamples, context: Context, key: jax.Array | None):
        """Return the weighted sum of −log P over the hidden tokens, and loss and accuracy by language."""
        hidden = model.encode(examples.masked.rows, key=key)  # [rows, length, width]
        return predict_masked(model, hidden, examples, context)


def predict_masked(model: Any, hidden: jax.Array, examples: MaskedExamples, context: Context) -> tuple[jax.Array, Metrics]:
    """Score the hidden tokens from ``[rows, length, width]`` hidden states; only their positions reach the head."""
    masked = examples.masked
    picked = jnp.take_along_axis(hidden, masked.positions[..., None], axis=1)  # [rows, capacity, width]
    table, bias = model.output_table()
    total, losses, hits = weighted_cross_entropy(
        model.masked_head(picked), table, bias, masked.labels, examples.weights,
        vocabulary_size=context.vocabulary_size, chunk=context.chunk, z_loss=context.z_loss,
    )  # fmt: skip
    count = sum_by_language(masked.chosen, masked.rows.language, context)
    return total, {
        "loss": (sum_by_language(losses * masked.chosen, masked.rows.language, context), count),
        "accuracy": (sum_by_language(hits * masked.chosen, masked.rows.language, context), count),
    }
