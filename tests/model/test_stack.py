"""Groups of layers, and dropout in them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax import model as model_room
from mlm_jax.config import default_config
from mlm_jax.model.layers import dropout
from tests.objectives.helpers import random_rows

FACTS = {"vocabulary_size": 50, "languages": ("en", "de", "fr")}


def test_groups_one_after_the_other_are_one_group():
    def config(*counts):
        config = default_config()
        config.model.update(width=16, heads=2, mlp_width=16, max_positions=32, window=4, global_every=3)
        config.model.encoder = tuple({"layers": count, "weights": "shared"} for count in counts)
        return config

    graphdef, params = model_room.create(config(5), **FACTS)
    parted = model_room.create(config(1, 3, 1), **FACTS)[0]
    whole, encoder = params["encoder"]["0"], {}
    for name, (start, stop) in {"0": (0, 1), "1": (1, 4), "2": (4, 5)}.items():
        encoder[name] = jax.tree.map(lambda leaf, start=start, stop=stop: leaf[start:stop], whole)
    rows = random_rows(0)

    def encode(graphdef, params):
        return np.asarray(jax.jit(model_room.merge(graphdef, params).encode)(rows))

    wanted = encode(graphdef, params)
    np.testing.assert_allclose(encode(parted, params | {"encoder": encoder}), wanted, atol=1e-5)
    config_all = config(5)
    config_all.model.global_every = 1  # the result depends on the layers without a window
    assert np.abs(encode(model_room.create(config_all, **FACTS)[0], params) - wanted).max() > 1e-3


def test_dropout_keeps_the_mean_and_sets_its_share_to_zero():
    dropped = np.asarray(dropout(jnp.ones((200, 200)), 0.3, jax.random.key(0)))
    assert abs((dropped == 0).mean() - 0.3) < 0.01 and abs(dropped.mean() - 1) < 0.02
    np.testing.assert_allclose(dropped[dropped > 0], 1 / 0.7, rtol=1e-6)
    np.testing.assert_array_equal(dropout(jnp.ones(5), 0.3, None), np.ones(5))


def test_unrolled_layers_are_scanned_layers():
    config = default_config()
    config.model.update(width=16, heads=2, mlp_width=16, max_positions=32, window=4, global_every=2, dropout=0.1)
    config.model.encoder = ({"layers": 5, "adapter": 4}, {"layers": 4, "weights": "source_language"})
    config.model.decoder = ({"layers": 3, "weights": "target_language"},)
    rows, target = random_rows(0), random_rows(1)

    def outcome(scan_layers):
        config.model.scan_layers = scan_layers
        graphdef, params = model_room.create(config, **FACTS)

        def total(params):
            model = model_room.merge(graphdef, params)
            memory = model.encode(rows, key=jax.random.key(1))
            decoded = model.decode(
                target, memory, rows.segment_ids, source_language=rows.language, key=jax.random.key(2)
            )
            return jnp.square(decoded).mean()

        loops = str(jax.make_jaxpr(jax.grad(total))(params)).count("unroll=1")
        return loops, jax.jit(jax.value_and_grad(total))(params)

    (scanned, wanted), (unrolled, found) = outcome("always"), outcome("never")
    assert scanned and not unrolled
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "platform, layers, unrolled", [("gpu", 48, True), ("gpu", 49, False), ("tpu", 4, False), ("cpu", 4, False)]
)
def test_layers_are_unrolled_by_default_on_gpus_alone(monkeypatch, platform, layers, unrolled):
    monkeypatch.setattr("mlm_jax.model.stack.platform", lambda: platform)
    config = default_config()
    config.model.update(width=8, heads=2, mlp_width=8, global_every=1, encoder=({"layers": layers},))
    graphdef, params, _ = model_room.abstract(config, **FACTS)
    program = jax.make_jaxpr(lambda params: model_room.merge(graphdef, params).encode(random_rows(0)))(params)
    assert (f"unroll={layers}" in str(program)) == unrolled
