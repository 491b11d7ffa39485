"""A short version of benchmarks/kills.py, and other runs in the same workdir."""

import subprocess
import sys
from pathlib import Path

import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.common.lock import only_writer
from mlm_jax.run.loop import train
from mlm_jax.run.profiler import Profiler
from mlm_jax.training.check import check_language_names

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_leaves_what_one_leaves_that_is_not():
    run = subprocess.run(
        [sys.executable, "benchmarks/kills.py", "--kills", "4", "--some", "--variants", "plain"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_second_run_in_a_workdir_is_refused_in_a_line_and_leaves_the_first_alone(config, tmp_path):
    with only_writer(tmp_path / "train"):
        before = sorted(tmp_path.iterdir())
        with pytest.raises(UserError, match="process .* is writing here. Remedy: wait until it has ended"):
            train(config, tmp_path)
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "start, stop, traced", [(0, 9, [2, 3, 4]), (3, 9, [3, 4]), (0, 3, [2]), (5, 9, []), (0, 2, [])]
)
def test_a_trace_has_clear_bounds_and_is_closed(start, stop, traced, tmp_path, monkeypatch):
    calls, during = [], []
    monkeypatch.setattr("jax.profiler.start_trace", lambda folder: calls.append("start"))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: calls.append("stop"))
    monkeypatch.setattr("jax.block_until_ready", lambda value: value)
    state = type("State", (), {"step": 0})
    with Profiler((2, 4), tmp_path) as profiler:
        for step in range(start, stop):
            profiler.before(step)
            during += [step] if profiler.is_tracing else []
            profiler.after(step, state)
    assert during == traced
    assert calls == (["start", "stop"] if traced else [])


@pytest.mark.parametrize("name", ["mean", "micro", "a/b", " ", ""])
def test_a_language_that_a_metric_could_be_taken_for_is_refused_by_name(name):
    with pytest.raises(UserError, match="cannot be the name of a language"):
        check_language_names(["de", name])
    check_language_names(["de", "zh-Hant", "ar_IL"])
