"""Optimizers against torch, transformers, optax and published values."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers

from mlm_jax.config import default_config
from mlm_jax.training import directions, optimizer

# "matrix" is large enough for Adafactor to factor its moments; both decay, neither is a hidden kernel of a layer.
SHAPES = {"matrix": (130, 140), "vector": (5,)}
AXES = {"matrix": ("vocabulary", "embed"), "vector": ("embed",)}


def make_config(name, **changes):
    config = default_config().optimizer
    config.update(
        name=name, schedule="constant", warmup_steps=0, learning_rate=1e-2, decay_table=((".*", True),), clip=0.0
    )
    config.update(changes)
    return config


def draw(seed, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def train(config, params, gradients, axes):
    transformation = optimizer.create(config, 100, params, axes)
    state = transformation.init(params)

    @jax.jit
    def step(params, state, gradient):
        updates, state = transformation.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for gradient in gradients:
        params, state = step(params, state, gradient)
    return params


def train_torch(make, params, gradients, clip=None):
    leaves = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in params.items()}
    theirs = make(list(leaves.values()))
    for gradient in gradients:
        for name, leaf in leaves.items():
            leaf.grad = torch.tensor(gradient[name])
        if clip:
            torch.nn.utils.clip_grad_norm_(leaves.values(), clip)
        theirs.step()
    return {name: leaf.detach().numpy() for name, leaf in leaves.items()}


def assert_close(mine, theirs, atol):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol), mine, theirs)


def test_adamw_with_a_global_clip_equals_torch():
    config = make_config("adamw", betas=(0.9, 0.95), epsilon=1e-7, weight_decay=0.1, clip=1.0)
    gradients = [draw(seed) for seed in range(1, 8)]
    mine = train(config, draw(0), gradients, AXES)
    theirs = train_torch(
        lambda leaves: torch.optim.AdamW(leaves, lr=1e-2, betas=(0.9, 0.95), eps=1e-7, weight_decay=0.1),
        draw(0),
        gradients,
        clip=1.0,
    )
    assert_close(mine, theirs, 1e-6)


def test_stable_adamw_equals_optimi():
    config = make_config("stable_adamw", betas=(0.9, 0.95), epsilon=1e-8, weight_decay=1e-2)
    params = {"w": np.array([1, -2, 3, 0.5], np.float32)}
    gradients = [{"w": np.array([0.1 * s, -1, 10.0 ** (s - 1), 0], np.float32)} for s in (1, 2, 3)]
    first = train(config, params, gradients[:1], {"w": ("embed",)})
    np.testing.assert_allclose(first["w"], [0.9899, -1.9898, 2.9897, 0.49995], rtol=2e-7)
    third = train(config, params, gradients, {"w": ("embed",)})
    np.testing.assert_allclose(third["w"], [0.9727871, -1.9716485, 2.9759514, 0.499861], rtol=2e-7)


def test_adafactor_equals_transformers_and_optax():
    config = make_config("adafactor", weight_decay=0.1)
    gradients = [draw(seed) for seed in range(1, 6)]
    mine = train(config, draw(0), gradients, AXES)
    theirs = train_torch(
        lambda leaves: transformers.Adafactor(
            leaves, lr=1e-2, scale_parameter=False, relative_step=False, weight_decay=0.1
        ),
        draw(0),
        gradients,
    )
    assert_close(mine, theirs, 1e-6)

    params, mine, theirs = (
        draw(0),
        directions.scale_by_factored_rms(AXES, largest_rms=1e9),
        optax.scale_by_factored_rms(),
    )
    my_state, their_state = mine.init(params), theirs.init(params)
    for gradient in gradients:
        my_direction, my_state = mine.update(gradient, my_state, params)
        their_direction, their_state = theirs.update(gradient, their_state, params)
    assert_close(my_direction, their_direction, 1e-5)


def test_lion_is_its_formula():
    config = make_config("lion", betas=(0.9, 0.99), weight_decay=0.1)
    gradients = [draw(seed) for seed in range(1, 6)]
    mine = train(config, draw(0), gradients, AXES)
    for name, w in draw(0).items():  # Chen et al. 2023, algorithm 2
        m = np.zeros_like(w)
        for g in (gradient[name] for gradient in gradients):
            w = w - np.float32(1e-2) * (np.sign(0.9 * m + 0.1 * g) + np.float32(0.1) * w)
            m = np.float32(0.99) * m + np.float32(0.01) * g
        np.testing.assert_allclose(mine[name], w, atol=1e-6)


def test_muon_equals_torch_for_hidden_kernels_and_adam_for_the_rest():
    params = {"encoder": {"kernel": draw(0)["matrix"], "bias": draw(0)["vector"]}}
    axes = {"encoder": {"kernel": ("embed", "mlp"), "bias": ("mlp",)}}
    gradients = [{"kernel": draw(seed)["matrix"], "bias": draw(seed)["vector"]} for seed in range(1, 5)]

    def train_mine(beta, count):
        config = make_config("muon", betas=(beta, 0.98), weight_decay=0.1, epsilon=1e-8)
        return train(config, params, [{"encoder": gradient} for gradient in gradients[:count]], axes)["encoder"]

    def difference(mine, count):
        theirs = train_torch(
            lambda leaves: torch.optim.Muon(
                leaves, lr=1e-2, momentum=0.95, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
            ),
            {"kernel": params["encoder"]["kernel"]},
            [{"kernel": gradient["kernel"]} for gradient in gradients[:count]],
        )
        moved, wanted = (leaf - params["encoder"]["kernel"] for leaf in (mine["kernel"], theirs["kernel"]))
        return np.linalg.norm(moved - wanted) / np.linalg.norm(wanted)

    assert difference(train_mine(0.95, 1), 1) < 0.02  # torch orthogonalises in bfloat16
    mine = train_mine(0.95, 4)
    # torch does not correct the bias of the momentum against the newest gradient, as optax and Adam do.
    assert difference(mine, 4) < 0.1 < 0.2 < difference(train_mine(0.5, 4), 4)
    adam = train_torch(
        lambda leaves: torch.optim.AdamW(leaves, lr=1e-2, betas=(0.95, 0.98), eps=1e-8, weight_decay=0.1),
        {"bias": params["encoder"]["bias"]},
        [{"bias": gradient["bias"]} for gradient in gradients],
    )
    np.testing.assert_allclose(mine["bias"], adam["bias"], rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 24, 16), (3, 16, 24)])
def test_the_updates_of_muon_are_nearly_orthogonal_and_as_large_as_those_of_adam(shape):
    axes = {"encoder": {"kernel": ("layers", "embed", "mlp")}}
    params = {"encoder": {"kernel": jnp.zeros(shape)}}
    gradient = {"encoder": {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)}}
    config = make_config("muon", learning_rate=1.0, weight_decay=0.0)
    update = np.asarray(train(config, params, [gradient], axes)["encoder"]["kernel"])
    singular = np.linalg.svd(update, compute_uv=False) / (0.2 * np.sqrt(max(shape[1:])))  # [layers, smaller side]
    assert singular.min() > 0.6 and singular.max() < 1.3
    assert 0.15 < np.sqrt((update**2).mean()) < 0.25
