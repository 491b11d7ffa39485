import json

import numpy as np
import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.report import history as history_room
from mlm_jax.report.history import curves_by_language, elapsed, read_history, retrieval_curves, smooth, thin


def write(folder, *lines, end="\n"):
    (folder / "metrics.jsonl").write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + end
    )
    return folder


def test_numbers_become_series_in_the_order_of_steps(tmp_path):
    history = read_history(
        write(tmp_path, {"step": 2, "a": 1.5, "note": "x", "ok": True}, {"step": 1, "a": 3, "time": 9.0})
    )
    assert history == {"a": [(1, 3.0), (2, 1.5)]}


def test_a_step_that_was_run_again_counts_as_run_last(tmp_path):
    history = read_history(write(tmp_path, {"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}, {"step": 2, "a": 7.0}))
    assert history["a"] == [(1, 1.0), (2, 7.0)]


def test_a_line_cut_short_by_a_crash_is_no_event_but_any_other_is_an_error(tmp_path):
    assert read_history(write(tmp_path, {"step": 1, "a": 1.0}, '{"step": 2, "a', end=""))["a"] == [(1, 1.0)]
    with pytest.raises(UserError, match=r"metrics.jsonl:2: this is not a JSON object with a step"):
        read_history(write(tmp_path, {"step": 1, "a": 1.0}, '{"step": 2, "a', {"step": 3, "a": 1.0}))
    with pytest.raises(UserError, match="metrics.jsonl:1: this is not a JSON object"):
        read_history(write(tmp_path, '{"a": 1}'))


def test_a_folder_without_metrics_is_named(tmp_path):
    with pytest.raises(UserError, match="no metrics here"):
        read_history(tmp_path)
    with pytest.raises(UserError, match="not logged anything"):
        read_history(write(tmp_path, end=""))


def test_thinning_keeps_the_ends_and_the_spike():
    curve = [(step, 1.0 + (step == 617) * 50) for step in range(1000)]
    kept = thin(curve, 100)
    assert len(kept) == 100
    assert (kept[0], kept[-1]) == (curve[0], curve[-1])
    assert (617, 51.0) in kept
    assert thin(curve[:50], 100) == curve[:50]


def test_smoothing_keeps_the_mean_and_the_course():
    rng = np.random.default_rng(0)
    curve = [(step, 5.0 - step / 1000 + rng.normal()) for step in range(1000)]
    smoothed = smooth(curve, 50)
    assert len(smoothed) == 50
    assert np.mean([value for _, value in smoothed]) == pytest.approx(np.mean([value for _, value in curve]))
    assert np.std(np.diff([value for _, value in smoothed])) < 0.5


def test_keys_are_grouped_by_what_they_measure():
    series = [(1, 1.0)]
    keys = (
        "train/loss/de",
        "eval/loss/de",
        "eval/loss/mean",
        "eval/ranking/accuracy/zh-Hans",
        "train/share/de",
        "train/mfu",
        "loss",
    )
    curves = curves_by_language(dict.fromkeys(keys, series), ["de", "zh-Hans"])
    assert curves == {
        "loss": {"train": {"de": series}, "eval": {"de": series, "mean": series}},
        "ranking/accuracy": {"eval": {"zh-Hans": series}},
    }


def test_retrieval_of_a_language_is_the_mean_over_its_pairs():
    history = {
        "eval/retrieval_at_1/de-zh-Hans": [(1, 0.2), (2, 0.4)],
        "eval/retrieval_at_1/zh-Hans-de": [(1, 0.4), (2, 0.6)],
        "eval/retrieval_at_1/fr-de": [(2, 0.8)],
        "eval/retrieval_at_1/mean": [(1, 0.3), (2, 0.6)],
    }
    curves = retrieval_curves(history, ["de", "fr", "zh-Hans"])
    assert curves["de"] == [(1, pytest.approx(0.3)), (2, pytest.approx(0.6))]
    assert curves["zh-Hans"] == [(1, pytest.approx(0.3)), (2, pytest.approx(0.5))]
    assert curves["fr"] == [(2, 0.8)]
    assert curves["mean"] == history["eval/retrieval_at_1/mean"]


def test_the_time_of_training_is_without_the_pauses_between_starts():
    events = [{"step": step, "time": time} for step, time in ((0, 100), (10, 110), (20, 125), (30, 1000), (40, 1010))]
    assert elapsed(events, (0,)) == [(0, 0), (10, 10), (20, 25), (30, 900), (40, 910)]
    assert elapsed(events, (0, 20)) == [(0, 0), (10, 10), (20, 25), (30, 25), (40, 35)]
    assert elapsed([{"step": 3}, {"step": 4, "time": None}], ()) == []


@pytest.fixture
def small(monkeypatch):
    """Room for 20 keys of 64 points."""
    monkeypatch.setattr(history_room, "MOST_POINTS", 1280)
    monkeypatch.setattr(history_room, "MOST_OF_A_KEY", 64)


@pytest.mark.parametrize("steps", [64, 65, 1000, 5000])
def test_a_long_series_keeps_its_course_its_best_and_its_ends(tmp_path, small, steps):
    events = [{"step": n, "train/loss/de": 9 - n / steps, "eval/loss/de": 5.0 + (n % 7)} for n in range(1, steps + 1)]
    events[steps // 3]["eval/loss/de"], events[steps // 2]["eval/loss/de"] = 1.0, 99.0
    found = read_history(write(tmp_path, *events))
    train, held_out = found["train/loss/de"], found["eval/loss/de"]
    assert len(train) <= 3 * 64 and len(held_out) <= 3 * 64
    assert train[-1] == (steps, 8.0) and held_out[-1] == (steps, events[-1]["eval/loss/de"])
    assert all(abs(value - (9 - step / steps)) < 1 / steps for step, value in train)
    assert (steps // 3 + 1, 1.0) in held_out and (steps // 2 + 1, 99.0) in held_out
    if steps == 64:
        assert train == [(event["step"], event["train/loss/de"]) for event in events]


def test_many_keys_share_the_room(tmp_path, small, monkeypatch):
    lines = [{"step": step, **{f"a{key}": step / 3 for key in range(300)}} for step in range(200)]
    found = read_history(write(tmp_path, *lines))
    assert len(found) == 300 and sum(map(len, found.values())) < 3 * 1280
    assert all(abs(value - step / 3) < 0.2 for series in found.values() for step, value in series)
    monkeypatch.setattr(history_room, "MOST_KEYS", 299)
    with pytest.raises(UserError, match="more than 299 different metrics"):
        read_history(tmp_path)
