"""Intervals against scipy's bootstrap and closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mlm_jax.common.errors import UserError
from mlm_jax.evaluation.bootstrap import (
    RESAMPLES,
    Observed,
    averages,
    interval,
    intervals,
    poisson_weights,
    read_rows,
    resample_all,
    resampled,
    rows_file,
    save_rows,
    unit_numbers,
)
from mlm_jax.evaluation.correlation import weighted_correlation


def observed(values, data="text", of=None):
    return Observed(unit_numbers(data, len(values)), np.asarray(values), np.ones(len(values)) if of is None else of)


def test_weights_are_poisson_and_a_function_of_the_unit():
    units = unit_numbers("text", 3000)
    weights = poisson_weights(units, 200)
    counts = np.bincount(weights.ravel(), minlength=6)[:6] / weights.size
    np.testing.assert_allclose(counts, stats.poisson.pmf(range(6), 1), atol=0.003)
    assert (
        abs(np.corrcoef(weights[0], weights[1])[0, 1]) < 0.06 > abs(np.corrcoef(weights[:, 0], weights[:, 1])[0, 1] / 4)
    )
    np.testing.assert_array_equal(poisson_weights(units[[7, 3]], 200), weights[:, [7, 3]])
    assert not np.array_equal(poisson_weights(unit_numbers("other", 3000), 1), weights[:1])


def test_the_interval_of_a_mean_is_scipys_and_the_normal_one():
    values = np.random.default_rng(0).gamma(2.0, size=400)
    low, high = interval(resampled("eval/loss/de", observed(values)))
    theirs = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    error = values.std(ddof=1) / np.sqrt(len(values))
    np.testing.assert_allclose([low, high], theirs, atol=0.2 * error)
    np.testing.assert_allclose([low, high], values.mean() + 1.96 * error * np.array([-1, 1]), atol=0.25 * error)


def test_the_interval_of_a_ratio_is_scipys():
    rng = np.random.default_rng(1)
    tokens = rng.integers(5, 40, 300)
    losses = tokens * rng.normal(3.0, 0.5, 300)
    found = interval(resampled("eval/loss/de", observed(losses, of=tokens)))
    theirs = stats.bootstrap(
        (losses, tokens),
        lambda top, bottom, axis: top.sum(axis) / bottom.sum(axis),
        paired=True,
        n_resamples=4000,
        method="percentile",
        rng=1,
    ).confidence_interval
    np.testing.assert_allclose(found, theirs, atol=0.2 * (theirs[1] - theirs[0]) / 4)


def test_a_difference_on_the_same_rows_is_paired():
    rng = np.random.default_rng(2)
    hard = rng.normal(3.0, 1.0, 300)
    one, other = hard + rng.normal(0, 0.05, 300), hard + 0.05 + rng.normal(0, 0.05, 300)
    first, same, elsewhere = resample_all(
        [{"eval/loss/de": observed(one)}, {"eval/loss/de": observed(other)}, {"eval/loss/de": observed(other, "else")}],
        ("de",),
    )
    key = "eval/loss/de"
    low, high = interval(same[key] - first[key])
    theirs = stats.bootstrap((other - one,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    np.testing.assert_allclose((low, high), theirs, atol=0.2 * np.std(other - one) / np.sqrt(300))
    assert low > 0  # what no two separate intervals show
    wide = interval(elsewhere[key] - first[key])
    assert wide[0] < 0 < wide[1]
    assert wide[1] - wide[0] == pytest.approx(2 * 1.96 * np.sqrt(2) * hard.std() / np.sqrt(300), rel=0.2)


@given(st.integers(0, 2**32), st.integers(3, 30), st.booleans())
@settings(max_examples=40, deadline=None)
def test_weighted_correlations_are_those_of_repeated_examples(seed, examples, ties):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, examples))
    x = np.round(x) if ties else x
    weights = rng.poisson(1, (5, examples))
    for name, scipys in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        for found, row in zip(weighted_correlation(name, x, y, weights), weights):
            one, other = np.repeat(x, row), np.repeat(y, row)
            if min(len(np.unique(one)), len(np.unique(other))) < 2:
                assert np.isnan(found)
            else:
                assert found == pytest.approx(scipys(one, other)[0], abs=1e-9)


def test_means_are_over_languages_and_a_language_has_the_mean_of_its_pairs():
    keys = ["eval/loss/de", "eval/loss/zh-Hant", "eval/loss/de:wiki", "eval/retrieval_at_1/de-zh-Hant"]
    assert averages(keys, ("de", "zh-Hant")) == {
        "eval/loss/mean": keys[:2],
        "eval/retrieval_at_1/mean": keys[3:],
        "eval/retrieval_at_1/de": keys[3:],
        "eval/retrieval_at_1/zh-Hant": keys[3:],
    }
    values = np.random.default_rng(3).normal(size=(2, 400))
    found = intervals({f"eval/loss/{c}": observed(v, c) for c, v in zip(("de", "fr"), values)}, ("de", "fr"))
    width = found["eval/loss/mean"][1] - found["eval/loss/mean"][0]
    assert width == pytest.approx(2 * 1.96 * np.sqrt(2) / 2 / np.sqrt(400), rel=0.15)  # two independent means


def test_one_unit_and_no_unit_have_no_interval():
    assert intervals({"eval/loss/de": observed([1.0])}, ("de",)) == {}
    assert interval(np.full(RESAMPLES, np.nan)) is None


def test_rows_are_kept_with_the_steps_that_stay(tmp_path):
    rows = {"eval/loss/de": observed([1.0, 2.5]), "eval/f1/de": Observed(*(np.zeros(0, t) for t in ("u8", "f4", "f4")))}
    for step in (10, 20, 30):
        save_rows(tmp_path, step, rows, keep=(10,))
    assert read_rows(tmp_path, 20) == {} and read_rows(tmp_path, 10).keys() == rows.keys()
    for key, one in read_rows(tmp_path, 30).items():
        for part, wanted in zip(one, rows[key]):
            np.testing.assert_array_equal(part, wanted)


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "{}",
        '{"key": 3, "units": "", "first": "", "second": ""}',
        "[" * 100_000,
        '{"key": "eval/loss/de", "units": "AAAAAAAAAAA=", "first": "", "second": ""}',
        '{"key": "eval/loss/de", "units": "AAA=", "first": "AAAA", "second": "AAAA"}',
    ],
)
def test_damaged_rows_are_named(tmp_path, line):
    file = rows_file(tmp_path, 4)
    file.parent.mkdir()
    file.write_text(line + "\n")
    with pytest.raises(UserError, match="not rows of an evaluation"):
        read_rows(tmp_path, 4)
