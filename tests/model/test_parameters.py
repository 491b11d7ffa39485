"""Initial values of parameters."""

import jax
import numpy as np
import pytest
from flax import nnx

from mlm_jax.config import default_config
from mlm_jax.model import abstract, create
from mlm_jax.model.parameters import BEGINS, parameter


def test_roles_begin_as_the_table_says():
    axes = {"embed": 64, "mlp": 32}
    made = {role: parameter(nnx.Rngs(0), role, axes, 0.02) for role in BEGINS}
    drawn = {role for role, value in made.items() if np.std(value[...]) > 0}
    assert drawn == {"table", "kernel"}
    for role in drawn:
        assert np.std(made[role][...]) == pytest.approx(0.02, rel=0.1)
    assert {role for role, value in made.items() if np.all(value[...] == 1)} == {"scale"}
    assert all(value.shape == (64, 32) and value.get_metadata()["axes"] == ("embed", "mlp") for value in made.values())


def test_zeros_and_ones_take_no_random_numbers():
    """A config that adds a norm or a bias leaves the other parameters of its seed as they are."""
    plain, biased = default_config(), default_config()
    for config in (plain, biased):
        config.model.update(width=16, heads=2, mlp_width=16, encoder=({"layers": 2, "weights": "shared"},))
    biased.model.update(biases=("norm", "attention", "mlp", "head"))
    trees = [create(config, vocabulary_size=32, languages=("de",), seed=3)[1] for config in (plain, biased)]
    few, many = (dict(jax.tree_util.tree_flatten_with_path(tree)[0]) for tree in trees)
    assert set(few) < set(many)
    for path, value in few.items():
        np.testing.assert_array_equal(value, many[path])
    _, shapes, logical = abstract(plain, vocabulary_size=32, languages=("de",))
    assert jax.tree.map(lambda leaf: len(leaf.shape), shapes) == jax.tree.map(
        len, logical, is_leaf=lambda node: isinstance(node, tuple)
    )
