"""The reasons why a run cannot use its accelerator's attention kernel are logged once each."""

from types import SimpleNamespace

import numpy as np
import pytest

from mlm_jax.config import default_config
from mlm_jax.training.slow_attention import attention_of, warn_of_slow_attention


def mesh_of(platform):
    return SimpleNamespace(devices=np.array([SimpleNamespace(platform=platform)], object))


def config_of(**model):
    config = default_config()
    config.model.update({"decoder": ({"layers": 2},)} | model)
    config.tasks = {
        "mlm": {"objective": "mlm", "rows": 8, "length": 512},
        "ranking": {"objective": "ranking", "rows": 8, "length": 64},  # so short that a kernel gains nothing
        "translation": {"objective": "translation", "rows": 8, "length": 256},
    }
    return config


@pytest.mark.parametrize(
    "platform, model, warnings",
    [
        ("gpu", {}, []),
        ("cpu", {"dtype": "float32"}, []),
        (
            "gpu",
            {"dtype": "float32"},
            [
                "slow attention in mlm (encoder, whole rows), mlm (encoder, window of 128), translation (encoder, whole rows), "
                "translation (encoder, window of 128), translation (decoder), translation (decoder to encoder): "
                "flash attention computes in 16 bits, not in float32; set model.dtype='bfloat16'",
            ],
        ),
        (
            "gpu",
            {"position": "relative", "global_every": 1},
            [
                "slow attention in mlm (encoder), translation (encoder), translation (decoder): flash attention takes no position "
                "bias (model.position='relative'); set model.position='rope', unless the weights are T5's",
            ],
        ),
        (
            "tpu",
            {"position": "relative", "global_every": 1},
            [
                "slow attention in mlm (encoder), translation (encoder), translation (decoder): splash attention takes no position "
                "bias (model.position='relative'); set model.position='rope', unless the weights are T5's",
            ],
        ),
    ],
)
def test_each_cause_is_logged_once_with_its_layers_and_remedy(caplog, platform, model, warnings):
    warn_of_slow_attention(config_of(**model), mesh_of(platform))
    assert [record.getMessage() for record in caplog.records] == warnings


def test_every_task_has_its_kinds_of_layers():
    found = attention_of(config_of(), mesh_of("gpu"))
    assert {task: [(each.layers, each.implementation) for each in chosen] for task, chosen in found.items()} == {
        "mlm": [("encoder, whole rows", "flash"), ("encoder, window of 128", "flash")],
        "ranking": [("encoder, whole rows", "reference"), ("encoder, window of 128", "reference")],
        "translation": [
            ("encoder, whole rows", "flash"),
            ("encoder, window of 128", "flash"),
            ("decoder", "flash"),
            ("decoder to encoder", "flash"),
        ],
    }
