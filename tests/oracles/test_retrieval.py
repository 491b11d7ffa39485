"""Retrieval against plain loops over the published formulas, and neighbours against scikit-learn's."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from mlm_jax.evaluation.retrieval import match, nearest_neighbours, normalize


def embeddings(seed, sentences, width=12):
    return np.random.default_rng(seed).normal(size=(sentences, width))


def cosine(x, y):
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def mean_of_nearest(vector, others, k):
    return sum(sorted((cosine(vector, other) for other in others), reverse=True)[:k]) / min(k, len(others))


@pytest.mark.parametrize(("sentences", "database", "k"), [(9, 30, 4), (30, 5, 10), (17, 17, 1)])
def test_neighbours_equal_scikit_learn(sentences, database, k):
    queries, others = normalize(embeddings(0, sentences)), normalize(embeddings(1, database))
    reference = NearestNeighbors(n_neighbors=min(k, database), metric="cosine", algorithm="brute").fit(others)
    distances, indices = reference.kneighbors(queries)
    ours, similarities = nearest_neighbours(queries, others, k, block=6)
    np.testing.assert_array_equal(ours, indices)
    np.testing.assert_allclose(1 - similarities, distances, atol=1e-6)


def test_csls_equals_the_formula_of_conneau_et_al():
    x, y, k = embeddings(2, 14), embeddings(3, 19), 10
    table = [
        [2 * cosine(a, b) - mean_of_nearest(a, y, k) - mean_of_nearest(b, x, k) for b in y] for a in x
    ]  # [sources, targets]
    matches = match(x, y, "csls")
    np.testing.assert_array_equal(matches.forward, np.argmax(table, axis=1))
    np.testing.assert_array_equal(matches.backward, np.argmax(table, axis=0))
    np.testing.assert_allclose(matches.forward_scores, np.max(table, axis=1), rtol=1e-5)
    np.testing.assert_allclose(matches.backward_scores, np.max(table, axis=0), rtol=1e-5)


def test_ratio_margin_equals_the_procedure_of_xtreme():
    """margin(a, b) = a / b with b the mean of both neighbourhoods, best of the k = 4 nearest by cosine."""
    x, y, k = embeddings(4, 16), embeddings(5, 13), 4
    for sources, targets, found, scores in (
        (x, y, *match(x, y, "ratio_margin")[:2]),
        (y, x, *match(x, y, "ratio_margin")[2:]),
    ):
        for index, source in enumerate(sources):
            nearest = sorted(range(len(targets)), key=lambda j: -cosine(source, targets[j]))[:k]
            margin = {
                j: cosine(source, targets[j])
                / ((mean_of_nearest(source, targets, k) + mean_of_nearest(targets[j], sources, k)) / 2)
                for j in nearest
            }
            best = max(margin, key=margin.get)
            assert found[index] == best
            assert scores[index] == pytest.approx(margin[best], rel=1e-5)
