"""Analytic FLOPs against XLA's count of unscanned models, and against counts by hand."""

import jax
import jax.numpy as jnp
import pytest

from mlm_jax import model as model_room
from mlm_jax.config import default_config
from mlm_jax.data.loading.batch import Rows
from mlm_jax.training.context import planned_context
from mlm_jax.training.flops import keys_per_query, mfu, step_flops

LANGUAGES = ("en", "de", "fr")


def small(**model):
    config = default_config()
    config.vocabulary.size, config.vocabulary.sentinels = 512, 4
    config.model.update({"width": 64, "heads": 4, "mlp_width": 96, "global_every": 1, "head_transform": False})
    config.model.attention = "reference"
    config.model.encoder = ({"layers": 1, "weights": "shared"},)
    config.model.update(model)
    return config


def shapes(rows, length):
    def array(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    return Rows(array(rows, length), array(rows, length), array(rows, length), array(rows))


def count(config, batch):
    context = planned_context(LANGUAGES, config)
    _, params, axes = model_room.abstract(config, vocabulary_size=512, languages=LANGUAGES)
    return step_flops(config, context, params, axes, batch, platform="cpu")


def test_masked_language_modelling_by_hand():
    config = small(encoder=({"layers": 2, "weights": "shared"},), head_transform=True)
    config.tasks = {"mlm": {"objective": "mlm", "rows": 8, "length": 32, "mask_rate": 0.25}}
    found = count(config, {"mlm": {"inputs": shapes(8, 32)}})
    tokens, masked = 8 * 32, 8 * 8
    assert found.parts == {
        "encoder": 3 * 2 * tokens * 2 * (4 * 64 * 64 + 3 * 64 * 96),
        "attention": 3 * 4 * 2 * 8 * 32 * 32 * 64,
        "head": 3 * 2 * masked * 64 * 64,
        "output": 3 * 2 * masked * 512 * 64,
    }
    assert found.recomputed == 0


@pytest.mark.parametrize("weights", ["shared", "source_language"])
def test_encoder_is_what_xla_counts(weights):
    """One layer, so that its loop has one round, which XLA counts once: right."""
    config = small(encoder=({"layers": 1, "weights": weights},), width=256, mlp_width=512)
    config.tasks = {"ranking": {"objective": "ranking", "rows": 8, "length": 64}}
    found = count(config, {"ranking": {"inputs": shapes(8, 64), "targets": shapes(8, 64)}})
    graphdef, params, _ = model_room.abstract(config, vocabulary_size=512, languages=LANGUAGES)

    def loss(params, rows):
        return model_room.merge(graphdef, params).encode(rows).sum()

    counted = jax.jit(jax.grad(loss)).lower(params, shapes(16, 64)).compile().cost_analysis()["flops"]
    assert found.parts["encoder"] + found.parts["attention"] == pytest.approx(counted, rel=0.05)


def test_translation_counts_both_sides_and_the_memory():
    config = small(decoder=({"layers": 2, "weights": "target_language"},))
    config.tasks = {"translation": {"objective": "translation", "rows": 8, "length": 16}}
    found = count(config, {"translation": {"inputs": shapes(8, 16), "targets": shapes(8, 16)}})
    tokens = 8 * 16
    layer = 4 * 64 * 64 + 3 * 64 * 96
    assert found.parts["encoder"] == 6 * tokens * layer
    assert found.parts["decoder"] == 6 * tokens * 2 * (layer + 4 * 64 * 64)
    assert found.parts["attention"] == 3 * 4 * tokens * 16 * 64 * (1 + 2 * 2)
    assert found.parts["output"] == 6 * tokens * 512 * 64


@pytest.mark.parametrize("unplugged", [0.0, 1.0])
@pytest.mark.parametrize("score, fuse", [("scaled_dot", "residual"), ("additive", "concat")])
def test_cross_attention_counts_the_layer_between_the_sides(score, fuse, unplugged):
    config = small(cross_lingual={"score": score, "fuse": fuse}, head_transform=True)
    config.tasks = {
        "aligned": {
            "objective": "cross_attention_mlm",
            "rows": 8,
            "length": 16,
            "mask_rate": 0.25,
            "unplugged": unplugged,
        }
    }
    found = count(config, {"aligned": {"inputs": shapes(8, 16), "targets": shapes(8, 16)}})
    tokens, masked = 8 * 16, 8 * 4
    assert found.parts["encoder"] == 6 * 2 * tokens * (4 * 64 * 64 + 3 * 64 * 96)
    fusion = 2 * tokens * (64 if fuse == "residual" else 128) * 64
    pairs = 2 * tokens * 16
    scores = pairs * 64 if score == "scaled_dot" else pairs * 16 + 2 * 2 * tokens * 64 * 16
    assert found.parts["cross_lingual"] == 3 * (fusion + scores + pairs * 64)
    output = 2 * masked * 512 * 64
    assert found.parts["output"] == 3 * output * (2 if unplugged else 1)
    # The encoder without the layer is always evaluated, forward only.
    assert found.parts.get("measured", 0.0) == (0 if unplugged else output + 2 * masked * 64 * 64)


def test_a_decoder_looks_through_the_cross_lingual_attention_too():
    config = small(decoder=({"layers": 1, "weights": "shared"},), cross_lingual={"score": "additive", "fuse": "gate"})
    config.tasks = {"translation": {"objective": "translation", "rows": 8, "length": 16}}
    found = count(config, {"translation": {"inputs": shapes(8, 24), "targets": shapes(8, 16)}})
    written, read, pairs = 8 * 16, 8 * 24, 8 * 16 * 24
    projections = (written + read) * 64 * 16
    assert found.parts["cross_lingual"] == 6 * (projections + pairs * 16 + pairs * 64 + written * 128 * 64)


def test_ranking_compares_all_pairs_both_ways():
    config = small()
    config.tasks = {"ranking": {"objective": "ranking", "rows": 8, "length": 16}}
    found = count(config, {"ranking": {"inputs": shapes(8, 16), "targets": shapes(8, 16)}})
    assert found.parts["compared"] == 3 * 2 * (2 * 8 * 8) * 64


def test_recomputation_is_no_part_of_the_model():
    config = small()
    config.tasks = {"mlm": {"objective": "mlm", "rows": 8, "length": 32, "mask_rate": 0.25}}
    batch = {"mlm": {"inputs": shapes(8, 32)}}
    plain = count(config, batch)
    config.model.remat = "full"
    again = count(config, batch)
    assert again.model == plain.model
    assert again.recomputed == (plain.parts["encoder"] + plain.parts["attention"]) / 3


def test_a_window_costs_its_band():
    assert keys_per_query(1024, 1024, window=128, causal=False, implementation="reference") == 3 * 64
    assert keys_per_query(1024, 1024, window=0, causal=False, implementation="reference") == 1024
    # Blocks of 512: of 8 × 8, those on the diagonal and beside it.
    assert keys_per_query(4096, 4096, window=128, causal=False, implementation="splash") == (8 + 2 * 7) * 512 / 8
    assert keys_per_query(1024, 1024, window=0, causal=True, implementation="splash") == 3 * 512 / 2
    assert keys_per_query(1024, 1024, window=128, causal=False, implementation="cudnn") == 2 * 128
    # Each block of 64 queries meets three blocks of keys, and those at the ends meet two.
    assert keys_per_query(1024, 1024, window=128, causal=False, implementation="flash") == (14 * 3 + 2 * 2) * 64 / 16
    assert keys_per_query(1000, 1000, window=0, causal=False, implementation="flash") == 1024 * 1024 / 1000
    # The row is too short for blocks of 384.
    assert keys_per_query(1000, 1000, window=300, causal=False, implementation="cudnn") == 1000
    assert keys_per_query(1600, 1600, window=300, causal=False, implementation="cudnn") == 2 * 384 * (5 * 384) / 1600


def test_mfu():
    assert mfu(1e15, 2.0, 10, 100e12) == 0.5
