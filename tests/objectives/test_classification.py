"""Losses of labels are their closed form: over texts from the mean of their tokens, over words at their first pieces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax import model as model_room
from mlm_jax.config import default_config
from mlm_jax.objectives.classification import Classification, TokenClassification
from tests.objectives.helpers import make_context, random_rows

CONTEXT = make_context()
CLASSES = 4


@pytest.fixture(scope="module")
def made():
    config = default_config()
    config.model.update({"width": 8, "heads": 2, "mlp_width": 12, "global_every": 1, "encoder": ({"layers": 1},)})
    facts = {"vocabulary_size": CONTEXT.vocabulary_size, "languages": ("en", "de", "fr"), "labels": {"task": CLASSES}}
    graphdef, shapes, _ = model_room.abstract(config, **facts)
    rng = np.random.default_rng(0)
    return graphdef, jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32), shapes)


@pytest.mark.parametrize("kind", [Classification, TokenClassification])
def test_the_loss_is_the_closed_form_and_that_of_parts_adds_up(made, kind):
    graphdef, params = made
    objective, rows, rng = kind(task="task"), random_rows(3, length=9, documents=1), np.random.default_rng(1)
    real = np.asarray(rows.segment_ids) > 0  # [rows, length]
    labels = rng.integers(0, CLASSES, real.shape if kind is TokenClassification else len(real))
    labels[1] = -1  # a row that only fills the batch
    if kind is TokenClassification:
        labels[:, ::3] = -1  # not the first piece of a word
        labels[~real] = -1
    examples = objective.prepare({"inputs": rows, "labels": labels}, jax.random.key(0), CONTEXT)

    @jax.jit
    def measured(params, examples):
        return objective.loss(model_room.merge(graphdef, params), examples, CONTEXT, None)

    hidden = np.asarray(jax.jit(lambda p: model_room.merge(graphdef, p).encode(rows))(params), np.float64)
    if kind is Classification:
        hidden = (hidden * real[..., None]).sum(axis=1) / real.sum(axis=1, keepdims=True)  # [rows, width]
    head = params["classifiers"]["task"]
    logits = hidden @ np.asarray(head["kernel"], np.float64) + np.asarray(head["bias"], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    losses = {place: -log_p[place][labels[place]] for place in zip(*np.nonzero(labels >= 0))}
    loss, metrics = measured(params, examples)
    np.testing.assert_allclose(loss, np.mean(list(losses.values())), rtol=1e-4)
    for language in range(3):
        mine = [place for place in losses if rows.language[place[0]] == language]
        hits = sum(log_p[place].argmax() == labels[place] for place in mine)
        for name, total in (("loss", sum(losses[place] for place in mine)), ("accuracy", hits)):
            np.testing.assert_allclose(
                [part[language] for part in metrics[name]], [total, len(mine)], rtol=1e-4, atol=1e-6
            )

    halves = [measured(params, jax.tree.map(lambda leaf, h=half: leaf[h::2], examples))[0] for half in range(2)]
    np.testing.assert_allclose(sum(halves), loss, rtol=1e-5)
