import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.config import default_config
from mlm_jax.parallel.mesh import make_mesh
from mlm_jax.training.step import build_program, make_train_step, to_devices
from tests.objectives.helpers import make_context, random_rows

LANGUAGES = ("en", "de", "fr")


def tiny_config(**tasks):
    config = default_config()
    config.steps, config.tasks = 20, tasks
    config.optimizer.warmup_steps, config.optimizer.decay_steps = 0, 1
    config.mesh.data = 1
    model = config.model
    model.encoder = ({"layers": 2, "weights": "shared"},)
    model.width, model.heads, model.mlp_width, model.window = 16, 2, 24, 8
    return config


def tiny_batch(seed=0, rows=6):
    rows_of = lambda n: random_rows(10 * seed + n, rows=rows, length=12, documents=1)  # noqa: E731
    pair = {"inputs": rows_of(0), "targets": rows_of(1)}
    return {"mlm": {"inputs": rows_of(2)}, "ranking": pair, "tlm": pair}


def start(config):
    context = make_context(prefixed=False)
    program = build_program(config, context, LANGUAGES, make_mesh(config.mesh, jax.devices()[:1]))
    return program, program.initialise()


def run(config, steps=1):
    program, state = start(config)
    step = make_train_step(program)
    for number in range(steps):
        state = step(state, to_devices({task: tiny_batch(number)[task] for task in config.tasks}, program.mesh))
    return program, state


def losses(state):
    """The loss of each task, summed over languages as the objectives weigh it."""
    found = {}
    for task, metrics in state.window.items():
        numerator, denominator = (np.asarray(x) for x in metrics["loss"])
        present = denominator > 0
        means = numerator[present] / denominator[present]
        found[task] = numerator.sum() / denominator.sum() if task == "ranking" else means.sum()
    return found


MLM = {"objective": "mlm", "rows": 6, "length": 12}
RANKING = {"objective": "ranking", "rows": 6, "length": 12}


def test_the_step_fills_the_queue_of_a_ranking_task():
    config = tiny_config(mlm=MLM, ranking=RANKING | {"queue": 15})
    _, state = run(config, steps=2)
    queue = state.extras["ranking"]
    assert np.asarray(queue.left.filled).tolist() == [True] * 12 + [False] * 3
    np.testing.assert_allclose(np.linalg.norm(queue.right.embeddings[:12], axis=1), 1, rtol=1e-5)
    assert not np.asarray(queue.right.embeddings[12:]).any()
    assert "ranking" not in run(tiny_config(mlm=MLM, ranking=RANKING))[1].extras


def test_learned_weights_have_kendalls_gradient():
    config = tiny_config(mlm=MLM | {"weight": "uncertainty"}, ranking=RANKING | {"weight": "uncertainty"})
    config.optimizer.clip, config.optimizer.name, config.optimizer.schedule = 0.0, "adamw", "constant"
    config.optimizer.betas, config.optimizer.epsilon = (0.0, 0.0), 1e8  # so large that AdamW's step is the gradient
    config.optimizer.learning_rate, config.optimizer.weight_decay = 1e8, 0.0
    for log_variance in (0.0, 0.7):
        program, state = start(config)
        uncertainty = jax.tree.map(lambda s, shift=log_variance: s + shift, state.params["uncertainty"])
        state = state._replace(params=state.params | {"uncertainty": uncertainty})
        state = make_train_step(program)(state, to_devices(tiny_batch(), program.mesh))
        for task, loss in losses(state).items():
            wanted = log_variance - (0.5 - np.exp(-log_variance) * loss)  # s − ∂(e^−s L + s/2)/∂s
            np.testing.assert_allclose(state.params["uncertainty"][task], wanted, rtol=1e-5)


@pytest.mark.parametrize("parts", [2, 3])
def test_microbatches_change_neither_learned_weights_nor_anything_else(parts):
    config = tiny_config(mlm=MLM | {"weight": "uncertainty"}, ranking=RANKING | {"weight": "uncertainty", "queue": 8})
    config.optimizer.betas = (0.9, 0.9)
    _, whole = run(config, steps=2)
    config.training.microbatches = parts
    _, divided = run(config, steps=2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), divided.params, whole.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), divided.extras, whole.extras)
    assert jnp.abs(divided.params["uncertainty"]["mlm"]) > 0
