"""Early stopping: a run ends when its metric stops improving, keeps its best checkpoint, and a kill in between changes nothing."""

import json

import numpy as np
import pytest

from mlm_jax.checkpoints.checkpoint import load_parameters
from mlm_jax.common.errors import UserError
from mlm_jax.config.check import check_values
from mlm_jax.report.comparison import read_run
from mlm_jax.report.history import is_patience_over
from mlm_jax.run import loop, steps
from mlm_jax.run.sweep.trials import is_finished
from mlm_jax.training.paths import by_path

SELECT = "eval/loss/de"


@pytest.fixture
def patient(config):
    config.tasks = {"mlm": {"objective": "mlm", "rows": 8, "length": 32, "mask_rate": 0.3}}
    config.steps, config.evaluation.every, config.checkpoint.every = 30, 1, 2
    config.evaluation.select, config.evaluation.patience = SELECT, 3
    config.optimizer.learning_rate, config.optimizer.schedule = 0.3, "constant"  # so high that it soon gets worse
    return config


def losses(workdir):
    """{step: the metric} of all evaluations, each logged once."""
    events = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found = [(event["step"], event[SELECT]) for event in events if SELECT in event]
    assert len(found) == len(dict(found))
    return dict(found)


def test_a_run_ends_early_keeps_its_best_and_a_kill_changes_nothing(patient, tmp_path, monkeypatch, capfd):
    loop.train(patient, tmp_path / "whole")
    whole = losses(tmp_path / "whole")
    best = min(whole, key=whole.get)
    assert max(whole) == best + 3 < 30
    assert f"ended after step {best + 3}: eval/loss/de has not improved in 3 evaluations" in capfd.readouterr().out
    assert load_parameters(tmp_path / "whole").step == best
    assert is_finished(tmp_path / "whole", 30) and read_run(tmp_path / "whole", "a", {}).is_finished

    loop.train(patient, tmp_path / "whole")  # it is finished: nothing more happens
    assert losses(tmp_path / "whole") == whole

    class Killed(Exception):
        pass

    def killing(scores, patience):
        if len(scores) == len(whole) - 1:
            raise Killed
        return is_patience_over(scores, patience)

    monkeypatch.setattr(steps, "is_patience_over", killing)
    with pytest.raises(Killed):
        loop.train(patient, tmp_path / "killed")
    monkeypatch.setattr(steps, "is_patience_over", is_patience_over)
    assert not is_finished(tmp_path / "killed", 30)
    loop.train(patient, tmp_path / "killed")
    assert losses(tmp_path / "killed") == whole
    ours, theirs = (by_path(load_parameters(tmp_path / name).params) for name in ("whole", "killed"))
    assert all(np.array_equal(ours[path], theirs[path]) for path in ours)


def test_what_counts_as_better():
    assert not is_patience_over([1.0, 2.0, 1.0], 2)
    assert is_patience_over([1.0, 2.0, 1.0, 2.0], 2)  # an equal value is not better
    assert not is_patience_over([1.0, 1.0, 1.0], 0)
    assert is_patience_over([-np.inf, -np.inf], 1)  # a value that is not a number is never better


def test_patience_with_no_metric_is_refused(config):
    config.evaluation.patience = 2
    with pytest.raises(UserError, match="evaluation.select names no metric"):
        check_values(config)
