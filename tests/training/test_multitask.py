import functools

import jax
import numpy as np

from mlm_jax.config import default_config
from mlm_jax.parallel.batches import to_devices
from mlm_jax.parallel.mesh import make_mesh
from mlm_jax.training.step import build_program, gradient_function, make_train_step
from tests.objectives.helpers import make_context, random_rows

LANGUAGES = ("en", "de", "fr")


def batch(seed):
    def rows_of(n):
        return random_rows(10 * seed + n, rows=6, length=12, documents=1)

    return {"mlm": {"inputs": rows_of(2)}, "ranking": {"inputs": rows_of(0), "targets": rows_of(1)}}


@functools.cache
def compiled(microbatches=1):
    """A program with two tasks of learned weights, whose AdamW step is the gradient itself, and its step."""
    config = default_config()
    rows = {"rows": 6, "length": 12, "weight": "uncertainty"}
    config.tasks = {"mlm": {"objective": "mlm", **rows}, "ranking": {"objective": "ranking", "queue": 15, **rows}}
    config.training.microbatches = microbatches
    model, optimizer = config.model, config.optimizer
    model.encoder, model.global_every = ({"layers": 1, "weights": "shared"},), 1
    model.width, model.heads, model.mlp_width = 16, 2, 24
    optimizer.clip, optimizer.schedule, optimizer.warmup_steps, optimizer.weight_decay = 0.0, "constant", 0, 0.0
    optimizer.betas, optimizer.epsilon, optimizer.learning_rate = (0.0, 0.0), 1e8, 1e8
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    program = build_program(config, make_context(prefixed=False), LANGUAGES, mesh)
    return program, make_train_step(program)


def run(steps, microbatches=1, log_variance=0.0):
    program, step = compiled(microbatches)
    state = compiled()[0].initialise()
    uncertainty = jax.tree.map(lambda s: s + log_variance, state.params["uncertainty"])
    state = state._replace(params=state.params | {"uncertainty": uncertainty})
    for number in range(steps):
        state = step(state, to_devices(batch(number), program.mesh))
    return jax.device_get(state)


def loss_of(state, task):
    """The loss of a task over the languages, as its objective weighs it."""
    numerator, denominator = state.window[task]["loss"]
    present = denominator > 0
    if task == "ranking":
        return numerator.sum() / denominator.sum()
    return (numerator[present] / denominator[present]).sum()


def test_the_step_fills_the_queue_of_a_ranking_task():
    queue = run(steps=2).extras["ranking"]
    assert queue.filled.tolist() == [True] * 12 + [False] * 3 and queue.batches == 2
    np.testing.assert_allclose(np.linalg.norm(queue.embeddings[:, :12], axis=-1), 1, rtol=1e-5)
    assert not queue.embeddings[:, 12:].any()


def test_learned_weights_have_kendalls_gradient():
    for log_variance in (0.0, 0.7):
        state = run(steps=1, log_variance=log_variance)
        for task in ("mlm", "ranking"):
            wanted = log_variance - (0.5 - np.exp(-log_variance) * loss_of(state, task))  # s − ∂(e^−s L + s/2)/∂s
            np.testing.assert_allclose(state.params["uncertainty"][task], wanted, rtol=1e-5)


def test_microbatches_change_neither_learned_weights_nor_anything_else():
    whole, divided = run(steps=1), run(steps=1, microbatches=3)
    for part in ("params", "extras", "window"):
        pair = getattr(divided, part), getattr(whole, part)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *pair)


def test_a_task_may_be_called_as_a_method_of_modules_is():
    config = default_config()
    rows = {"rows": 6, "length": 12}
    config.tasks = {
        "train": {"objective": "mlm", **rows},
        "eval": {"objective": "mlm", "weight": "uncertainty", **rows},
    }
    config.model.update(width=16, heads=2, mlp_width=24, encoder=({"layers": 1},))
    program = build_program(config, make_context(prefixed=False), LANGUAGES, make_mesh(config.mesh, jax.devices()[:1]))
    examples = {task: {"inputs": random_rows(0, rows=6, length=12)} for task in config.tasks}
    gradients = gradient_function(program, program.objectives)
    shapes, _ = jax.eval_shape(gradients, program.state.params, examples, jax.random.key(0), program.state.step, {})
    assert [*shapes["uncertainty"]] == ["eval"]
