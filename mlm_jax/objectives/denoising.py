"""Span corruption: a decoder writes the spans that sentinels replaced in the encoder's input."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mlm_jax.batch import Rows, TaskBatch
from mlm_jax.errors import UserError
from mlm_jax.objectives.base import Context, Objective
from mlm_jax.objectives.translation import SequenceExamples, predict_sequence, sequence_examples


@dataclasses.dataclass(frozen=True)
class Denoising(Objective):
    """T5's span corruption, drawn on the device (Raffel et al. 2020, section 3.1.4).

    The number of noise tokens and spans follows from the row's length alone, so that all shapes are fixed: a row of
    568 tokens becomes 512 for the encoder and 114 for the decoder. Rows are read as running text, as in T5.

    Attributes:
      noise_density: share of tokens that are noise.
      mean_span: mean length of a noise span, in tokens.
    """

    kind: ClassVar[str] = "text"
    noise_density: float = 0.15
    mean_span: float = 3.0

    def lengths(self, length: int) -> tuple[int, int, int, int]:
        """Return (noise tokens, noise spans, encoder length, decoder length) for rows of ``length`` tokens."""
        noise = min(max(round(length * self.noise_density), 1), length - 1)
        spans = max(round(noise / self.mean_span), 1)
        return noise, spans, length - noise + spans + 1, noise + spans + 1

    def prepare(self, batch: TaskBatch, key: jax.Array, context: Context) -> SequenceExamples:
        """Corrupt each row with its own spans.

        Raises:
          UserError: the vocabulary has too few sentinels for rows of this length.
        """
        rows: Rows = batch["inputs"]
        count, length = rows.tokens.shape
        noise, spans, encoder_length, decoder_length = self.lengths(length)
        if spans > len(context.sentinels):
            raise UserError(
                f"task {self.task!r}: rows of {length} tokens need {spans} sentinels, "
                f"the vocabulary has {len(context.sentinels)}",
                remedy="raise vocabulary.sentinels or shorten the task's length",
            )
        is_noise = jax.vmap(lambda k: noise_mask(k, length, noise, spans))(jax.random.split(key, count))
        corrupt = jax.vmap(replace_spans, in_axes=(0, 0, None, None))
        eos = jnp.broadcast_to(jnp.asarray(context.eos_id, rows.tokens.dtype), (count, 1))
        sentinels = jnp.asarray(context.sentinels[: spans + 1])
        source = jnp.concatenate([corrupt(rows.tokens, is_noise, sentinels, encoder_length - 1), eos], axis=1)
        target = jnp.concatenate([corrupt(rows.tokens, ~is_noise, sentinels, decoder_length - 1), eos], axis=1)
        return sequence_examples(
            whole_rows(source, rows), whole_rows(target, rows), dataclasses.replace(context, prefixed=False)
        )

    def loss(self, model: Any, examples: SequenceExamples, context: Context, key: jax.Array | None):
        """Return the weighted sum of −log P over the decoder's tokens, and loss and accuracy by language."""
        return predict_sequence(model, examples, context, key, self.task)


def noise_mask(key: jax.Array, length: int, noise: int, spans: int) -> jax.Array:
    """Return ``[length]`` bool with exactly ``noise`` tokens in ``spans`` spans, beginning with text that is kept."""
    noise_key, kept_key = jax.random.split(key)
    noise_lengths = random_partition(noise_key, noise, spans)
    kept_lengths = random_partition(kept_key, length - noise, spans)
    interleaved = jnp.stack([kept_lengths, noise_lengths], axis=1).ravel()  # [2 spans] kept, noise, kept, noise …
    starts = jnp.cumsum(interleaved)[:-1]
    part = jnp.zeros(length, jnp.int32).at[starts].add(1).cumsum()
    return part % 2 == 1


def random_partition(key: jax.Array, items: int, parts: int) -> jax.Array:
    """Return ``[parts]`` random positive lengths that sum to ``items``, all partitions equally likely."""
    cuts = jax.random.permutation(key, jnp.arange(items - 1) < parts - 1)  # which items begin a new part
    part = jnp.cumsum(jnp.concatenate([jnp.zeros(1, jnp.int32), cuts.astype(jnp.int32)]))
    return jax.ops.segment_sum(jnp.ones(items, jnp.int32), part, parts)


def replace_spans(tokens: jax.Array, hidden: jax.Array, sentinels: jax.Array, size: int) -> jax.Array:
    """Put one sentinel for each run of hidden tokens, in order, and close the gaps: ``[size]`` tokens."""
    first = hidden & ~jnp.concatenate([jnp.zeros(1, bool), hidden[:-1]])
    replaced = jnp.where(first, sentinels[jnp.cumsum(first) - 1], tokens)
    order = jnp.argsort(hidden & ~first)  # stable: what stays comes first, in order
    return replaced[order][:size]


def whole_rows(tokens: jax.Array, like: Rows) -> Rows:
    """Make rows of one segment each."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    return Rows(tokens, jnp.ones_like(tokens), positions, like.language)
