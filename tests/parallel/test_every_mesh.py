"""Any product of data, fsdp, tensor and sequence, and slices, gives the losses of one device."""

import itertools
import math

import jax
import numpy as np
import pytest

from mlm_jax import model as model_room
from mlm_jax.config import default_config
from mlm_jax.model.layers import Dense
from mlm_jax.parallel.axes import AXES
from mlm_jax.parallel.batches import to_devices
from mlm_jax.parallel.mesh import make_mesh
from mlm_jax.parallel.rules import RULES, parameter_shardings, partition_spec
from mlm_jax.training.context import planned_context
from mlm_jax.training.step import build_program, gradient_function
from tests.objectives.helpers import random_rows

LANGUAGES = ("en", "de", "ar", "sw", "hi", "ko", "fi", "tr")
MESHES = [sizes for sizes in itertools.product((1, 2, 4, 8), repeat=4) if math.prod(sizes) == 8]
# The others are marked slow.
QUICK = {(2, 2, 2, 1), (1, 2, 2, 2), (2, 1, 2, 2), (1, 8, 1, 1), (1, 1, 8, 1), (1, 1, 1, 8)}


def config_of(**mesh):
    """Windowed and whole layers, weights of each target language, packed rows, everything that shards in one model."""
    config = default_config()
    config.vocabulary.size, config.vocabulary.sentinels = 64, 2
    config.model.update(
        width=32, heads=8, mlp_width=24, window=8, global_every=2, max_positions=64, vocabulary_multiple=8
    )
    config.model.encoder = ({"layers": 2, "weights": "shared", "adapter": 8},)
    config.model.decoder = ({"layers": 1, "weights": "target_language"},)
    config.model.cross_entropy_chunk = 4
    config.tasks = {
        "mlm": {"objective": "mlm", "rows": 8, "length": 32, "mask_rate": 0.3},
        "translation": {"objective": "translation", "rows": 8, "length": 32},
    }
    config.mesh.update(mesh)
    return config


def batch():
    def rows(seed):
        return random_rows(seed, rows=8, length=32, languages=len(LANGUAGES))

    return {"mlm": {"inputs": rows(0)}, "translation": {"inputs": rows(1), "targets": rows(2)}}


def program_on(config, devices):
    mesh = make_mesh(config.mesh, jax.devices()[:devices])
    return build_program(config, planned_context(LANGUAGES, config), LANGUAGES, mesh)


def losses(config, devices):
    program = program_on(config, devices)
    state = program.initialise()
    function = gradient_function(program, program.objectives)

    def measured(*args):  # without the gradients, which the compiler then leaves out
        return {task: values["loss"][0] for task, values in function(*args)[1][0].items()}

    with jax.set_mesh(program.mesh):
        found = jax.jit(measured)(
            state.params, to_devices(batch(), program.mesh), jax.random.key(3), state.step, state.extras
        )
    return jax.device_get(found)


@pytest.fixture(scope="module")
def one_device():
    return losses(config_of(), 1)


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(sizes, id="x".join(map(str, sizes)), marks=() if sizes in QUICK else pytest.mark.slow)
        for sizes in MESHES
    ],
)
def test_losses_are_those_of_one_device(one_device, sizes):
    found = losses(config_of(**dict(zip(AXES, sizes))), 8)
    for task, wanted in one_device.items():
        assert np.all(np.isfinite(wanted)) and wanted.any()
        np.testing.assert_allclose(found[task], wanted, rtol=1e-5)


@pytest.mark.parametrize("mesh, products", [({"fsdp": 4, "sequence": 2}, "one"), ({"fsdp": 4, "tensor": 2}, "apart")])
def test_projections_of_gpus_are_one_product_unless_devices_share_the_kernels(monkeypatch, one_device, mesh, products):
    concatenated = []
    monkeypatch.setattr("mlm_jax.model.layers.platform", lambda: "gpu")
    original = Dense.product

    def recording(self, x, kernel):
        concatenated.append(kernel.shape != self.kernel[...].shape)
        return original(self, x, kernel)

    monkeypatch.setattr(Dense, "product", recording)
    found = losses(config_of(**mesh), 8)
    assert any(concatenated) == (products == "one")
    for task, wanted in one_device.items():
        np.testing.assert_allclose(found[task], wanted, rtol=1e-5)


def test_losses_of_two_slices_are_those_of_one_device(one_device):
    found = losses(config_of(slices=2, data=4, tensor=2), 8)
    for task, wanted in one_device.items():
        np.testing.assert_allclose(found[task], wanted, rtol=1e-5)


def test_every_parameter_is_matched_and_every_rule_is_used(monkeypatch):
    used = set()

    def recording(axes, mesh, shape=None):
        used.update(axis for axis in axes if axis is not None)
        return partition_spec(axes, mesh, shape)

    monkeypatch.setattr("mlm_jax.parallel.rules.partition_spec", recording)
    config = config_of(fsdp=2, tensor=2, sequence=2)
    config.model.update(position="learned", language_embedding=True, biases=("norm", "attention", "mlp", "head"))
    config.tasks["topic"] = {"objective": "classification", "rows": 8, "length": 32}
    mesh = make_mesh(config.mesh)
    labels = {"topic": 4}
    program = build_program(config, planned_context(LANGUAGES, config), LANGUAGES, mesh, labels=labels)
    _, shapes, axes = model_room.abstract(config, vocabulary_size=64, languages=LANGUAGES, labels=labels)
    shardings = parameter_shardings(axes, shapes, mesh)
    assert jax.tree.structure(shardings) == jax.tree.structure(program.state.params)
    whole = batch() | {"topic": {"inputs": random_rows(4, rows=8, length=32), "labels": np.zeros(8, np.int32)}}
    state = program.state
    with jax.set_mesh(mesh):
        jax.eval_shape(
            gradient_function(program, program.objectives),
            state.params,
            to_devices(whole, mesh),
            jax.eval_shape(lambda: jax.random.key(0)),
            state.step,
            state.extras,
        )
    for keys in ({"lora": {"rank": 2, "products": ("query",)}}, {"character_downsampling": 4}):
        config.model.update(keys)
        _, shapes, axes = model_room.abstract(config, vocabulary_size=64, languages=LANGUAGES, labels=labels)
        parameter_shardings(axes, shapes, mesh)
    assert used == set(RULES)


def test_language_indexed_weights_are_split_along_their_groups():
    program = program_on(config_of(fsdp=4, tensor=2), 8)
    kernel = program.state.params["decoder"]["0"]["layers"]["mlp"]["up"][
        "kernel"
    ]  # [layers, languages, width, mlp width]
    assert kernel.sharding.shard_shape(kernel.shape) == (1, 2, 32, 12)
