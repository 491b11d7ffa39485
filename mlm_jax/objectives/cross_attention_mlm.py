"""Cross-attention masked language modelling: masked tokens of a sentence are predicted with the help of its translation."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mlm_jax.config.option import option
from mlm_jax.config.values import Number
from mlm_jax.data.loading.batch import Rows, TaskBatch
from mlm_jax.objectives.base import Context, Metrics, concatenate_rows
from mlm_jax.objectives.mlm import MaskedExamples, MaskedLanguageModelling, predict_masked, weigh
from mlm_jax.objectives.traffic import Traffic


class AlignedExamples(NamedTuple):
    """Complete source rows, and the masked tokens of their targets."""

    source: Rows
    target: MaskedExamples


@dataclasses.dataclass(frozen=True)
class CrossAttentionMaskedLanguageModelling(MaskedLanguageModelling):
    """Predict masked tokens of a sentence that attends to its translation through the cross-lingual attention layer.

    L = Σ_l (1/N_l) Σ_i −log P(y_i | y_∖i, x) + unplugged · Σ_l (1/N_l) Σ_i −log P(y_i | y_∖i), y_i the masked tokens of
    language l; the second term is the same encoder with the layer unplugged (Luo et al. 2021, VECO; Ouyang et al. 2021,
    ERNIE-M). Both terms are measured, also if only one is trained.

    """

    kind: ClassVar[str] = "pairs"
    needs: ClassVar[str] = "cross_lingual"
    metric_names: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "loss_unplugged", "accuracy_unplugged")
    unplugged: float = option(0.0, Number(0, 1), "weight of the loss without the source; 0 only measures it")

    def prepare(self, batch: TaskBatch, key: jax.Array, context: Context) -> Any:
        """Mask tokens of the targets."""
        return AlignedExamples(batch["inputs"], weigh(self.mask(key, batch["targets"], context), context))

    def traffic(self, examples: Any) -> Traffic:
        """Count: both sides are encoded at once, and the masked positions are scored with and without the source."""
        rows, length = examples.source.tokens.shape
        predicted = math.prod(examples.target.masked.positions.shape)
        trained = predicted * (2 if self.unplugged else 1)
        return Traffic(
            2 * rows, length, predicted=trained, headed=trained, measured=2 * predicted - trained, aligned=rows
        )

    def loss(self, model: Any, examples: Any, context: Context, key: jax.Array | None) -> tuple[jax.Array, Metrics]:
        """Return the weighted sum of −log P over masked target tokens, with and without the source, and metrics."""
        source, target = examples.source, examples.target.masked.rows
        pairs = concatenate_rows(target, source)
        both = model.encode(
            pairs, task=self.task, key=key, same_language_rows=self.same_language_rows
        )  # [2 rows, length, width]
        alone, memory = jnp.split(both, 2)
        fused, _ = model.cross_lingual(alone, memory, target.segment_ids, source.segment_ids)
        plugged, metrics = predict_masked(model, fused, examples.target, context)
        if self.unplugged:
            unplugged, bare = predict_masked(model, alone, examples.target, context)
            plugged += self.unplugged * unplugged
        else:  # measured only, without a backward pass
            bare = predict_masked(without_gradient(model), jax.lax.stop_gradient(alone), examples.target, context)[1]
        measured: Metrics = metrics | {f"{name}_unplugged": value for name, value in bare.items()}
        return plugged, measured


def without_gradient(model: Any) -> Any:
    """Return the model with its parameters excluded from the gradient."""
    graphdef, state = nnx.split(model)
    return nnx.merge(graphdef, jax.tree.map(jax.lax.stop_gradient, state))
