"""Cross-lingual attention against its formulas, written out for one target position at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mlm_jax.config import default_config
from mlm_jax.config.keys.model import FUSIONS, SCORES
from mlm_jax.model.cross_lingual import COSINE_SCALE, CrossLingualAttention

WIDTH, HEADS = 8, 2
SEGMENTS = np.array([[1, 1, 1, 2, 2, 0]])  # segments of the target: two documents and padding
SOURCE_SEGMENTS = np.array([[1, 1, 2, 2, 2, 0, 0]])


def make(score, fuse):
    config = default_config()
    config.model.update(width=WIDTH, heads=HEADS, cross_lingual={"score": score, "fuse": fuse})
    layer = CrossLingualAttention(config.model, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(layer)
    rng = np.random.default_rng(SCORES.names.index(score))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.7, leaf.shape), jnp.float32), params)
    return nnx.merge(graphdef, params), nnx.to_pure_dict(params)


def expected_score(score, weights, x, y):
    if score == "dot":
        return x @ y
    if score == "scaled_dot":
        return x @ y / np.sqrt(WIDTH)
    if score == "cosine":
        return COSINE_SCALE * weights["scale"] * (x @ y) / np.linalg.norm(x) / np.linalg.norm(y)
    if score == "bilinear":
        return x @ weights["bilinear"]["kernel"] @ y
    return np.tanh(x @ weights["target"]["kernel"] + y @ weights["source"]["kernel"]) @ weights["additive"]["kernel"]


def expected_fusion(fuse, weights, x, context):
    def dense(inputs):
        return inputs @ weights["fusion"]["kernel"] + weights["fusion"]["bias"]

    if fuse == "residual":
        return x + dense(context)
    mixed = dense(np.concatenate([x, context]))
    if fuse == "concat":
        return mixed
    gate = 1 / (1 + np.exp(-mixed))
    return gate * x + (1 - gate) * context


@pytest.mark.parametrize("fuse", FUSIONS.names)
@pytest.mark.parametrize("score", SCORES.names)
def test_every_score_and_fusion_is_its_formula(score, fuse):
    layer, weights = make(score, fuse)
    rng = np.random.default_rng(7)
    x, y = (rng.normal(size=(1, segments.size, WIDTH)).astype(np.float32) for segments in (SEGMENTS, SOURCE_SEGMENTS))
    fused, attention = layer(jnp.asarray(x), jnp.asarray(y), jnp.asarray(SEGMENTS), jnp.asarray(SOURCE_SEGMENTS))
    for i, segment in enumerate(SEGMENTS[0]):
        seen = np.flatnonzero(SOURCE_SEGMENTS[0] == segment)
        if segment == 0:
            continue
        scores = np.array([expected_score(score, weights, x[0, i], y[0, j]) for j in seen])
        shares = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        np.testing.assert_allclose(attention[0, i, seen], shares, atol=1e-5)
        assert np.delete(np.asarray(attention[0, i]), seen).max() == 0  # nothing of other documents or of padding
        np.testing.assert_allclose(fused[0, i], expected_fusion(fuse, weights, x[0, i], shares @ y[0, seen]), atol=2e-5)
