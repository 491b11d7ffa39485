"""Translation: an autoregressive decoder that attends to the encoded source."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from mlm_jax.config.option import option
from mlm_jax.config.values import Number
from mlm_jax.data.loading.batch import Rows, TaskBatch
from mlm_jax.objectives.base import Context, Metrics, Objective, language_weights, means_by_language
from mlm_jax.objectives.cross_entropy import weighted_cross_entropy
from mlm_jax.objectives.traffic import Traffic


class SequenceExamples(NamedTuple):
    """Encoder rows, decoder rows (shifted right), labels and weights ``[rows, target length]``."""

    source: Rows
    decoder: Rows
    labels: jax.Array
    weights: jax.Array


@dataclasses.dataclass(frozen=True)
class Translation(Objective):
    """Σ_l (1/N_l) Σ_i −log P(y_i | y_<i, x), N_l the target tokens of language l in the global batch.

    The decoder starts with the target language's token, so a batch may contain any directions (Johnson et al. 2017).
    ``config.model.decoder`` decides which weights it uses.
    """

    kind: ClassVar[str] = "pairs"
    needs: ClassVar[str] = "decoder"
    writes: ClassVar[bool] = True
    # Metrics are computed without smoothing (Szegedy et al. 2016).
    smoothing: float = option(
        0.0, Number(0, 1), "share of each label's probability that is spread evenly over all pieces"
    )

    def prepare(self, batch: TaskBatch, key: jax.Array, context: Context) -> SequenceExamples:
        """Shift the targets right."""
        return sequence_examples(batch["inputs"], batch["targets"], context)

    def traffic(self, examples: SequenceExamples) -> Traffic:
        """Count: the source is encoded, and every position of the target is decoded and scored."""
        return sequence_traffic(examples)

    def loss(
        self, model: Any, examples: SequenceExamples, context: Context, key: jax.Array | None
    ) -> tuple[jax.Array, Metrics]:
        """Return the weighted sum of −log P over target tokens, and loss and accuracy by target language."""
        return predict_sequence(model, examples, context, key, self, self.smoothing)


def sequence_examples(source: Rows, target: Rows, context: Context) -> SequenceExamples:
    """Make decoder inputs that start with the target language's piece, and labels that follow them."""
    starts = jnp.asarray(context.language_starts)[target.language][:, None]  # [rows, 1]
    if context.prefixed:  # the stored target already begins with it
        labels = jnp.pad(target.tokens[:, 1:], ((0, 0), (0, 1)), constant_values=context.pad_id)
        real = jnp.pad(target.segment_ids[:, 1:], ((0, 0), (0, 1))) > 0
    else:
        labels, real = target.tokens, target.segment_ids > 0
    tokens = jnp.concatenate([starts, labels[:, :-1]], axis=1).astype(target.tokens.dtype)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    decoder = Rows(tokens, real.astype(jnp.int32), positions, target.language)
    weights = language_weights(real.sum(axis=1), target.language, context)  # [rows]
    return SequenceExamples(source, decoder, labels, real * weights[:, None])


def sequence_traffic(examples: SequenceExamples) -> Traffic:
    """Return the traffic of a step with these examples."""
    (rows, length), (targets, target_length) = examples.source.tokens.shape, examples.decoder.tokens.shape
    return Traffic(rows, length, targets, target_length, predicted=targets * target_length)


def predict_sequence(
    model: Any,
    examples: SequenceExamples,
    context: Context,
    key: jax.Array | None,
    objective: Objective,
    smoothing: float = 0.0,
) -> tuple[jax.Array, Metrics]:
    """Encode the source, decode the shifted target, and score its labels."""
    source, decoder = examples.source, examples.decoder
    encoder_key, decoder_key = (None, None) if key is None else jax.random.split(key)
    weights: dict[str, Any] = {"task": objective.task, "same_language_rows": objective.same_language_rows}
    memory = model.encode(
        source, target_language=decoder.language, key=encoder_key, **weights
    )  # [rows, source length, width]
    hidden = model.decode(
        decoder, memory, source.segment_ids, source_language=source.language, key=decoder_key, **weights
    )
    table, bias = model.output_table()
    total, losses, hits = weighted_cross_entropy(
        model.decoder_head(hidden),
        table,
        bias,
        examples.labels,
        examples.weights,
        vocabulary_size=context.vocabulary_size,
        chunk=context.chunk,
        logits_bytes=context.logits_bytes,
        z_loss=context.z_loss,
        smoothing=smoothing,
    )
    real = decoder.segment_ids > 0
    return total, means_by_language({"loss": losses, "accuracy": hits}, real, decoder.language, context)
