"""Cross-lingual attention: each position of a target sentence attends to its aligned source sentence."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from mlm_jax.model.layers import Dense, unit
from mlm_jax.model.masks import NEVER, seen
from mlm_jax.model.parameters import parameter
from mlm_jax.parallel.rules import constrain

COSINE_SCALE = 10.0  # initial value: a cosine's range is too small for a softmax (Liu et al. 2022, Swin V2)


class CrossLingualAttention(nnx.Module):
    """A_ij = softmax_j score(x_i, y_j), c_i = Σ_j A_ij y_j, and the fusion of x_i and c_i.

    Scores: ``dot`` x·y; ``scaled_dot`` x·y/√width (Vaswani et al. 2017); ``cosine`` s·cos(x, y) with a learned s, 10 at
    at the start; ``bilinear`` xᵀW y (Luong et al. 2015); ``additive`` vᵀtanh(W x + U y) (Bahdanau et al. 2015), v of the width
    of a head. Fusions: ``residual`` x + W c; ``gate`` g ⊙ x + (1 − g) ⊙ c, g = σ(W [x; c]); ``concat`` W [x; c].

    Args:
      config: ``config.model``, whose ``cross_lingual`` is {"score": …, "fuse": …}.
      rngs: the random number generators of the initial weights.
    """

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        self.score, self.fuse = config.cross_lingual["score"], config.cross_lingual["fuse"]
        width, stddev = config.width, config.initializer_stddev
        dense = functools.partial(Dense, bias=False, stddev=stddev, rngs=rngs)
        here, inner = {"embed": width}, {"adapter": config.head_width or width // config.heads}
        additive = self.score == "additive"
        self.scale = parameter(rngs, "scale", {}) if self.score == "cosine" else None
        self.bilinear = dense(here, {"activation_embed": width}) if self.score == "bilinear" else None
        self.target = dense(here, inner) if additive else None
        self.source = dense(here, inner) if additive else None
        self.additive = dense(inner, {}) if additive else None
        wide = {"embed": width if self.fuse == "residual" else 2 * width}
        self.fusion = dense(wide, {"activation_embed": width}, bias=True)

    def __call__(
        self, x: jax.Array, y: jax.Array, segment_ids: jax.Array, source_segment_ids: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return the fused target ``[rows, length, width]`` and A ``[rows, length, source length]`` float32.

        Args:
          x: ``[rows, length, width]`` target.
          y: ``[rows, source length, width]`` source.
          segment_ids: ``[rows, length]``; document i of the target attends to document i of the source.
          source_segment_ids: ``[rows, source length]``; positions with 0 are masked.
        """
        mask = seen(segment_ids, source_segment_ids, window=0, causal=False)
        scores = constrain(self.scores(x, y), "rows", "length", None)
        weights = jax.nn.softmax(jnp.where(mask, scores, NEVER), axis=-1)  # [rows, length, source length]
        context = jnp.einsum("rij,rjw->riw", weights.astype(y.dtype), y)
        if self.fuse == "residual":
            return x + self.fusion(context), weights
        fused = self.fusion(jnp.concatenate([x, context], axis=-1))
        if self.fuse == "concat":
            return fused, weights
        gate = jax.nn.sigmoid(fused)
        return gate * x + (1 - gate) * context, weights

    def scores(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Return score(x_i, y_j), ``[rows, length, source length]`` float32."""
        if self.additive is not None and self.target is not None and self.source is not None:
            both = jnp.tanh(
                self.target(x)[:, :, None] + self.source(y)[:, None]
            )  # [rows, length, source length, inner]
            return self.additive(both).astype(jnp.float32)
        if self.scale is not None:
            x, y = unit(x), unit(y)
        if self.bilinear is not None:
            x = self.bilinear(x)
        products = jnp.einsum("riw,rjw->rij", x, y, preferred_element_type=jnp.float32)
        if self.scale is not None:
            return COSINE_SCALE * self.scale[...] * products
        return products / x.shape[-1] ** 0.5 if self.score == "scaled_dot" else products
