import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlm_jax.data.loading import order
from mlm_jax.data.loading.order import Order

PHASES = st.lists(st.tuples(st.integers(1, 15), st.sampled_from([1, 3, 8, 16, 50])), min_size=1, max_size=4)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(order, "BLOCK_TOKENS", 40)  # so that small streams are many blocks
    monkeypatch.setattr(order, "BLOCKS", 5)


def begun(sizes, rows, phases, seed="seed", weights=None, run_length=1):
    """Return an order with these (steps, length) phases, and the step they end with."""
    made = Order([f"stream{i}" for i in range(len(sizes))], sizes, rows, seed, run_length)
    step = 0
    for index, (steps, length) in enumerate(phases):
        random = np.random.default_rng(index).random(len(sizes)) + 0.05
        made.begin(step, length, random if weights is None else weights)
        step += steps
    return made, step


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(20, 700), min_size=1, max_size=4),
    st.integers(1, 4),
    st.integers(1, 3),
    PHASES,
    st.integers(0, 99),
)
def test_every_unit_is_taken_once_an_epoch_through_all_phases(sizes, runs, run_length, phases, seed):
    rows = runs * run_length
    made, end = begun(sizes, rows, phases, seed, run_length=run_length)
    seen = [np.zeros((end * rows * 50 // size + 2, size), int) for size in sizes]
    taken, units = np.zeros(len(sizes), int), np.zeros(len(sizes), int)
    for step in range(end):
        np.testing.assert_array_equal(made.rows_taken(step), taken)
        plan = made.plan(step, 0, rows)
        parts = made.slices(plan)
        for row, stream, start, stop in zip(parts.row, parts.stream, parts.start, parts.stop):
            seen[stream][plan.epoch[row], start:stop] += 1
        filled = np.bincount(parts.row, weights=parts.stop - parts.start, minlength=rows)
        np.testing.assert_array_equal(filled, plan.units)
        for field in (plan.stream, plan.run):
            assert (field.reshape(runs, run_length) == field[::run_length, None]).all()
        np.add.at(taken, plan.stream, 1)
        np.add.at(units, plan.stream, plan.units)
    np.testing.assert_array_equal(made.units_taken(end), units)
    for table, size, total in zip(seen, sizes, units.tolist()):
        assert (table[: total // size] == 1).all()
        assert table.max() <= 1 and table.sum() == total


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(0, 5000), st.integers(1, 50), st.booleans())
def test_a_share_of_a_stream_is_the_same_sample_in_every_epoch_spread_over_all_of_it(size, left_out, length, packed):
    stored = size + left_out
    made = Order(["stream"], [size], 1, "seed", stored=[stored])
    made.begin(0, length if packed else 1, np.ones(1))
    seen = np.zeros((2, stored), int)
    for step in range(2 * (-(-size // length) if packed else size)):
        plan = made.plan(step, 0, 1)
        if packed:
            for start, stop in zip(*made.slices(plan)[3:]):
                seen[plan.epoch[0], start:stop] += 1
        else:
            seen[plan.epoch[0], made.documents(plan)] += 1
    np.testing.assert_array_equal(seen[0], seen[1])
    assert seen.max() == 1 and seen[0].sum() == size
    runs = np.flatnonzero(np.diff(np.concatenate([[0], 1 - seen[0], [0]])))  # edges of what is left out
    longest = np.diff(runs)[::2].max(initial=0)
    assert longest <= 2 * stored / min(size, order.BLOCKS) + order.BLOCKS


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.integers(1, 4), st.integers(1, 3), PHASES)
def test_hosts_take_the_rows_of_one_host(hosts, runs_each, run_length, phases):
    rows_each = runs_each * run_length
    rows = hosts * rows_each
    made, end = begun([500, 90, 7], rows, phases, run_length=run_length)
    for step in range(0, end, 3):
        whole = made.plan(step, 0, rows)
        parts = [made.plan(step, host * rows_each, (host + 1) * rows_each) for host in range(hosts)]
        for field, together in zip(zip(*parts), whole):
            np.testing.assert_array_equal(np.concatenate(field), together)


def test_a_longer_run_begins_like_a_shorter_one():
    short, end = begun([500, 90], 4, [(5, 8), (5, 16)])
    long, _ = begun([500, 90], 4, [(5, 8), (500, 16)])
    for step in range(end):
        for a, b in zip(short.plan(step, 0, 4), long.plan(step, 0, 4)):
            np.testing.assert_array_equal(a, b)


def test_a_stream_is_read_in_the_same_order_whatever_stands_beside_it():
    alone = Order(["de"], [5000], 1, "s")
    beside = Order(["en", "de"], [700, 5000], 2, "s")
    alone.begin(0, 16, np.ones(1))
    beside.begin(0, 16, np.ones(2))
    got = [int(start) for step in range(100) for stream, _, start, *_ in zip(*beside.plan(step, 0, 2)) if stream == 1]
    assert got == [int(alone.plan(step, 0, 1).start[0]) for step in range(100)]


def test_epochs_and_seeds_and_names_shuffle_differently():
    def starts(name, seed, epoch):
        made = Order([name], [800], 1, seed)
        made.begin(0, 8, np.ones(1))
        plans = [made.plan(step, 0, 1) for step in range(epoch * 100, epoch * 100 + 100)]
        return [int(made.slices(plan).start[0]) for plan in plans]

    first = starts("de", "s", 0)
    assert sorted(first) != first
    for other in (starts("de", "s", 1), starts("de", "t", 0), starts("en", "s", 0)):
        assert sum(a == b for a, b in zip(first, other)) < 20


def test_rows_are_cut_elsewhere_in_every_epoch():
    made = Order(["de"], [8000], 1, "s")
    made.begin(0, 16, np.ones(1))
    edges = [
        {int(made.slices(made.plan(epoch * 500 + i, 0, 1)).start[0]) % 16 for i in range(20)} for epoch in range(12)
    ]
    assert len(set.union(*edges)) > 4


def test_long_rows_after_short_ones_are_whole_stretches_of_text(monkeypatch):
    monkeypatch.setattr(order, "BLOCK_TOKENS", 10_000)
    made, _ = begun([100_000], 4, [(100, 10), (100, 500)])
    parts = [made.slices(made.plan(step, 0, 4)) for step in range(100, 130)]
    lengths = np.concatenate([part.stop - part.start for part in parts])
    assert (lengths == 500).mean() > 0.8  # the rest is cut at the edge of a block


def test_an_era_reads_all_over_the_stream(monkeypatch):
    monkeypatch.setattr(order, "BLOCKS", 256)
    made, _ = begun([100_000], 4, [(250, 10), (100, 500)])  # the first phase takes a tenth of the text
    starts = np.concatenate([made.slices(made.plan(step, 0, 4)).start for step in range(250)])
    share = np.histogram(starts, bins=10, range=(0, 100_000))[0] / len(starts)
    assert share.min() > 0.02 and share.max() < 0.25


def test_a_stream_shorter_than_a_row_is_one_row_an_epoch():
    made, _ = begun([7], 3, [(4, 16)])
    plan = made.plan(2, 0, 3)
    assert plan.epoch.tolist() == [6, 7, 8] and plan.units.tolist() == [7, 7, 7]
    parts = made.slices(plan)
    for row in range(3):
        mine = parts.row == row
        units = [unit for a, b in zip(parts.start[mine], parts.stop[mine]) for unit in range(a, b)]
        assert sorted(units) == list(range(7))
