"""Which checkpoints are kept, and which of them is the best."""

import pytest

from mlm_jax.checkpoints.checkpoint import find_checkpoint, load_parameters
from mlm_jax.checkpoints.metrics import score
from mlm_jax.common.errors import UserError
from tests.checkpoints.helpers import assert_same, kept, make_config, make_state, open_run, save, shapes


def test_the_last_and_every_so_many_are_kept(tmp_path):
    save(open_run(tmp_path, make_config(checkpoint__keep_last=2, checkpoint__keep_every=4)), *range(1, 8))
    assert kept(tmp_path) == [4, 6, 7]


@pytest.mark.parametrize("metric, best", [("eval/loss/mean", 2), ("eval/retrieval_at_1/mean", 3)])
def test_the_best_checkpoint_is_kept_and_used(tmp_path, metric, best):
    values = {1: 0.5, 2: 0.1, 3: 0.9, 4: float("nan"), 5: 0.4, 6: 0.6}
    config = make_config(evaluation__select=metric, checkpoint__keep_last=1)
    checkpoints = open_run(tmp_path, config)
    assert checkpoints.improves({metric: float("nan")})  # better than no evaluation
    save(checkpoints, *values, metrics=lambda step: {metric: values[step], "other": 1.0})
    assert kept(tmp_path) == [best, 6]
    again = open_run(tmp_path, config)
    assert not again.improves({metric: 0.2}) and not again.improves({metric: float("nan")})
    assert again.improves({metric: 0.05 if "loss" in metric else 0.95})
    assert find_checkpoint(tmp_path).name == str(best) and load_parameters(tmp_path).step == best
    assert int(again.restore(shapes(make_state())).step) == 6  # a run continues from its last checkpoint
    with pytest.raises(UserError, match="which no evaluation gives; did you mean 'eval/.* Remedy: name one of those"):
        again.improves({metric.replace("mean", "de"): 1.0})


def test_a_loss_of_any_name_is_better_when_it_is_less(tmp_path):
    metric = "eval/aligned/loss_unplugged/mean"
    save(open_run(tmp_path, make_config(evaluation__select=metric)), 1, 2, metrics=lambda step: {metric: float(step)})
    assert find_checkpoint(tmp_path).name == "1"
    assert score("eval/loss/accuracy/mean", {"eval/loss/accuracy/mean": 0.5}) == 0.5  # a task may be named so


def test_scores_of_different_metrics_are_not_compared(tmp_path):
    loss, accuracy = "eval/loss/mean", "eval/accuracy/mean"
    save(open_run(tmp_path, make_config(evaluation__select=accuracy)), 1, 2, metrics=lambda step: {accuracy: 1 / step})
    changed = open_run(tmp_path, make_config(evaluation__select=loss))
    assert changed.improves({loss: 9.0})
    changed.save(3, make_state(seed=3, step=3), {loss: 9.0})
    save(changed, 4, metrics=lambda step: {loss: 10.0})
    assert not changed.improves({loss: 9.5}) and find_checkpoint(tmp_path).name == "3"
    save(open_run(tmp_path, make_config()), 5)
    assert find_checkpoint(tmp_path).name == "5"  # no metric any more: the last


def test_a_checkpoint_gets_the_metric_of_a_later_evaluation(tmp_path):
    config = make_config(evaluation__select="eval/loss/mean", checkpoint__keep_last=1)
    checkpoints = open_run(tmp_path, config)
    save(checkpoints, 1, metrics=lambda step: {"eval/loss/mean": 2.0})
    save(checkpoints, 2)
    checkpoints = open_run(tmp_path, config)
    checkpoints.complete(2, {"eval/loss/mean": 1.0, "other": 3.0})
    assert find_checkpoint(tmp_path).name == "2" and not checkpoints.improves({"eval/loss/mean": 1.5})
    save(checkpoints, 3, metrics=lambda step: {"eval/loss/mean": 1.5})
    assert kept(tmp_path) == [2, 3]
    assert_same(open_run(tmp_path, config).restore(shapes(make_state())), make_state(seed=3, step=3))
