"""LoRA: W + (alpha / rank) A B is zero at the start, is all that is trained by default, and is merged on export."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax import model as model_room
from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.config.check import check_values
from mlm_jax.model.lora import PRODUCTS, is_low_rank, merged
from mlm_jax.training import optimizer
from mlm_jax.training.paths import by_path
from tests.objectives.helpers import random_rows

LANGUAGES = ("en", "de", "fr")
LORA = {"rank": 3, "alpha": 6, "products": PRODUCTS}
PLANS = {
    "shared": {"encoder": ({"layers": 2},)},
    "by language": {"encoder": ({"layers": 2, "weights": "source_language"},)},
    "decoder": {"encoder": ({"layers": 1},), "decoder": ({"layers": 1},), "kv_heads": 2},
}


def config_of(lora, **settings):
    config = default_config()
    config.model.update({"width": 16, "heads": 4, "mlp_width": 12, "global_every": 1, "lora": lora, **settings})
    return config


def made(lora, labels=None, **settings):
    config = config_of(lora, **settings)
    graphdef, shapes, axes = model_room.abstract(config, vocabulary_size=50, languages=LANGUAGES, labels=labels or {})
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), shapes)
    return config, graphdef, params, axes


def output(graphdef, params, rows, decoder):
    model = model_room.merge(graphdef, params)
    hidden = model.encode(rows)
    return model.decode(rows, hidden, rows.segment_ids) if decoder else hidden


@pytest.mark.parametrize("plan", PLANS)
def test_outputs_are_those_of_the_merged_kernels(plan):
    config, graphdef, params, _ = made(LORA, **PLANS[plan])
    _, plain, *_ = made({}, **PLANS[plan])
    flat = {path: np.asarray(value) for path, value in by_path(params).items()}
    products = {path.split("/")[-4] for path in flat if is_low_rank(path)}
    assert products == {*PRODUCTS}
    whole = merged(flat, config.model.lora)
    assert not any(map(is_low_rank, whole))
    tree = jax.tree_util.tree_map_with_path(
        lambda path, _: jnp.asarray(whole["/".join(str(part.key) for part in path)]), made({}, **PLANS[plan])[2]
    )
    rows, decoder = random_rows(0, length=9, documents=1), plan == "decoder"
    outputs = [
        jax.jit(lambda weights, shape=shape: output(shape, weights, rows, decoder))(weights)
        for shape, weights in ((graphdef, params), (plain, tree))
    ]
    np.testing.assert_allclose(*outputs, atol=2e-4)
    without = merged({path: value * ("second" not in path) for path, value in flat.items()}, config.model.lora)
    assert any(not np.allclose(whole[path], without[path]) for path in whole)


def test_at_first_nothing_is_added():
    config = config_of({"rank": 2})
    _, params = model_room.create(config, vocabulary_size=50, languages=LANGUAGES)
    found = by_path(params)
    seconds = [path for path in found if "low_rank/second" in path]
    assert sorted({path.split("/")[-4] for path in seconds}) == ["query", "value"]
    assert not any(found[path].any() for path in seconds)
    assert all(found[path.replace("second", "first")].std() > 0.05 for path in seconds)


def test_it_and_the_heads_of_tasks_are_all_that_is_trained_unless_a_table_says_otherwise():
    config, _, params, _ = made(LORA, labels={"genre": 2}, encoder=({"layers": 1},))
    frozen = by_path(optimizer.frozen_parameters(config.optimizer, params))
    assert all(frozen[path] != (is_low_rank(path) or path.startswith("classifiers/")) for path in frozen)
    config.optimizer.freeze_table = (("embedding", True), (".*", False))
    assert [
        path for path, is_frozen in by_path(optimizer.frozen_parameters(config.optimizer, params)).items() if is_frozen
    ] == ["embedding"]
    plain = made({}, encoder=({"layers": 1},))[2]
    assert not any(by_path(optimizer.frozen_parameters(default_config().optimizer, plain)).values())


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"alpha": 2}, "model.lora has no 'rank'"),
        (
            {"rank": 2, "products": ("query", "gate")},
            "model.lora.products names 'gate', which a layer with model.activation",
        ),
        ({"rank": 2, "products": ("keys",)}, "model.lora.products"),
    ],
)
def test_invalid_settings_are_named(lora, message):
    config = config_of(lora, activation="gelu")
    with pytest.raises(UserError, match=message):
        check_values(config)
