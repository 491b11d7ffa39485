"""Layer-wise decay: the factor of every layer, and updates that are smaller by exactly this factor."""

import jax
import jax.numpy as jnp
import numpy as np

from mlm_jax import model as model_room
from mlm_jax.config import default_config
from mlm_jax.training import optimizer
from mlm_jax.training.layer_decay import layer_factors
from mlm_jax.training.paths import by_path


def made(**settings):
    config = default_config()
    config.model.update({"width": 8, "heads": 2, "mlp_width": 12, "global_every": 1, **settings})
    facts = {"vocabulary_size": 20, "languages": ("en", "de"), "labels": {"genre": 2}}
    return config, *model_room.abstract(config, **facts)[1:]


def test_factors_by_place():
    groups = ({"layers": 2}, {"layers": 1, "weights": "source_language"})
    _, shapes, axes = made(encoder=groups, decoder=({"layers": 1},))
    found = layer_factors(shapes, optimizer.axes_by_path(axes), 0.5)
    shape = by_path(shapes)["encoder/1/layers/mlp/up/kernel"].shape  # [layers, languages, in, out]
    assert len(shape) == 4 and found["encoder/1/layers/mlp/up/kernel"].shape == (1, 1, 1, 1)
    np.testing.assert_allclose(found["encoder/0/layers/attention/query/kernel"].ravel(), [1 / 8, 1 / 4])
    np.testing.assert_allclose(found["encoder/1/layers/mlp_norm/scale"].ravel(), [1 / 2])
    np.testing.assert_allclose(found["decoder/0/layers/mlp/up/kernel"].ravel(), [1 / 2])
    assert found["embedding"] == found["embedding_norm/scale"] == 1 / 16
    assert found["classifiers/genre/kernel"] == found["encoder_norm/scale"] == found["head/dense/kernel"] == 1


def test_updates_are_so_much_smaller():
    config, shapes, axes = made(encoder=({"layers": 3},))
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
    gradients = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 1e-3), shapes)

    def updates(decay):
        config.optimizer.layer_decay = decay
        made_of = optimizer.create(config.optimizer, 10, params, axes)
        return by_path(made_of.update(gradients, made_of.init(params), params)[0])

    plain, decayed = updates(1.0), updates(0.8)
    factors = layer_factors(params, optimizer.axes_by_path(axes), 0.8)
    for path, update in plain.items():
        np.testing.assert_allclose(decayed[path], update * factors[path], rtol=1e-6, err_msg=path)
    assert not np.array_equal(plain["embedding"], decayed["embedding"])
