"""Translation ranking: a sentence's translation must be nearer than every other sentence of the batch."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mlm_jax.batch import Rows, TaskBatch
from mlm_jax.objectives.base import Context, Metrics, Objective, concatenate_rows, sum_by_language


@dataclasses.dataclass(frozen=True)
class TranslationRanking(Objective):
    """Rank translations by mean-pooled sentence embeddings with an additive margin, in both directions.

    L = −(1/N) Σ_i log e^{s(φ(x_i, y_i) − m)} / (e^{s(φ(x_i, y_i) − m)} + Σ_{j≠i} e^{s φ(x_i, y_j)}), φ the cosine, plus
    the same from y to x (Yang et al. 2019; Feng et al. 2022). Negatives are the other sentences of the global batch, on
    whatever device they are; a sentence that equals the right answer is not a negative.

    Attributes:
      margin: m, subtracted from the cosine of true pairs.
      scale: s, the inverse of the softmax's temperature.
    """

    kind: ClassVar[str] = "pairs"
    additive: ClassVar[bool] = False
    margin: float = 0.3
    scale: float = 20.0

    def prepare(self, batch: TaskBatch, key: jax.Array, context: Context) -> TaskBatch:
        """Return the batch: nothing is random here."""
        return batch

    def loss(self, model: Any, examples: TaskBatch, context: Context, key: jax.Array | None, parts: int = 1):
        """Return the loss of the whole global batch, encoded in ``parts`` that the backward pass recomputes."""
        both = concatenate_rows(examples["inputs"], examples["targets"])  # [2 rows, length]
        embeddings = normalize(embed_in_parts(model, both, key, parts))
        left, right = jnp.split(embeddings, 2)  # [rows, width] each
        language = examples["inputs"].language
        forward, forward_hits = self.rank(left, right, sentence_hash(examples["targets"]))
        backward, backward_hits = self.rank(right, left, sentence_hash(examples["inputs"]))
        count = sum_by_language(jnp.ones_like(language), language, context)
        metrics: Metrics = {
            "loss": (sum_by_language(forward + backward, language, context), count),
            "accuracy": (sum_by_language((forward_hits + backward_hits) / 2, language, context), count),
        }
        return (forward + backward).mean(), metrics

    def rank(self, left: jax.Array, right: jax.Array, identity: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return −log P(right_i | left_i) and whether right_i came first, ``[rows]`` each."""
        cosine = jnp.einsum("id,jd->ij", left, right, preferred_element_type=jnp.float32)
        same = identity[:, None] == identity[None, :]
        diagonal = jnp.eye(len(left), dtype=bool)
        cosine = jnp.where(same & ~diagonal, -1e9, cosine)
        losses = -jnp.diagonal(jax.nn.log_softmax(self.scale * (cosine - self.margin * diagonal), axis=1))
        return losses, (cosine.argmax(axis=1) == jnp.arange(len(left))).astype(jnp.float32)


def embed_in_parts(model: Any, rows: Rows, key: jax.Array | None, parts: int) -> jax.Array:
    """Return ``[rows, width]`` sentence embeddings, encoding ``rows / parts`` at a time.

    Each part is recomputed in the backward pass, so that memory is one part's while the loss still sees the whole
    batch: the gradient is exact (what Gao et al. 2021 call gradient caching).
    """
    if parts == 1:
        return model.sentence_embeddings(rows, key=key)
    split = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0), rows)
    keys = None if key is None else jax.random.split(key, parts)
    encode = jax.checkpoint(lambda part: model.sentence_embeddings(part[0], key=part[1]))
    embeddings = jax.lax.map(encode, (split, keys))  # [parts, rows / parts, width]
    return jnp.moveaxis(embeddings, 0, 1).reshape(rows.tokens.shape[0], -1)


def normalize(vectors: jax.Array) -> jax.Array:
    """Scale vectors to length 1; a zero vector stays zero, with a finite gradient."""
    return vectors * jax.lax.rsqrt(jnp.maximum(jnp.square(vectors).sum(axis=-1, keepdims=True), 1e-12))


def sentence_hash(rows: Rows) -> jax.Array:
    """Return ``[rows]`` uint32 that are equal for equal sentences (and for others once in 2³²)."""
    multipliers = jax.random.bits(jax.random.key(0), (rows.tokens.shape[1],)) | 1
    tokens = jnp.where(rows.segment_ids > 0, rows.tokens + 1, 0).astype(jnp.uint32)
    return (tokens * (tokens + 0x9E3779B9) * multipliers).sum(axis=1, dtype=jnp.uint32)
