"""Translation ranking: a sentence's translation must be nearer than every other sentence of the batch."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mlm_jax.config.option import option
from mlm_jax.config.values import ABOVE_ZERO, Number
from mlm_jax.data.loading.batch import Rows, TaskBatch
from mlm_jax.model.layers import unit
from mlm_jax.objectives.base import Context, Metrics, Objective, concatenate_rows, in_parts, sum_by_language
from mlm_jax.objectives.queue import Queue, empty_queue, push
from mlm_jax.objectives.traffic import Traffic

NEVER = -1e9  # logit of candidates that are not negatives; finite, so that gradients are finite


@dataclasses.dataclass(frozen=True)
class TranslationRanking(Objective):
    """Rank translations by mean-pooled sentence embeddings with an additive margin, in both directions.

    L = −(1/N) Σ_i log e^{s(φ(x_i, y_i) − m)} / (e^{s(φ(x_i, y_i) − m)} + Σ_{j≠i} w_ij e^{s φ(x_i, y_j)}), φ the cosine,
    plus the same from y to x (Yang et al. 2019; Feng et al. 2022). Negatives are the other sentences of the global
    batch, on all devices, and those of the queue. A pair that shares a sentence with pair i, on either side, is not a
    negative: its other sentence is a right answer too, for example if text is parallel in several languages.
    """

    kind: ClassVar[str] = "pairs"
    symmetric: ClassVar[bool] = True
    embeds: ClassVar[bool] = True
    additive: ClassVar[bool] = False
    margin: float = option(0.3, Number(0), "m, subtracted from the cosine of true pairs")
    scale: float = option(20.0, Number(ABOVE_ZERO), "s, the inverse of the softmax's temperature")
    # w_ij = e^{β φ(x_i, y_j)} over its mean over j (Robinson et al. 2021).
    hardness: float = option(0.0, Number(0), "β: similar negatives weigh more; 0: all weigh the same")
    queue: int = option(
        0,
        Number(0, whole=True),
        "number of pairs of earlier batches that are negatives too (Wang et al. 2020); 0 is none",
    )
    # While the model changes fast, embeddings of earlier batches do harm.
    queue_after: int = option(0, Number(0, whole=True), "number of first batches that the queue leaves out")

    def initial_memory(self, width: int) -> Queue | None:
        """Return an empty queue; None if the option ``queue`` is 0."""
        return empty_queue(self.queue, width) if self.queue else None

    def prepare(self, batch: TaskBatch, key: jax.Array, context: Context) -> TaskBatch:
        """Return the batch unchanged, because nothing is random."""
        return batch

    def traffic(self, examples: TaskBatch) -> Traffic:
        """Count: both sides are encoded, and every embedding is compared with those of the other side and the queue."""
        rows, length = examples["inputs"].tokens.shape
        return Traffic(2 * rows, length, compared=2 * rows * (rows + self.queue))

    def loss(
        self, model: Any, examples: TaskBatch, context: Context, key: jax.Array | None
    ) -> tuple[jax.Array, Metrics]:
        """Return the loss of the whole global batch without a queue, and metrics."""
        return self.whole_loss(model, examples, context, key, 1, None)[:2]

    def whole_loss(
        self, model: Any, examples: TaskBatch, context: Context, key: jax.Array | None, parts: int, memory: Queue | None
    ) -> tuple[jax.Array, Metrics, Queue | None]:
        """Return the loss of the whole global batch, metrics, and the queue with this batch in it.

        The batch is encoded in ``parts`` that the backward pass recomputes.
        """
        both = concatenate_rows(examples["inputs"], examples["targets"])  # [2 rows, length]
        embeddings = unit(embed_in_parts(model, both, key, parts, self))
        sides = jnp.stack(jnp.split(embeddings, 2))  # [2, rows, width]
        identity = jnp.stack([sentence_hash(examples["inputs"]), sentence_hash(examples["targets"])])  # [2, rows]
        candidates, negative = sides, differ(identity, identity)  # [rows, rows]; never true on the diagonal
        if memory is not None:
            candidates = jnp.concatenate([sides, memory.embeddings], axis=1)  # [2, rows + queue, width]
            earlier = differ(identity, memory.identity) & memory.filled
            negative = jnp.concatenate([negative, earlier], axis=1)  # [rows, rows + queue]
        forward, forward_hits = self.rank(sides[0], candidates[1], negative)
        backward, backward_hits = self.rank(sides[1], candidates[0], negative)
        language = examples["inputs"].language
        count = sum_by_language(jnp.ones_like(language), language, context)
        metrics: Metrics = {
            "loss": (sum_by_language(forward + backward, language, context), count),
            "accuracy": (sum_by_language((forward_hits + backward_hits) / 2, language, context), count),
        }
        if memory is not None:
            memory = push(memory, sides, identity, self.queue_after)
        return (forward + backward).mean(), metrics, memory

    def rank(self, queries: jax.Array, candidates: jax.Array, negative: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return −log P(candidate_i | query_i) and whether candidate_i was the likeliest, ``[rows]`` each.

        Args:
          queries: ``[rows, width]`` unit vectors.
          candidates: ``[candidates, width]``, those of the rows first.
          negative: ``[rows, candidates]`` bool.
        """
        cosine = jnp.einsum("id,jd->ij", queries, candidates, preferred_element_type=jnp.float32)
        true = jnp.diagonal(cosine)  # [rows]
        logits = jnp.where(negative, self.scale * cosine + self.log_weights(cosine, negative), NEVER)
        true_logit = self.scale * (true - self.margin)
        losses = jax.nn.logsumexp(jnp.concatenate([true_logit[:, None], logits], axis=1), axis=1) - true_logit
        hits = true >= jnp.where(negative, cosine, NEVER).max(axis=1)
        return losses, hits.astype(jnp.float32)

    def log_weights(self, cosine: jax.Array, negative: jax.Array) -> jax.Array | float:
        """Return log w_ij ``[rows, candidates]``; the w_ij of a row's negatives have the mean 1."""
        if not self.hardness:
            return 0.0
        tilted = jnp.where(negative, self.hardness * cosine, NEVER)
        count = jnp.maximum(negative.sum(axis=1, keepdims=True), 1)
        return tilted - jax.nn.logsumexp(tilted, axis=1, keepdims=True) + jnp.log(count)


def embed_in_parts(model: Any, rows: Rows, key: jax.Array | None, parts: int, objective: Objective) -> jax.Array:
    """Return ``[rows, width]`` sentence embeddings, encoding ``rows / parts`` at a time.

    Each part is recomputed in the backward pass, so only one part is in memory, while the loss is still that of the whole
    batch. The gradient is exact (gradient caching; Gao et al. 2021).
    """
    which: dict[str, Any] = {"task": objective.task, "same_language_rows": objective.same_language_rows}
    if parts == 1:
        return model.sentence_embeddings(rows, key=key, **which)
    keys = None if key is None else jax.random.split(key, parts)
    encode = jax.checkpoint(lambda part: model.sentence_embeddings(part[0], key=part[1], **which))
    embeddings = jax.lax.map(
        encode, (in_parts(rows, parts, objective.same_language_rows), keys)
    )  # [parts, rows / parts, width]
    runs = embeddings.reshape(parts, -1, objective.same_language_rows, embeddings.shape[-1])
    return jnp.moveaxis(runs, 0, 1).reshape(len(rows.tokens), -1)


def differ(identity: jax.Array, others: jax.Array) -> jax.Array:
    """Return whether two pairs have no sentence in common, ``[rows, others]`` of ``[2, rows]`` and ``[2, others]``."""
    return (identity[:, None, :, None] != others[None, :, None, :]).all(axis=(0, 1))


def sentence_hash(rows: Rows) -> jax.Array:
    """Return ``[rows]`` uint32 hashes: equal for equal sentences, and for different ones with probability 2⁻³²."""
    multipliers = jax.random.bits(jax.random.key(0), (rows.tokens.shape[1],)) | 1
    tokens = jnp.where(rows.segment_ids > 0, rows.tokens + 1, 0).astype(jnp.uint32)
    return (tokens * (tokens + jnp.uint32(0x9E3779B9)) * multipliers).sum(axis=1, dtype=jnp.uint32)
