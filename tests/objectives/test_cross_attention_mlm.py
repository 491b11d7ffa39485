import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax import model as model_room
from mlm_jax.config import default_config
from mlm_jax.objectives.cross_attention_mlm import CrossAttentionMaskedLanguageModelling
from mlm_jax.objectives.mlm import MaskedLanguageModelling
from tests.objectives.helpers import make_context, random_rows

CONTEXT = make_context()


def make_model(**changes):
    config = default_config()
    config.model.update({"width": 16, "heads": 2, "mlp_width": 24, "global_every": 1, **changes})
    config.model.encoder = ({"layers": 1, "weights": "shared"},)
    facts = {"vocabulary_size": CONTEXT.vocabulary_size, "languages": ("en", "de", "fr")}
    graphdef, shapes, _ = model_room.abstract(config, **facts)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), shapes)
    return graphdef, params


def batch():
    def rows(seed):
        return random_rows(seed, documents=1, length=10)

    return {"inputs": rows(0), "targets": rows(1)}


@pytest.fixture(scope="module")
def found():
    """Examples, and the objective's loss, metrics and gradient for two weights of the unplugged part."""
    graphdef, params = make_model(cross_lingual={"score": "bilinear", "fuse": "gate"})
    results = {}
    for unplugged in (0.0, 0.5):
        objective = CrossAttentionMaskedLanguageModelling(mask_rate=0.4, unplugged=unplugged)
        examples = objective.prepare(batch(), jax.random.key(0), CONTEXT)

        @jax.jit
        def of(params, examples, objective=objective):
            def loss(p):
                return objective.loss(model_room.merge(graphdef, p), examples, CONTEXT, None)

            return jax.value_and_grad(loss, has_aux=True)(params)

        results[unplugged] = of(params, examples), of
    return graphdef, params, examples, results


def test_the_source_is_looked_at_whole_and_only_targets_are_hidden(found):
    graphdef, params, examples, results = found
    np.testing.assert_array_equal(examples.source.tokens, batch()["inputs"].tokens)
    (loss, metrics), _ = results[0.0][0]
    model = model_room.merge(graphdef, params)
    target = examples.target
    hidden, attention = jax.jit(model.encode_with_source)(target.masked.rows, examples.source)
    assert attention.shape == (6, 10, 10)
    picked = jnp.take_along_axis(hidden, target.masked.positions[..., None], axis=1)
    log_p = jax.nn.log_softmax(model.logits(model.masked_head(picked)))
    losses = -jnp.take_along_axis(log_p, target.masked.labels[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(loss, (losses * target.weights).sum(), rtol=1e-5)
    numerator, denominator = metrics["loss"]
    np.testing.assert_allclose(loss, (numerator / np.maximum(denominator, 1)).sum(), rtol=1e-5)


def test_unplugged_it_is_plain_masked_language_modelling(found):
    graphdef, params, examples, results = found
    (plugged, _), gradient = results[0.0][0]
    (both, metrics), both_gradient = results[0.5][0]
    mlm = MaskedLanguageModelling(mask_rate=0.4)

    @jax.jit
    def alone(params):
        def loss(p):
            return mlm.loss(model_room.merge(graphdef, p), examples.target, CONTEXT, None)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, bare), slope = alone(params)
    np.testing.assert_allclose(both, plugged + 0.5 * loss, rtol=1e-5)
    jax.tree.map(lambda a, b, c: np.testing.assert_allclose(a, b + 0.5 * c, atol=2e-5), both_gradient, gradient, slope)
    for name in ("loss", "accuracy"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), metrics[f"{name}_unplugged"], bare[name])
    assert set(metrics) == set(CrossAttentionMaskedLanguageModelling.metric_names)


def test_the_loss_of_parts_adds_up(found):
    _, params, examples, results = found
    (whole, _), _ = results[0.5][0]
    of = results[0.5][1]
    parts = [of(params, jax.tree.map(lambda leaf, r=r: leaf[r::2], examples))[0][0] for r in range(2)]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-5)


def test_a_decoder_writes_from_what_the_same_layer_fuses():
    decoder = {"decoder": ({"layers": 1, "weights": "shared"},)}
    fused, weights = make_model(cross_lingual={"score": "bilinear", "fuse": "gate"}, **decoder)
    plain, _ = make_model(**decoder)
    rows, memory = random_rows(3, documents=1, length=8), random_rows(4, documents=1, length=10)
    states = np.random.default_rng(1).normal(size=(6, 10, 16)).astype(np.float32)

    def decode(graphdef, params):
        return model_room.merge(graphdef, params).decode(rows, states, memory.segment_ids)

    layer = model_room.merge(fused, weights).cross_lingual
    alone = decode(plain, {name: part for name, part in weights.items() if name != "cross_lingual"})
    expected, _ = layer(alone, states, rows.segment_ids, memory.segment_ids)
    np.testing.assert_allclose(decode(fused, weights), expected, atol=1e-6)
    assert np.abs(expected - alone).max() > 0.1
