"""Small checkpoints for tests: a state that is split over devices, and how it is saved and opened."""

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mlm_jax.checkpoints.saving import Checkpoints
from mlm_jax.config import default_config
from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.parallel.mesh import make_mesh
from mlm_jax.training.state import TrainState

LANGUAGES = ("en", "de")
VOCABULARY = Vocabulary.bytes(LANGUAGES, 4)


def make_config(**changes):
    config = default_config()
    config.languages = LANGUAGES
    for key, value in changes.items():
        room, _, name = key.partition("__")
        config[room][name] = value
    return config


def make_state(devices=8, seed=0, step=0):
    """A state whose kernel is split over the mesh; large enough for its bytes to lie in a file of their own."""
    mesh = make_mesh({"data": 1, "fsdp": devices, "tensor": 1, "sequence": 1}, jax.devices()[:devices])
    rng = np.random.default_rng(seed)

    def put(value, *spec):
        return jax.device_put(value, NamedSharding(mesh, P(*spec)))

    def kernel():
        return put(rng.normal(size=(64, 80)).astype(np.float32), "fsdp")

    params = {"encoder": {"kernel": kernel(), "bias": put(rng.normal(size=80).astype(np.float32))}}
    return TrainState(
        step=put(np.int32(step)),
        params=params,
        optimizer_state=({"mu": kernel()}, put(np.int32(step))),
        average={},
        extras={},
        window={"mlm": {"loss": (put(np.ones(2, np.float32)), put(np.ones(2, np.float32)))}},
        gradient_norm=put(np.float32(1)),
        skipped=put(np.int32(0)),
        first_skipped=put(np.int32(-1)),
    )


def shapes(state):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)


def open_run(folder, config=None, vocabulary=VOCABULARY, languages=LANGUAGES, labels=None):
    return Checkpoints(folder, config or make_config(), vocabulary, languages, labels or {})


def save(checkpoints, *steps, metrics=None):
    for step in steps:
        checkpoints.save(step, make_state(seed=step, step=step), metrics=metrics and metrics(step))
    checkpoints.wait()


def assert_same(state, wanted):
    assert jax.tree.structure(state) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, state, wanted)


def kept(folder):
    return sorted(int(child.name) for child in (folder / "checkpoints").iterdir() if child.is_dir())
