import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlm_jax.inference.search import beam_search, greedy, restrict
from tests.inference.toy import Toy, texts_of

ROWS = 3
STARTS = np.array([0, 2, 1])


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    length_penalty=st.sampled_from([-0.5, 0.0, 0.6, 1.0, 2.0]),
    stop=st.sampled_from([(1,), (1, 3)]),
)
def test_a_beam_as_wide_as_the_space_finds_what_an_exhaustive_search_finds(seed, length_penalty, stop):
    toy, length, count = Toy(seed), 3, 10
    beams = toy.vocabulary**length
    found = toy.run(
        "beam_search",
        toy.begin[:ROWS],
        STARTS,
        beams=beams,
        length=length,
        stop=stop,
        count=count,
        length_penalty=length_penalty,
    )
    for row in range(ROWS):
        best = toy.ranked(row, int(STARTS[row]), length, stop, length_penalty)[:count]
        np.testing.assert_allclose(found.scores[row], [score for score, _ in best], atol=1e-5)
        assert texts_of(found, row) == [text for _, text in best]


def slow_beam_search(toy, row, start, beams, length, stop, alpha):
    """The same search in plain Python, without stopping early."""
    going, finished = [(0.0, ())], []
    for position in range(length):
        candidates = sorted(
            (
                (total + toy.log_probabilities(row, start, (*text, token))[-1], (*text, token))
                for total, text in going
                for token in range(toy.vocabulary)
            ),
            reverse=True,
        )
        finished += [
            (total / len(text) ** alpha, text)
            for total, text in candidates[:beams]
            if text[-1] in stop or position == length - 1
        ]
        going = [candidate for candidate in candidates if candidate[1][-1] not in stop][:beams]
    return sorted(finished, reverse=True)[:beams]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), alpha=st.sampled_from([0.0, 1.0, 1.5]), beams=st.sampled_from([1, 2, 3]))
def test_a_narrow_beam_does_what_a_plain_beam_search_does_and_stops_early_without_a_difference(seed, alpha, beams):
    toy, length, stop = Toy(seed, vocabulary=6), 7, (1,)
    found = toy.run(
        "beam_search",
        toy.begin[:ROWS],
        STARTS,
        beams=beams,
        length=length,
        stop=stop,
        count=beams,
        length_penalty=alpha,
    )
    for row in range(ROWS):
        wanted = slow_beam_search(toy, row, int(STARTS[row]), beams, length, stop, alpha)
        assert texts_of(found, row) == [text for _, text in wanted]
        np.testing.assert_allclose(found.scores[row], [score for score, _ in wanted], atol=1e-5)


def test_one_beam_is_greedy():
    toy = Toy(3, vocabulary=9)
    options = dict(length=12, stop=(1,))
    alone = toy.run("greedy", toy.begin[:ROWS], STARTS, **options)
    beam = toy.run("beam_search", toy.begin[:ROWS], STARTS, beams=1, length_penalty=0.0, **options)
    for row in range(ROWS):
        assert texts_of(alone, row) == texts_of(beam, row)
        own = toy.log_probabilities(row, int(STARTS[row]), texts_of(alone, row)[0])
        np.testing.assert_allclose(alone.scores[row, 0], own.sum(), rtol=1e-5)


def test_padding_follows_the_stop_token_and_nothing_is_written_past_the_end():
    toy = Toy(3, vocabulary=6)
    found = toy.run("greedy", toy.begin, np.zeros(8, int), length=20, stop=(1, 2), pad_id=5)
    lengths = np.asarray(found.lengths[:, 0])
    assert lengths.min() < lengths.max()  # the rows have different lengths
    for tokens, size in zip(np.asarray(found.tokens[:, 0]), lengths):
        assert (tokens[size:] == 5).all()
        assert tokens[size - 1] in (1, 2) or size == 20
        assert not np.isin(tokens[: size - 1], (1, 2)).any()


def test_forbidden_tokens_and_the_tables_padding_are_never_written():
    toy = Toy(5, vocabulary=8)
    forbidden = jnp.array([True, False, False, True, False, False])  # 6 real pieces, 2 columns of padding
    keys = jax.random.split(jax.random.key(0), 8)
    starts = np.zeros(8, np.int32)
    drawn = toy.run("sample", toy.begin, starts, keys=keys, length=30, stop=(), forbidden=forbidden)
    assert set(np.unique(drawn.tokens)) <= {1, 2, 4, 5}
    options = dict(beams=3, length=6, stop=(1,), count=3, pad_id=1)
    beam = toy.run("beam_search", toy.begin, starts, forbidden=forbidden, **options)
    assert set(np.unique(beam.tokens)) <= {1, 2, 4, 5}


@pytest.mark.parametrize("active, lengths", [(None, [1, 12]), ([True, False], [1, 0])])
@pytest.mark.parametrize("beams", [1, 2])
def test_rows_that_only_fill_the_batch_are_not_waited_for(beams, active, lengths):
    """The first row ends at once, the second one never by itself."""
    logits = jnp.repeat(jnp.array([[0.0, 9.0, -9.0], [1.0, -1e9, 0.0]]), beams, axis=0)

    def step(cache, tokens, position):
        return logits, cache

    options = {"length": 12, "stop": (1,), "active": None if active is None else jnp.array(active)}
    starts, cache = jnp.zeros(2, jnp.int32), jnp.zeros(2 * beams)
    found = (
        beam_search(step, cache, starts, beams=2, **options) if beams == 2 else greedy(step, cache, starts, **options)
    )
    assert found.lengths[:, 0].tolist() == lengths


def test_fewer_texts_than_beams_leave_empty_places():
    toy = Toy(1, vocabulary=2)
    found = toy.run("beam_search", toy.begin[:1], [0], beams=4, length=2, stop=(1,), count=4)
    assert texts_of(found, 0)[3] == () and found.scores[0, 3] == -jnp.inf  # only "1", "0 0" and "0 1" exist
    assert sorted(texts_of(found, 0)[:3]) == [(0, 0), (0, 1), (1,)]
    with pytest.raises(ValueError, match="5 texts"):
        toy.run("beam_search", toy.begin, STARTS, beams=4, count=5, length=2, stop=(1,))


def test_a_row_draws_the_same_whatever_its_neighbours_are():
    toy = Toy(7, vocabulary=9)
    keys = jax.random.split(jax.random.key(4), 8)
    starts = np.arange(8)
    options = dict(length=10, stop=(1,), temperature=1.5, top_k=6, top_p=0.95)
    together = toy.run("sample", toy.begin, starts, keys=keys, **options)
    for row in (0, 5):
        one = slice(row, row + 1)
        alone = toy.run("sample", toy.begin[one], starts[one], keys=keys[one], **options)
        assert texts_of(alone, 0) == texts_of(together, row)


def test_sampling_follows_the_models_distribution():
    toy, rows = Toy(2, vocabulary=5, sharpness=0.7), 4000
    begin = np.repeat(toy.begin[:1], rows, axis=0)
    keys = jax.random.split(jax.random.key(0), rows)
    drawn = toy.run("sample", begin, np.zeros(rows, int), keys=keys, length=2, stop=())
    first, second = np.asarray(drawn.tokens[:, 0, :2]).T
    share = np.bincount(first * 5 + second, minlength=25) / rows
    expected = [np.exp(toy.log_probabilities(0, 0, text).sum()) for text in toy.texts(2, ())]
    np.testing.assert_allclose(share, expected, atol=4 * 0.5 / np.sqrt(rows))  # four standard errors


@pytest.mark.parametrize("top_k, top_p", [(3, 1.0), (0, 0.7), (5, 0.5), (0, 1e-6), (1, 1.0)])
def test_restriction_equals_transformers(top_k, top_p):
    torch = pytest.importorskip("torch")
    warpers = pytest.importorskip("transformers.generation.logits_process")
    logits = np.random.default_rng(0).normal(size=(6, 11)).astype(np.float32) * 2
    wanted = torch.tensor(logits)
    if top_k:
        wanted = warpers.TopKLogitsWarper(top_k)(None, wanted)
    if top_p < 1:
        wanted = warpers.TopPLogitsWarper(top_p)(None, wanted)
    np.testing.assert_array_equal(np.asarray(restrict(jnp.asarray(logits), top_k, top_p)), wanted.numpy())
