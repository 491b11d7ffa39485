import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlm_jax.data.loading.batch import Rows
from mlm_jax.objectives.masking import LONGEST_WORD, fitting, mask_tokens, unit_boundaries
from tests.objectives.helpers import SPECIALS, make_context, random_rows


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rate=st.sampled_from([0.05, 0.15, 0.3, 1.0]),
    unit=st.sampled_from(["token", "word", "span"]),
)
def test_only_ordinary_tokens_are_masked(seed, rate, unit):
    context, rows = make_context(), random_rows(seed)
    masked = mask_tokens(jax.random.key(seed), rows, context, rate=rate, unit=unit)
    positions, chosen = np.asarray(masked.positions), np.asarray(masked.chosen)
    eligible = (rows.segment_ids > 0) & (rows.tokens >= SPECIALS)
    for row in range(len(positions)):
        where = positions[row][chosen[row]]
        assert len(set(positions[row])) == len(positions[row])
        assert eligible[row][where].all()  # no special or pad token is ever chosen
        budget = int(rate * eligible[row].sum() + 1e-4)
        assert len(where) == budget if unit != "word" else len(where) <= budget
        np.testing.assert_array_equal(masked.labels[row], rows.tokens[row][positions[row]])
        untouched = np.ones(rows.tokens.shape[1], bool)
        untouched[where] = False
        np.testing.assert_array_equal(np.asarray(masked.rows.tokens)[row][untouched], rows.tokens[row][untouched])
        if unit == "word":  # whole words only
            starts = np.asarray(unit_boundaries(jax.random.key(seed), rows, context, unit="word", mean_span=3.0))[row]
            word = np.cumsum(starts)
            hidden_words = set(word[where])
            assert all((not eligible[row][i]) or (i in where) for i in range(len(word)) if word[i] in hidden_words)
            seen = word[eligible[row] & ~np.isin(word, list(hidden_words))]
            sizes = np.bincount(seen, minlength=1)
            assert not ((sizes > 0) & (sizes <= budget - len(where))).any()  # none is left that would fit


def test_units_that_fit_are_taken_in_order_and_the_others_passed_over():
    rng, units = np.random.default_rng(0), []
    for _ in range(40):
        sizes = rng.integers(1, LONGEST_WORD + 1, 12)
        units.append(np.repeat(np.arange(12), sizes)[:48])
        units[-1] = np.pad(units[-1], (0, 48 - len(units[-1])), constant_values=-1)
    budgets = rng.integers(0, 40, (40, 1))
    found = np.asarray(jax.jit(fitting)(jnp.asarray(units), jnp.asarray(budgets)))
    for unit, budget, taken in zip(units, budgets, found):
        left, wanted = int(budget[0]), []
        for number in range(12):
            size = (unit == number).sum()
            if 0 < size <= left:
                wanted.append(number)
                left -= size
        np.testing.assert_array_equal(taken, np.isin(unit, wanted))


@pytest.mark.parametrize("mean", [3.0, 8.0, 20.0])
def test_spans_are_as_long_as_asked_for_and_fill_the_budget_in_short_rows_too(mean):
    def spans(count, length):
        tokens = np.full((count, length), 9, np.int32)
        rows = Rows(tokens, np.ones_like(tokens), np.tile(np.arange(length), (count, 1)), np.zeros(count, np.int32))
        starts = unit_boundaries(jax.random.key(0), rows, make_context(), unit="span", mean_span=mean)
        masked = mask_tokens(jax.random.key(0), rows, make_context(), rate=0.3, unit="span", mean_span=mean)
        return np.asarray(starts), np.asarray(masked.chosen)

    starts, _ = spans(64, 2048)
    assert starts.size / starts.sum() == pytest.approx(mean, rel=0.05)
    assert (spans(64, 16)[1].sum(axis=1) == 4).all()


def test_words_hide_nearly_the_budget_in_short_rows():
    context = make_context(word_starts=np.arange(50) % 2 == 0)  # words of two pieces on average
    tokens = np.random.default_rng(0).integers(SPECIALS, 50, (256, 16)).astype(np.int32)
    rows = Rows(tokens, np.ones_like(tokens), np.tile(np.arange(16), (256, 1)), np.zeros(256, np.int32))
    masked = mask_tokens(jax.random.key(0), rows, context, rate=0.3, unit="word")
    hidden = np.asarray(masked.chosen).sum(axis=1)
    assert hidden.mean() > 0.9 * 4 and (hidden > 0).mean() > 0.98


def test_eighty_ten_ten_and_random_pieces_from_the_whole_vocabulary():
    vocabulary = 1000
    context = make_context(vocabulary)
    tokens = np.full((64, 512), 7, np.int32)  # the batch holds one piece, replacements must come from all
    rows = Rows(tokens, np.ones_like(tokens), np.tile(np.arange(512), (64, 1)), np.zeros(64, np.int32))
    masked = mask_tokens(jax.random.key(0), rows, context, rate=0.5)
    new = np.asarray(jnp.take_along_axis(masked.rows.tokens, masked.positions, axis=1))[np.asarray(masked.chosen)]

    def share(hits):
        return hits.mean()

    assert abs(share(new == context.mask_id) - 0.8) < 0.02
    assert abs(share(new == 7) - 0.1) < 0.01
    replaced = new[(new != 7) & (new != context.mask_id)]
    assert abs(len(replaced) / len(new) - 0.1) < 0.01
    assert replaced.min() >= SPECIALS and len(set(replaced)) > 0.7 * vocabulary


def test_masks_are_dynamic_and_reproducible():
    context, rows = make_context(), random_rows(3)

    def draw(seed):
        return np.asarray(mask_tokens(jax.random.key(seed), rows, context, rate=0.3).positions)

    np.testing.assert_array_equal(draw(1), draw(1))
    assert (draw(1) != draw(2)).any()


def test_a_script_without_spaces_is_not_one_word():
    context = make_context(word_starts=np.zeros(50, bool))
    tokens = np.full((1, 64), 9, np.int32)
    rows = Rows(tokens, np.ones_like(tokens), np.arange(64)[None], np.zeros(1, np.int32))
    starts = np.asarray(unit_boundaries(jax.random.key(0), rows, context, unit="word", mean_span=3.0))
    assert np.diff(np.flatnonzero(starts[0])).max() <= LONGEST_WORD


def test_an_unknown_unit_is_refused():
    with pytest.raises(ValueError, match="token, word or span"):
        mask_tokens(jax.random.key(0), random_rows(0), make_context(), rate=0.3, unit="letter")
