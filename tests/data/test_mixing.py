import heapq
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlm_jax.common.errors import UserError
from mlm_jax.data.loading.apportionment import Apportionment, permute
from mlm_jax.data.text.rates import rates, unimax

FAST = settings(max_examples=100, deadline=None)
WEIGHTS = st.lists(st.floats(1e-9, 1e6) | st.just(0.0), min_size=1, max_size=40).filter(
    lambda weights: sum(weights) > 1e-3
)


@pytest.mark.parametrize(
    "alpha, shares",
    [
        (0.7, [0.806883, 0.160994, 0.032123]),
        (0.5, [0.706101, 0.223289, 0.070610]),
        (0.3, [0.570654, 0.286004, 0.143342]),
    ],
)
def test_rates_are_xlms(alpha, shares):
    np.testing.assert_allclose(rates([1000, 100, 10], alpha), shares, atol=1e-6)


def test_rates_at_the_ends():
    np.testing.assert_allclose(rates([30, 10, 0], 1), [0.75, 0.25, 0])
    np.testing.assert_allclose(rates([30, 10, 0], 0), [0.5, 0.5, 0])


def test_unimax_is_that_of_the_published_package():
    # PyPI unimax_sampling 1.0.0, the example of its README: fao, isl, ekk, swe, fas of FineWeb-2, 250e9 characters
    sizes = [549707867, 10027573389, 42541080893, 179955884499, 184595788282]
    expected = [2198831468, 40110293556, 69230291658.66667, 69230291658.66666, 69230291658.66666]
    np.testing.assert_allclose(unimax(sizes, 250e9, 4), expected, rtol=1e-12)
    np.testing.assert_allclose(unimax(sizes[::-1], 250e9, 4), expected[::-1], rtol=1e-12)


@FAST
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=30), st.floats(1, 1e11), st.floats(0.1, 10))
def test_unimax_spends_the_budget_or_all_there_is_and_is_level_below_the_caps(sizes, budget, epochs):
    given_out, caps = unimax(sizes, budget, epochs), np.array(sizes) * epochs
    assert (given_out <= caps * (1 + 1e-9)).all()
    assert given_out.sum() == pytest.approx(min(budget, caps.sum()))
    below = given_out < caps * (1 - 1e-9)
    if below.any():  # languages without a cap have equal shares, not smaller than those with one
        assert np.ptp(given_out[below]) <= 1e-6 * budget and given_out.max() <= given_out[below].max() * (1 + 1e-9)


def heap_seats(weights, n):
    """Sainte-Laguë's method as it is told: the next seat to the highest weight / (2 seats + 1), in exact fractions."""
    heap = [(Fraction(2 * 0 + 1) / Fraction(w), holder, 0) for holder, w in enumerate(weights) if w]
    heapq.heapify(heap)
    for _ in range(n):
        quotient, holder, seats = heapq.heappop(heap)
        yield holder
        heapq.heappush(heap, (Fraction(2 * seats + 3) / Fraction(weights[holder]), holder, seats + 1))


@FAST
@given(st.lists(st.integers(0, 50), min_size=1, max_size=12).filter(any), st.integers(0, 300))
def test_seats_are_those_of_the_divisor_method(weights, n):
    # integers whose sum is a power of two divide without rounding, so that ties are ties in floating point too
    weights = [*weights, 2 ** math.ceil(math.log2(sum(weights) + 1)) - sum(weights)]
    assert Apportionment(weights).sequence(0, n).tolist() == list(heap_seats(weights, n))


@FAST
@given(WEIGHTS, st.integers(0, 10**12), st.integers(0, 200))
def test_counts_are_a_closed_form_of_the_sequence(weights, start, length):
    seats = Apportionment(weights)
    before, after = seats.counts(start), seats.counts(start + length)
    holders, ordinals = seats.seats(start, start + length)
    assert (before.sum(), after.sum()) == (start, start + length)
    np.testing.assert_array_equal(after - before, np.bincount(holders, minlength=len(weights)))
    for holder in set(holders.tolist()):  # each holder's seats are numbered without a gap
        numbers = ordinals[holders == holder]
        np.testing.assert_array_equal(numbers, np.arange(before[holder], after[holder]))
    assert not after[np.array(weights) == 0].any()


@FAST
@given(WEIGHTS, st.integers(0, 10**12), st.integers(1, 10**6))
def test_counts_never_fall(weights, n, more):
    seats = Apportionment(weights)
    assert (seats.counts(n) <= seats.counts(n + 1)).all() and (seats.counts(n + 1) <= seats.counts(n + more)).all()


@FAST
@given(WEIGHTS, st.integers(0, 10**9))
def test_counts_are_rounded_multiples_of_the_shares(weights, n):
    # N_l = ⌊w_l λ + ½⌋ for one λ: the intervals of λ that each count allows have a point in common
    seats = Apportionment(weights)
    shares, counts = seats.shares, seats.counts(n)
    held = shares > 0
    lowest = ((counts[held] - 0.5) / shares[held]).max()
    highest = ((counts[held] + 0.5) / shares[held]).min()
    assert lowest <= highest * (1 + 1e-9)


@pytest.mark.parametrize("languages, rows", [(10, 2), (100, 3), (1800, 8)])
def test_the_mix_is_within_a_few_rows_of_the_plan_at_any_time(languages, rows):
    shares = rates(np.exp(np.random.default_rng(0).normal(0, 2.5, languages)), 0.5)
    seats = Apportionment(shares)
    at = [*range(0, 500), *range(500, 20_000, 97), 10**9 + 7]
    assert max(np.abs(seats.counts(n) - shares * n).max() for n in at) <= rows


@pytest.mark.parametrize("weights", [[0, 0], [1, -1], [1, math.nan], [1, math.inf]])
def test_invalid_weights_are_refused(weights):
    with pytest.raises(UserError, match="at least 0"):
        Apportionment(weights)


@FAST
@given(st.integers(1, 3000), st.integers(-(2**63), 2**64 - 1).map(lambda seed: seed % 2**64))
def test_a_shuffle_is_a_bijection(size, seed):
    shuffled = permute(np.arange(size), size, np.uint64(seed))
    np.testing.assert_array_equal(np.sort(shuffled), np.arange(size))


@FAST
@given(st.integers(1, 2**61), st.data())
def test_a_shuffle_of_anything_stays_inside_and_keeps_things_apart(size, data):
    index = np.unique(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=50)))
    shuffled = permute(index, size, 5)
    assert shuffled.min() >= 0 and shuffled.max() < size and len(set(shuffled.tolist())) == len(index)


def test_sizes_and_seeds_may_differ_by_row():
    index, size, seed = np.array([3, 3, 0, 9]), np.array([10, 10, 1, 1000]), np.array([1, 2, 3, 4])
    together = permute(index, size, seed)
    assert together.tolist() == [int(permute(i, n, s)) for i, n, s in zip(index, size, seed)]


def test_every_order_of_a_few_things_is_as_likely_as_another():
    seeds = 24_000
    orders = permute(np.arange(4), 4, np.arange(seeds)[:, None])  # [seeds, 4]
    counts = np.unique(orders @ [64, 16, 4, 1], return_counts=True)[1]
    chi_squared = ((counts - seeds / 24) ** 2 / (seeds / 24)).sum()
    assert len(counts) == 24 and chi_squared < 49.7  # 23 degrees of freedom, p = 0.001


def test_a_shuffle_leaves_no_pattern():
    size = 50_000
    shuffled = permute(np.arange(size), size, 3)
    for lag in (1, 2, 3, 224):  # 224: the side of the Feistel grid
        assert abs(np.corrcoef(shuffled[lag:], shuffled[:-lag])[0, 1]) < 0.02
        assert (np.diff(shuffled[::lag]) == lag).sum() < 10
    assert abs(np.corrcoef(shuffled, permute(np.arange(size), size, 4))[0, 1]) < 0.02
