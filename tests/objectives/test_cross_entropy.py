import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.objectives import cross_entropy
from mlm_jax.objectives.cross_entropy import weighted_cross_entropy


def plain(hidden, table, bias, labels, weights, z_loss, smoothing=0.0):
    logits = jnp.einsum("rpd,vd->rpv", hidden, table) + bias
    log_z = jax.nn.logsumexp(logits, -1)
    wanted = (1 - smoothing) * jax.nn.one_hot(labels, len(table)) + smoothing / len(table)
    losses = -(wanted * jax.nn.log_softmax(logits)).sum(axis=-1)
    return jnp.sum(weights * (losses + z_loss * log_z**2))


@pytest.mark.parametrize("chunk", [0, 1, 3, 7, 100])
@pytest.mark.parametrize("z_loss, smoothing", [(0.0, 0.0), (1e-2, 0.0), (1e-2, 0.1)])
def test_equals_the_plain_formula_with_its_gradients(chunk, z_loss, smoothing):
    keys = jax.random.split(jax.random.key(0), 5)
    hidden, table = jax.random.normal(keys[0], (4, 7, 8)), jax.random.normal(keys[1], (30, 8))
    bias, labels = jax.random.normal(keys[2], (30,)), jax.random.randint(keys[3], (4, 7), 0, 30)
    weights = jax.random.uniform(keys[4], (4, 7))

    def chunked(h, t, b):
        return (
            weighted_cross_entropy(
                h, t, b, labels, weights, vocabulary_size=30, chunk=chunk, z_loss=z_loss, smoothing=smoothing
            )[0]
            * 3.0
        )

    def reference(h, t, b):
        return 3.0 * plain(h, t, b, labels, weights, z_loss, smoothing)

    value, gradients = jax.jit(jax.value_and_grad(chunked, (0, 1, 2)))(hidden, table, bias)
    wanted, wanted_gradients = jax.jit(jax.value_and_grad(reference, (0, 1, 2)))(hidden, table, bias)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    for one, other in zip(gradients, wanted_gradients):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=5e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_padded_columns_get_no_mass(smoothing):
    hidden, table = jnp.ones((1, 1, 4)), jnp.concatenate([jnp.zeros((5, 4)), jnp.full((3, 4), 9.0)])
    total, losses, hits = weighted_cross_entropy(
        hidden, table, None, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1)), vocabulary_size=5, smoothing=smoothing
    )
    np.testing.assert_allclose(total, np.log(5), rtol=1e-6)
    np.testing.assert_allclose(losses, np.log(5), rtol=1e-6)
    assert hits.all() and losses.shape == (1, 1)


@pytest.mark.parametrize(
    "memory, chunk",
    [
        (math.inf, 7),
        (8 * 4 * 30 * 7, 7),
        (8 * 4 * 30 * 7 - 1, 4),
        (8 * 4 * 30 * 2, 2),
        (1, 1),
    ],
)
def test_logits_are_whole_if_they_fit_and_else_in_few_like_chunks(monkeypatch, memory, chunk):
    found = []
    original = cross_entropy._cross_entropy

    def recording(options, *arrays):
        found.append(options)
        return original(options, *arrays)

    monkeypatch.setattr(cross_entropy, "_cross_entropy", recording)
    labels, weights = jnp.zeros((4, 7), jnp.int32), jnp.ones((4, 7))
    total, losses, _ = weighted_cross_entropy(
        jnp.ones((4, 7, 8)), jnp.zeros((30, 8)), None, labels, weights, vocabulary_size=30, logits_bytes=memory
    )  # float32, so that a logit and its gradient are 8 bytes
    assert [options[1] for options in found] == [chunk]
    np.testing.assert_allclose(losses, np.log(30), rtol=1e-6)
