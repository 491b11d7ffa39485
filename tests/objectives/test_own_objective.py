"""An objective of a user's own module is trained, evaluated, planned, reported and documented without a change to the package."""

import json
import re

import pytest

from mlm_jax import cli
from mlm_jax.config.option import options_of
from mlm_jax.objectives import objective_class
from tests.tiny import write_store

MODULE = """
import dataclasses
import jax.numpy as jnp
from mlm_jax.config.option import option
from mlm_jax.config.values import Number
from mlm_jax.objectives import Objective
from mlm_jax.objectives.base import language_weights, means_by_language
from mlm_jax.objectives.cross_entropy import weighted_cross_entropy
from mlm_jax.objectives.traffic import Traffic

@dataclasses.dataclass(frozen=True)
class Recall(Objective):
    kind = "text"
    stride: int = option(2, Number(1, whole=True), "one token in this many is recalled")

    def prepare(self, batch, key, context):
        rows = batch["inputs"]
        chosen = (rows.segment_ids > 0) & (jnp.arange(rows.tokens.shape[1]) % self.stride == 0)
        return rows, chosen * language_weights(chosen.sum(axis=1), rows.language, context)[:, None]

    def traffic(self, examples):
        rows, length = examples[0].tokens.shape
        return Traffic(rows, length, predicted=rows * length)

    def loss(self, model, examples, context, key):
        rows, weights = examples
        hidden = model.encode(rows, task=self.task, key=key)
        table, bias = model.output_table()
        total, losses, hits = weighted_cross_entropy(
            hidden, table, bias, rows.tokens, weights, vocabulary_size=context.vocabulary_size, chunk=0, z_loss=0.0, smoothing=0.0
        )
        real = weights > 0
        return total, means_by_language({"loss": losses, "accuracy": hits}, real, rows.language, context)
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    store = write_store(folder / "store")
    (folder / "recall_objective.py").write_text(MODULE)
    own = {"objective": "recall_objective:Recall", "rows": 8, "length": 32, "stride": 3}
    (folder / "my_config.py").write_text(
        "from tests.tiny import tiny_config\n"
        "def get_config():\n"
        f"    config = tiny_config({str(store)!r}, steps=4)\n"
        f"    config.tasks = {{'mlm': dict(config.tasks['mlm']), 'recall': {own!r}}}\n"
        "    return config\n"
    )
    return folder / "my_config.py"


def test_it_is_trained_evaluated_and_reported(config_file, tmp_path, capsys):
    assert cli.main(["train", "--config", str(config_file), "--workdir", str(tmp_path / "run")]) == 0
    assert re.search(r"recall", capsys.readouterr().out)  # a closing table of its own
    events = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [event["eval/recall/loss/mean"] for event in events if "eval/recall/loss/mean" in event]
    assert len(losses) == 2 and losses[1] < losses[0]
    assert any("train/recall/accuracy/de" in event for event in events)
    assert "recall" in (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert cli.main(["eval", str(tmp_path / "run"), "--task", "recall", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["eval/recall/loss/mean"] < losses[0]


def test_it_is_planned(config_file, capsys):
    text = ["--set", "data.corpora={'en': 'en.txt', 'de': 'de.txt'}", "--set", "vocabulary.size=500"]
    assert cli.main(["plan", "--config", str(config_file), "--topology", "cpu:8", "--json", *text]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["flops"]["parts"]["output"] > 0


def test_its_options_are_documented_and_checked(config_file, tmp_path, capsys):
    assert options_of(objective_class("recall_objective:Recall", "recall"))["stride"].doc.startswith(
        "one token in this many"
    )
    arguments = ["train", "--config", str(config_file), "--workdir", str(tmp_path / "run"), "--set"]
    assert cli.main([*arguments, "tasks.recall.stride=0"]) == 2
    assert "tasks.recall.stride is 0. Remedy: use a whole number from 1" in capsys.readouterr().err
    assert cli.main([*arguments, "tasks.recall.strde=3"]) == 2
    assert "tasks.recall has no option 'strde'; did you mean 'stride'?" in capsys.readouterr().err
