"""Projections as one product against each alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mlm_jax.config import default_config
from mlm_jax.model import layers
from mlm_jax.model.layers import Dense, FeedForward, project

HERE = {"embed": 16}


@pytest.fixture
def on_gpu(monkeypatch):
    """Return a function that says whether programs are traced for a GPU from now on."""
    return lambda gpu: monkeypatch.setattr(layers, "platform", lambda: "gpu" if gpu else "cpu")


def products(function, *args):
    """Return how many matrix products a function has."""
    return str(jax.make_jaxpr(function)(*args)).count("dot_general[")


def runs_of_own_weights(module, runs):
    """Return the module with weights ``[runs, …]`` that differ."""
    graphdef, weights = nnx.split(module)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf * (1 + run) + 0.01 * run for run in range(runs)]), weights)
    return nnx.merge(graphdef, several)


@pytest.mark.parametrize("runs", [0, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_query_key_and_value_by_one_product_are_those_by_three(on_gpu, bias, runs):
    rngs, options = nnx.Rngs(0), {"bias": bias, "stddev": 0.1}
    query = Dense(HERE, {"heads": 4, "head_dim": 8}, rngs=rngs, **options)
    key, value = (Dense(HERE, {"kv_heads": 2, "head_dim": 8}, rngs=rngs, **options) for _ in range(2))
    three = (runs_of_own_weights(layer, runs) if runs else layer for layer in (query, key, value))
    graphdef, weights = nnx.split(nnx.List(three))
    if bias:
        weights = jax.tree.map(lambda leaf: leaf + 0.5, weights)
    x = jax.random.normal(jax.random.key(0), (4, 5, 16))

    def total(weights, x):
        outputs = project(x, *nnx.merge(graphdef, weights))
        return sum((number + 1) * jnp.square(output).mean() for number, output in enumerate(outputs))

    def outcome(gpu):
        on_gpu(gpu)

        def fresh(weights, x):
            return total(weights, x)  # a new function, so that JAX does not use an earlier trace

        return products(fresh, weights, x), jax.value_and_grad(fresh, (0, 1))(weights, x)

    (several, wanted), (one, found) = outcome(False), outcome(True)
    assert (several, one) == (3, 1)
    for theirs, ours in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6 * float(jnp.abs(theirs).max()))


def test_gate_and_up_by_one_product_are_those_by_two(on_gpu):
    config = default_config()
    config.model.update(width=16, mlp_width=24, biases=("mlp",))
    layer = FeedForward(config.model, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (4, 5, 16))

    def outcome(gpu):
        on_gpu(gpu)
        return products(lambda x: layer(x), x), layer(x)

    (several, wanted), (one, found) = outcome(False), outcome(True)
    assert (several, one) == (3, 2)
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-7)
