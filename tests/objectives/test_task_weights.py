"""Task-specific layers: a task uses and trains only its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax import model as model_room
from mlm_jax.config import default_config
from mlm_jax.objectives import create_objectives
from tests.objectives.helpers import make_context, random_rows

TASKS = {
    name: {"objective": name, "rows": 6, "length": 8} for name in ("translation", "ranking", "mlm", "classification")
}


@pytest.fixture(scope="module")
def model():
    config = default_config()
    config.tasks = TASKS
    config.model.update({"width": 8, "heads": 2, "mlp_width": 12, "global_every": 1})
    config.model.encoder = config.model.decoder = ({"layers": 1, "weights": "task"},)
    facts = {"vocabulary_size": 50, "languages": ("en", "de", "fr"), "labels": {"classification": 3}}
    graphdef, shapes, _ = model_room.abstract(config, **facts)
    rng = np.random.default_rng(0)
    return graphdef, jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), shapes)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_moves_its_own_layers_only(model, task):
    graphdef, params = model
    objective, context = create_objectives(TASKS)[task], make_context()
    rows = {side: random_rows(seed, length=8, documents=1) for seed, side in enumerate(("inputs", "targets"))}
    examples = objective.prepare(rows | {"labels": np.arange(6) % 3}, jax.random.key(0), context)

    def loss(p):
        return objective.loss(model_room.merge(graphdef, p), examples, context, None)[0]

    gradient = jax.jit(jax.grad(loss))(params)
    own = [*TASKS].index(task)
    stacks = ("encoder", "decoder") if task == "translation" else ("encoder",)
    for stack in stacks:
        leaves = jax.tree.leaves(gradient[stack])  # [layers, tasks, …]
        moved = np.array([np.abs(leaf).reshape(*leaf.shape[:2], -1).max(axis=(0, 2)) > 0 for leaf in leaves])
        assert moved[:, own].mean() > 0.8  # all but a norm that the first layer does without
        assert not np.delete(moved, own, axis=1).any()
