import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.objectives import create_objectives
from mlm_jax.run import reporter as reporter_module
from mlm_jax.run.goodput import Goodput
from mlm_jax.run.reporter import Reporter, best_checkpoint, window_metrics

SHARES = ("planned_shares", "planned_by_source", "realised_shares", "realised_by_source")


def test_a_run_whose_gradient_is_not_finite_stops_at_the_next_log_line(tmp_path):
    config, written = default_config(), []
    program = SimpleNamespace(config=config, languages=("de",), learning_rate=lambda step: 0.1, task_weights={})
    none = dict.fromkeys(SHARES, lambda *_: {})
    loader = SimpleNamespace(tokens_seen=lambda step: {}, **none)
    metrics, progress = (
        SimpleNamespace(write=lambda step, _: written.append(step)),
        SimpleNamespace(update=lambda *_: None),
    )
    reporter = Reporter(program, loader, None, tmp_path, metrics, progress, Goodput(tmp_path, False))

    def line(step, first_skipped):
        numbers = {"gradient_norm": np.nan, "skipped": int(first_skipped >= 0), "first_skipped": first_skipped}
        state = SimpleNamespace(window={}, params={}, **{name: jnp.asarray(number) for name, number in numbers.items()})
        reporter.take(step, state)
        reporter.flush()

    line(10, -1)
    with pytest.raises(UserError, match="the gradient of step 13 is not finite"):
        line(20, 13)
    config.training.nonfinite = "skip"
    line(30, 13)
    assert written == [10, 20, 30]


def test_log_lines_compute_nothing_on_the_device_while_a_later_step_runs(tmp_path, monkeypatch):
    config, written, computed = default_config(), {}, []
    config.tasks = {"mlm": {"weight": "0:1,10:2"}, "ranking": {"weight": "uncertainty"}}

    def on_device(name, function):
        return lambda value: (computed.append(name), jnp.asarray(function(value), jnp.float32))[1]

    monkeypatch.setattr(reporter_module, "uncertainty_weight", on_device("learned", lambda value: jnp.exp(-value)))
    weights = {"mlm": on_device("given", lambda step: 1 + step / 10)}
    rate = on_device("rate", lambda step: step / 100)
    program = SimpleNamespace(config=config, languages=("de",), learning_rate=rate, task_weights=weights)
    loader = SimpleNamespace(tokens_seen=lambda step: {}, **dict.fromkeys(SHARES, lambda *_: {}))
    metrics = SimpleNamespace(write=lambda step, line: written.update(line))
    progress = SimpleNamespace(update=lambda *_: None)
    reporter = Reporter(program, loader, None, tmp_path, metrics, progress, Goodput(tmp_path, False))
    numbers = {"gradient_norm": jnp.ones(()), "skipped": jnp.zeros((), int), "first_skipped": -jnp.ones((), int)}
    reporter.take(6, SimpleNamespace(window={}, params={"uncertainty": {"ranking": jnp.zeros(())}}, **numbers))
    before = sorted(computed)
    reporter.flush()
    assert before == sorted(computed) == ["given", "learned", "rate"]
    wanted = {"train/learning_rate": 0.05, "train/weight/mlm": 1.5, "train/weight/ranking": 1.0}
    assert {key: written[key] for key in wanted} == pytest.approx(wanted)


def test_the_first_task_is_the_configs_whatever_order_the_step_returns():
    sums = {"loss": (np.array([6.0, 0.0]), np.array([2.0, 0.0]))}
    window = jax.jit(lambda tree: tree)({"ranking": sums, "mlm": sums})
    assert next(iter(window)) == "mlm"  # a compiled function sorts the keys
    line = window_metrics(window, ("de", "fr"), {"ranking": {}, "mlm": {}})
    assert line == pytest.approx(
        {"train/loss/de": 3.0, "train/loss/mean": 3.0, "train/mlm/loss/de": 3.0, "train/mlm/loss/mean": 3.0}
    )


def test_a_run_ends_with_a_table_of_every_task_but_ranking(capsys):
    tasks = {task: {"objective": task} for task in ("mlm", "ranking", "denoising")}
    objectives = create_objectives({task: {"objective": task, "rows": 1, "length": 8} for task in tasks})
    config = SimpleNamespace(tasks=tasks, evaluation=SimpleNamespace(select=""))
    program = SimpleNamespace(config=config, languages=("de",), objectives=objectives)
    goodput = SimpleNamespace(summary=lambda: "")
    reporter = Reporter(program, None, None, Path("run"), None, None, goodput)
    reporter.found = {"eval/loss/de": 3.5, "eval/ranking/accuracy/de": 0.25, "eval/denoising/accuracy/de": 0.35}
    reporter.farewell(Path("report.html"))
    printed = capsys.readouterr().out
    assert "denoising" in printed and "35.0" in printed and "25.0" not in printed


def test_the_end_names_the_best_checkpoint(tmp_path):
    assert best_checkpoint(tmp_path, "") == "no evaluation has eval/loss/mean"
    lines = (
        {"step": step, "eval/loss/mean": loss, "eval/pearson/en": -0.5 - step / 100}
        for step, loss in enumerate((5, 3, 4))
    )
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "by eval/loss/mean: step 1 (3); eval, export-hf and load take step 2, the last" in best_checkpoint(
        tmp_path, ""
    )
    found = best_checkpoint(tmp_path, "eval/pearson/en")
    # Step 0 was better, but nothing is saved there.
    assert found.endswith("by eval/pearson/en: step 1 (-0.51); eval, export-hf and load take step 1")
