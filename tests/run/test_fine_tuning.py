"""Five tasks in one run, and one head or decoder trained on from there with the rest frozen."""

import json

import numpy as np
import pytest

from mlm_jax.checkpoints.checkpoint import load_parameters
from mlm_jax.run.loop import train
from mlm_jax.training.paths import by_path
from tests.evaluation import runs

TASKS = {
    "mlm": {"objective": "mlm", "rows": 8, "length": 24, "mask_rate": 0.3},
    "translation": {"objective": "translation", "rows": 8, "length": 24, "weight": "0:0,4:1"},
    "denoising": {"objective": "denoising", "rows": 4, "length": 30, "weight": 0.5},
    "entities": {"objective": "token_classification", "rows": 8, "length": 24, "data": ("ner-en",)},
    "genre": {"objective": "classification", "rows": 8, "length": 24, "data": ("genre-en",)},
}


def make_config(store, tasks):
    config = runs.make_config()
    config.tasks, config.steps, config.data.store = tasks, 8, store.folder
    config.model.decoder = ({"layers": 1, "weights": "target_language"},)
    config.checkpoint.every = config.evaluation.every = 8
    config.training.log_every = 2
    config.evaluation.pairs = 4
    return config


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return runs.make_store(tmp_path_factory.mktemp("fine_tuning") / "store")


@pytest.fixture(scope="module")
def together(store, tmp_path_factory):
    """The workdir of a run of all the tasks."""
    workdir = tmp_path_factory.mktemp("fine_tuning") / "together"
    train(make_config(store, TASKS), workdir)
    return workdir


def metrics(workdir):
    """The last value of every metric."""
    return {
        key: value
        for line in (workdir / "metrics.jsonl").read_text().splitlines()
        for key, value in json.loads(line).items()
    }


def parameters(workdir):
    return {path: np.asarray(leaf) for path, leaf in by_path(load_parameters(workdir).params).items()}


def test_five_tasks_train_in_one_run_and_each_is_measured_by_language(together):
    found = metrics(together)
    for key in (
        "eval/loss/hi",
        "eval/translation/loss/ru",
        "eval/denoising/loss/hi",
        "eval/entities/f1/ru",
        "eval/genre/accuracy/ru",
    ):
        assert np.isfinite(found[key]), key
    for task in TASKS:
        assert any(key.startswith("train/loss/" if task == "mlm" else f"train/{task}/loss/") for key in found), task
    # The weight of the first task has reached its last point.
    assert (found["train/weight/translation"], found["train/weight/denoising"]) == (1.0, 0.5)


def test_with_lora_its_products_and_the_head_are_all_that_moves(store, together, tmp_path):
    config = make_config(store, {"genre": TASKS["genre"]})
    config.checkpoint.init = {"from": str(together)}
    config.model.lora, config.optimizer.weight_decay = {"rank": 2, "products": ("query", "up")}, 0.1
    train(config, tmp_path)
    before, after = parameters(together), parameters(tmp_path)
    moved = {path for path in after if path not in before or not np.array_equal(before[path], after[path])}
    ours = {path for path in after if "/low_rank/" in path}
    assert moved == ours | {"classifiers/genre/kernel", "classifiers/genre/bias"}
    assert {path.split("/")[-4] for path in ours} == {"query", "up"}
    assert any(after[path].any() for path in ours if "second" in path and path.startswith("encoder"))


@pytest.mark.parametrize(
    "task, trained",
    [("genre", "classifiers/genre/.*"), ("entities", "classifiers/entities/.*"), ("translation", "decoder/.*")],
)
def test_one_head_or_decoder_is_trained_with_the_rest_frozen(store, together, tmp_path, task, trained):
    config = make_config(store, {task: TASKS[task] | {"weight": 1.0}})
    config.checkpoint.init = {"from": str(together)}
    config.optimizer.freeze_table = ((trained, False), (".*", True))
    config.optimizer.weight_decay = 0.1  # and frozen parameters do not change
    train(config, tmp_path)
    before, after = parameters(together), parameters(tmp_path)
    moved = {path for path in after if not np.array_equal(before[path], after[path])}
    assert moved and all(path.startswith(trained.removesuffix(".*")) for path in moved)
    assert np.isfinite(metrics(tmp_path)["eval/loss/ru"])
