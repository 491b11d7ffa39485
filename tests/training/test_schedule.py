"""Schedules against transformers' and by hand."""

import jax
import numpy as np
import pytest
import torch
import transformers

from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.training.schedule import SHAPES, learning_rate, piecewise_linear, schedule_line

STEPS, WARMUP, DECAY = 100, 10, 30


def rates(schedule, **changes):
    config = default_config().optimizer
    config.update(schedule=schedule, learning_rate=3e-3, warmup_steps=WARMUP, decay_steps=DECAY, **changes)
    rate = jax.jit(learning_rate(config, STEPS))
    return np.array([rate(step) for step in range(STEPS + 1)])


@pytest.mark.parametrize(
    "schedule, arguments, floor",
    [
        (
            "wsd",
            {
                "name": "warmup_stable_decay",
                "scheduler_specific_kwargs": {"decay_type": "1-sqrt", "min_lr_ratio": 0.02, "num_decay_steps": DECAY},
            },
            0.02,
        ),
        ("cosine", {"name": "cosine"}, 0.0),
        ("cosine", {"name": "cosine_with_min_lr", "scheduler_specific_kwargs": {"min_lr_rate": 0.02}}, 0.02),
        ("linear", {"name": "linear"}, 0.0),
        ("rsqrt", {"name": "inverse_sqrt"}, 0.0),
        ("constant", {"name": "constant_with_warmup"}, 0.0),
    ],
)
def test_schedules_equal_those_of_transformers(schedule, arguments, floor):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-3)
    theirs = transformers.get_scheduler(
        optimizer=optimizer, num_warmup_steps=WARMUP, num_training_steps=STEPS, **arguments
    )
    wanted = []
    for _ in range(STEPS + 1):
        wanted.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    # float32's progress near the end of a cosine is 1e-7 of the highest rate off
    np.testing.assert_allclose(rates(schedule, final_fraction=floor), wanted, rtol=1e-6, atol=3e-3 * 2e-7)


def test_without_warmup_the_first_step_has_the_highest_rate():
    config = default_config().optimizer
    config.update(warmup_steps=0, decay_steps=0, learning_rate=0.5)
    for schedule in SHAPES:
        config.schedule = schedule
        assert float(learning_rate(config, 10)(0)) == 0.5, schedule


def test_warmup_and_decay_may_be_shares_of_the_run_and_are_by_default():
    shares, steps = default_config().optimizer, default_config().optimizer
    for total in (10_000, 320, 30, 3, 1):
        steps.update(warmup_steps=round(0.05 * total), decay_steps=round(0.1 * total))
        for step in {0, 1, total // 20, total // 2, total - total // 10, total - 1}:
            assert float(learning_rate(shares, total)(step)) == float(learning_rate(steps, total)(step))
    assert schedule_line(shares, 10_000) == (
        "learning rate: wsd, at most 0.0005, warm-up over 500 steps (0.05 of 10,000), decay over the last 1,000 (0.1 of 10,000)"
    )
    steps.update(schedule="cosine", warmup_steps=4)
    assert schedule_line(steps, 30) == "learning rate: cosine, at most 0.0005, warm-up over 4 steps"
    own = {"schedule": "wsd", "learning_rate": 0.001, "decay_steps": 5}
    phases = ({"steps": 10}, {"steps": 10, "rate_factor": 0.5}, {"steps": 10, "optimizer": own})
    assert schedule_line(steps, 30, phases).endswith(
        "4 steps; curriculum[1]: times 0.5; curriculum[2]: wsd, at most 0.001, warm-up over 0 steps, decay over the last 5"
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"warmup_steps": 0.8, "decay_steps": 0.3},
            "warmup_steps=80 and decay_steps=30 are more than the run's 100 steps",
        ),
        ({"schedule": "wds"}, "no schedule 'wds'; did you mean 'wsd'?"),
        ({"warmup_steps": 71}, "warmup_steps=71 and decay_steps=30 are more than the run's 100 steps"),
        ({"schedule": "cosine", "warmup_steps": 101}, "warmup_steps=101 are more than"),
    ],
)
def test_impossible_schedules_are_errors(changes, message):
    config = default_config().optimizer
    config.update({"warmup_steps": WARMUP, "decay_steps": DECAY, **changes})
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        learning_rate(config, STEPS)


def test_piecewise_linear():
    weight = jax.jit(piecewise_linear("0:0,1000:0,2000:1"))
    assert [float(weight(step)) for step in (0, 500, 1000, 1500, 2000, 9999)] == [0, 0, 0, 0.5, 1, 1]
    assert float(piecewise_linear(0.25)(7)) == 0.25
    assert float(piecewise_linear("100:2")(0)) == 2


@pytest.mark.parametrize("points", ["0:1,5", "a:1", "0:1:2", "", "5:1,5:2", "5:1,3:2"])
def test_impossible_weights_are_errors(points):
    with pytest.raises(UserError):
        piecewise_linear(points)
