"""Losses of weighted classes, several classes and numbers are PyTorch's, and those of parts add up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from mlm_jax.common.errors import UserError
from mlm_jax.objectives import create_objectives
from tests.objectives.helpers import make_context, random_rows

CLASSES = ("O", "B-PER", "I-PER")
ROWS = 6
HEADS = {"weighted": 3, "words": 3, "several": 3, "number": 1}
TASKS = {
    "weighted": {"objective": "classification", "class_weights": {"B-PER": 3.0, "O": 0.5}},
    "words": {"objective": "token_classification", "class_weights": {"O": 0.1}},
    "several": {"objective": "multilabel_classification"},
    "number": {"objective": "regression"},
}


class Heads:
    """A model whose hidden states are tokens, and whose heads are tables."""

    def __init__(self, logits):
        self.table = logits

    def encode(self, rows, **_):
        return rows.tokens

    def classify(self, task, hidden, segment_ids, *, pooled):
        logits = self.table[task][hidden]  # [rows, length, outputs]
        return logits[:, 0] if pooled else logits


def labels_of(task, rng, rows):
    if task == "number":
        return rng.normal(size=ROWS).astype(np.float32).view(np.int32)
    if task == "several":
        return rng.integers(0, 2, (ROWS, len(CLASSES)))
    return rng.integers(0, len(CLASSES), ROWS if task == "weighted" else rows.tokens.shape)


def theirs(task, logits, labels):
    """PyTorch's loss of the labels that there are."""
    outputs, wanted = torch.tensor(np.asarray(logits)), torch.tensor(np.asarray(labels))
    if task == "number":
        return torch.nn.functional.mse_loss(outputs[:, 0], torch.tensor(labels.view(np.float32)))
    if task == "several":
        return torch.nn.functional.binary_cross_entropy_with_logits(outputs, wanted.float())
    weights = torch.tensor([TASKS[task]["class_weights"].get(name, 1.0) for name in CLASSES])
    return torch.nn.functional.cross_entropy(outputs.reshape(-1, 3), wanted.reshape(-1), weights)


@pytest.mark.parametrize("task", TASKS)
def test_the_loss_is_pytorchs(task):
    objective = create_objectives(TASKS)[task]
    context, rng = make_context(labels=dict.fromkeys(TASKS, CLASSES)), np.random.default_rng(0)
    rows = random_rows(0, rows=ROWS, length=9, documents=1)
    table = {name: jnp.asarray(rng.normal(size=(50, outputs)), jnp.float32) for name, outputs in HEADS.items()}
    labels = labels_of(task, rng, rows)
    filled = labels.copy()
    filled[-1] = -1  # a row that only fills the batch
    if task == "words":
        filled[:, ::3] = -1  # not the first piece of a word
    examples = objective.prepare({"inputs": rows, "labels": jnp.asarray(filled)}, jax.random.key(0), context)
    loss, metrics = objective.loss(Heads(table), examples, context, None)
    logits = table[task][rows.tokens] if task == "words" else table[task][rows.tokens[:, 0]]
    real = np.ones(labels.shape, bool)
    real[-1] = False
    if task == "words":
        real[:, ::3] = False
        logits, labels = logits[real], labels[real]
    else:
        logits, labels = logits[:-1], labels[:-1]
    np.testing.assert_allclose(loss, theirs(task, logits, labels), rtol=1e-5)
    assert set(metrics) == set(objective.metric_names)
    assert sum(part.sum() for part in metrics["loss"][1:]) == real.sum()
    halves = [
        objective.loss(Heads(table), jax.tree.map(lambda leaf, h=half: leaf[h::2], examples), context, None)[0]
        for half in range(2)
    ]
    np.testing.assert_allclose(sum(halves), loss, rtol=1e-5)
    if task == "several":
        said, true = np.asarray(logits) > 0, labels == 1
        f1 = 2 * (said & true).sum() / (said.sum() + true.sum())
        np.testing.assert_allclose(metrics["f1"][0].sum() / metrics["f1"][1].sum(), f1, rtol=1e-6)


def test_a_weight_of_a_class_that_there_is_not_is_named():
    objective = create_objectives({"ner": {"objective": "token_classification", "class_weights": {"B-PERS": 2.0}}})[
        "ner"
    ]
    with pytest.raises(UserError, match="tasks.ner.class_weights names 'B-PERS'.*did you mean 'B-PER'"):
        objective.weights_of(CLASSES)
    objective = create_objectives({"ner": {"objective": "classification", "class_weights": dict.fromkeys(CLASSES, 0)}})[
        "ner"
    ]
    with pytest.raises(UserError, match="are all 0"):
        objective.weights_of(CLASSES)
