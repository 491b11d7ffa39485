import numpy as np
import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.evaluation.retrieval import (
    accuracy_at_1,
    match,
    mean_accuracy,
    nearest_neighbours,
    ratio_margin,
)


def parallel(seed=0, sentences=40, width=8, noise=0.5):
    rng = np.random.default_rng(seed)
    meaning = rng.normal(size=(sentences, width))
    return [(meaning + noise * rng.normal(size=meaning.shape)).astype(np.float32) for _ in range(2)]


@pytest.mark.parametrize("score", ["cosine", "csls", "ratio_margin"])
def test_a_permutation_is_found_whatever_the_lengths_of_the_vectors(score):
    rng = np.random.default_rng(1)
    sources = rng.normal(size=(30, 16))
    order = rng.permutation(30)
    matches = match(sources, 7.0 * sources[order], score)
    assert (order[matches.forward] == np.arange(30)).all()
    assert (matches.backward == order).all()


@pytest.mark.parametrize("score", ["cosine", "csls", "ratio_margin"])
@pytest.mark.parametrize("block", [1, 7, 40, 64])
def test_blocks_do_not_change_the_matches(score, block):
    sources, targets = parallel(noise=1.0)
    whole, blocked = match(sources, targets, score), match(sources, targets, score, block=block)
    np.testing.assert_array_equal(whole.forward, blocked.forward)
    np.testing.assert_array_equal(whole.backward, blocked.backward)
    np.testing.assert_allclose(whole.forward_scores, blocked.forward_scores, rtol=1e-5)
    np.testing.assert_allclose(whole.backward_scores, blocked.backward_scores, rtol=1e-5)


def test_csls_finds_what_a_hub_hides():
    """The third target is near everything: by cosine it is everybody's neighbour, CSLS discounts it."""
    angles = np.radians([0.0, 60.0])
    sources = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    targets = np.stack([np.cos(np.radians([-40.0, 100.0, 30.0])), np.sin(np.radians([-40.0, 100.0, 30.0]))], axis=1)
    assert match(sources, targets, "cosine").forward.tolist() == [2, 2]
    assert match(sources, targets, "csls", neighbours=2).forward.tolist() == [0, 1]


def test_accuracy_differs_by_direction():
    sources = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    targets = np.array([[1.0, 0.0], [1.0, 0.05], [0.0, 1.0]])
    forward, backward = accuracy_at_1(sources, targets, "cosine")
    assert (forward, backward) == (1.0, pytest.approx(2 / 3))


def test_collapsed_embeddings_retrieve_at_chance():
    """Equal embeddings must not look like a perfect encoder."""
    collapsed = np.ones((50, 4))
    for score in ("cosine", "csls", "ratio_margin"):
        assert accuracy_at_1(collapsed, collapsed, score) == (1 / 50, 1 / 50)


def test_a_zero_embedding_is_an_ordinary_miss():
    sources, targets = parallel()
    sources[0] = 0.0
    for score in ("cosine", "csls", "ratio_margin"):
        assert np.isfinite(match(sources, targets, score).forward_scores).all()


def test_ratio_margin_is_a_ratio_and_stays_finite_around_zero():
    cosine = np.array([0.9, 0.3, -0.2])
    np.testing.assert_allclose(ratio_margin(cosine, np.array([0.6, 0.6, 0.5])), cosine / [0.6, 0.6, 0.5])
    near_zero = ratio_margin(np.array([0.02, 0.0, -0.02]), np.array([0.0, 0.0, -1e-9]))
    np.testing.assert_allclose(near_zero, [3.0, 1.0, -1.0], atol=1e-5)


def test_mean_leaves_out_what_was_not_measured():
    matrix = [[np.nan, 0.5, np.nan], [1.0, np.nan, np.nan], [0.0, np.nan, np.nan]]
    assert mean_accuracy(matrix) == 0.5
    np.testing.assert_array_equal(mean_accuracy(matrix, axis=1), [0.5, 1.0, 0.0])
    np.testing.assert_array_equal(mean_accuracy(matrix, axis=0), [0.5, 0.5, np.nan])


def test_neighbours_come_nearest_first_and_are_no_more_than_there_are():
    queries, database = np.eye(3, dtype=np.float32), np.array([[0.1, 0, 0], [0.7, 0, 0.2], [0.3, 0, 0]], np.float32)
    indices, similarities = nearest_neighbours(queries, database, 10)
    assert indices.shape == (3, 3)
    assert indices[0].tolist() == [1, 2, 0]
    np.testing.assert_allclose(similarities[0], [0.7, 0.3, 0.1])


@pytest.mark.parametrize(
    ("sources", "targets", "score", "problem"),
    [
        (np.ones((2, 3)), np.ones((2, 3)), "cosin", "did you mean 'cosine'"),
        (np.ones((2, 3)), np.ones((2, 4)), "csls", "widths 3 and 4"),
        (np.ones((0, 3)), np.ones((0, 3)), "csls", "needs a matrix"),
        (np.full((2, 3), np.nan), np.ones((2, 3)), "csls", "not finite"),
        (np.ones((2, 3)), np.ones((3, 3)), "csls", "2 sentences cannot be aligned with 3"),
    ],
)
def test_what_cannot_be_compared_is_refused(sources, targets, score, problem):
    with pytest.raises(UserError, match=problem):
        accuracy_at_1(sources, targets, score)
