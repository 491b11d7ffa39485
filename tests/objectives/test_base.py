"""Weights of predictions by language."""

import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.objectives.base import language_weights
from tests.objectives.helpers import make_context


@pytest.mark.parametrize(
    "normalize, wanted",
    [
        ("per_language", [1 / 6, 1 / 4, 1 / 6, 1 / 6]),  # languages of 6, 4 and no predictions
        ("per_language_mean", [1 / 12, 1 / 8, 1 / 12, 1 / 12]),
        ("token", [1 / 10] * 4),
    ],
)
def test_the_weight_of_a_prediction(normalize, wanted):
    counts, language = jnp.array([1, 4, 5, 0]), jnp.array([0, 1, 0, 0])
    np.testing.assert_allclose(language_weights(counts, language, make_context(normalize=normalize)), wanted, rtol=1e-6)
