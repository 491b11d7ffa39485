import types
from pathlib import Path

import jax
import numpy as np
import pytest

from mlm_jax.training.reporter import Reporter, window_metrics


def test_the_first_task_is_the_configs_whatever_order_the_step_returns():
    sums = {"loss": (np.array([6.0, 0.0]), np.array([2.0, 0.0]))}
    window = jax.jit(lambda tree: tree)({"ranking": sums, "mlm": sums})
    assert next(iter(window)) == "mlm"  # a compiled function sorts the keys
    line = window_metrics(window, ("de", "fr"), "ranking")
    assert line == pytest.approx(
        {"train/loss/de": 3.0, "train/loss/mean": 3.0, "train/mlm/loss/de": 3.0, "train/mlm/loss/mean": 3.0}
    )


def test_a_run_ends_with_a_table_of_every_task(capsys):
    program = types.SimpleNamespace(config=types.SimpleNamespace(tasks=("mlm", "ranking")), languages=("de",))
    goodput = types.SimpleNamespace(summary=lambda: "")
    reporter = Reporter(program, None, None, Path("run"), None, None, goodput)
    reporter.found = {"eval/loss/de": 3.5, "eval/ranking/accuracy/de": 0.25}
    reporter.farewell(Path("report.html"))
    printed = capsys.readouterr().out
    assert "ranking" in printed and "25.0" in printed
