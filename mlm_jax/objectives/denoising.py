"""Span corruption: a decoder writes the spans that sentinels replaced in the encoder's input."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mlm_jax.common.errors import UserError
from mlm_jax.config.option import option
from mlm_jax.config.values import ABOVE_ZERO, Number
from mlm_jax.data.loading.batch import Rows, TaskBatch
from mlm_jax.objectives.base import Context, Metrics, Objective
from mlm_jax.objectives.traffic import Traffic
from mlm_jax.objectives.translation import SequenceExamples, predict_sequence, sequence_examples, sequence_traffic


@dataclasses.dataclass(frozen=True)
class Denoising(Objective):
    """T5's span corruption, drawn on the device (Raffel et al. 2020, section 3.1.4).

    The number of noise tokens and spans follows from the row's length alone, so that all shapes are fixed: a row of
    568 tokens becomes 512 for the encoder and 114 for the decoder. As in T5, a row is running text, across documents; padding at
    its end becomes padding on both sides.
    """

    kind: ClassVar[str] = "text"
    needs: ClassVar[str] = "decoder"
    writes: ClassVar[bool] = True
    noise_density: float = option(0.15, Number(ABOVE_ZERO, 1), "share of tokens that are noise")
    mean_span: float = option(3.0, Number(1), "mean length of a noise span, in tokens")

    def lengths(self, length: int) -> tuple[int, int, int, int]:
        """Return (noise tokens, noise spans, encoder length, decoder length) for rows of ``length`` tokens."""
        noise = min(max(round(length * self.noise_density), 1), length - 1)
        # There is as much kept text between the spans.
        spans = min(max(round(noise / self.mean_span), 1), noise, length - noise)
        return noise, spans, length - noise + spans + 1, noise + spans + 1

    def longest_row(self, length: int) -> int:
        """Return the length of the encoder's rows, or of the decoder's if there is more noise than text."""
        return max(self.lengths(length)[2:])

    def check_pieces(self, context: Context, length: int) -> None:
        """Check that the vocabulary has a sentinel for each span of a row.

        Raises:
          UserError: it has too few.
        """
        spans = self.lengths(length)[1]
        if spans > len(context.sentinels):
            raise UserError(
                f"task {self.task!r}: rows of {length} tokens need {spans} sentinels, "
                f"the vocabulary has {len(context.sentinels)}",
                remedy=("shorten the task's length, " if len(context.sentinels) else "use the objective translation, ")
                + "or train a vocabulary with more sentinels (vocabulary.sentinels)",
            )

    def prepare(self, batch: TaskBatch, key: jax.Array, context: Context) -> SequenceExamples:
        """Corrupt each row with its own spans.

        Raises:
          UserError: as :meth:`check_pieces`.
        """
        rows: Rows = batch["inputs"]
        count, length = rows.tokens.shape
        self.check_pieces(context, length)
        noise, spans, encoder_length, decoder_length = self.lengths(length)
        is_noise = jax.vmap(lambda k: noise_mask(k, length, noise, spans))(jax.random.split(key, count))
        real = jnp.asarray(rows.segment_ids) > 0
        # The decoder writes nothing after the last span with real tokens.
        asked = jax.lax.cummax((real & is_noise).astype(jnp.int32), axis=1, reverse=True) > 0  # [rows, length]
        sentinels = jnp.asarray(context.sentinels[: spans + 1])

        def side(hidden: jax.Array, real: jax.Array, size: int) -> Rows:
            corrupt = jax.vmap(replace_spans, in_axes=(0, 0, 0, None, None, None))
            tokens, real = corrupt(rows.tokens, real, hidden, sentinels, size, context.eos_id)
            positions = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), tokens.shape)
            return Rows(tokens, real.astype(jnp.int32), positions, rows.language)

        source, target = side(is_noise, real, encoder_length), side(~is_noise, asked, decoder_length)
        return sequence_examples(source, target, dataclasses.replace(context, prefixed=False))

    def traffic(self, examples: SequenceExamples) -> Traffic:
        """Count: the corrupted rows are encoded, and every position of the removed spans is decoded and scored."""
        return sequence_traffic(examples)

    def loss(
        self, model: Any, examples: SequenceExamples, context: Context, key: jax.Array | None
    ) -> tuple[jax.Array, Metrics]:
        """Return the weighted sum of −log P over the decoder's tokens, and loss and accuracy by language."""
        return predict_sequence(model, examples, context, key, self)


def noise_mask(key: jax.Array, length: int, noise: int, spans: int) -> jax.Array:
    """Return ``[length]`` bool with exactly ``noise`` tokens in ``spans`` spans; the row begins with kept text."""
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


def replace_spans(
    tokens: jax.Array, real: jax.Array, hidden: jax.Array, sentinels: jax.Array, size: int, eos_id: int
) -> tuple[jax.Array, jax.Array]:
    """Replace each run of hidden tokens by one sentinel, in order, close the gaps, and end with eos.

    Args:
      tokens: ``[length]`` token ids.
      real: ``[length]`` bool; other tokens are padding, and come last in the result.
      hidden: ``[length]`` bool, tokens to replace.
      sentinels: ids of sentinels, at least one for each run.
      size: the size of the result.
      eos_id: the piece that ends the result.

    Returns:
      ``[size]`` tokens, and ``[size]`` bool, which of them are real; no token is, if the row has only padding.
    """
    first = hidden & ~jnp.concatenate([jnp.zeros(1, bool), hidden[:-1]])
    replaced = jnp.where(first, sentinels[jnp.cumsum(first) - 1], tokens)
    order = jnp.argsort(hidden & ~first)[: size - 1]  # stable: tokens that stay come first, in order
    replaced = jnp.append(replaced[order], jnp.asarray(eos_id, tokens.dtype))
    real = jnp.append(real[order], real.any())
    order = jnp.argsort(~real)
    return replaced[order], real[order]
