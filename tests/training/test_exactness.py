"""The loss equals its formula for all devices, microbatches and packing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax import model as model_room
from mlm_jax.data.loading.batch import Rows
from mlm_jax.objectives.masking import Masked
from mlm_jax.objectives.mlm import MaskedLanguageModelling, predict_masked, weigh
from mlm_jax.parallel.batches import to_devices
from mlm_jax.parallel.mesh import make_mesh
from mlm_jax.training.context import planned_context
from mlm_jax.training.step import build_program, gradient_function
from tests.objectives.helpers import random_rows
from tests.tiny import tiny_config

LANGUAGES = ("en", "de", "ar")


def small(**mesh):
    config = tiny_config("unused")
    config.vocabulary.size, config.vocabulary.sentinels = 50, 2
    config.mesh.update(mesh)
    return config


def batch():
    def rows(seed):
        return random_rows(seed, rows=8)

    return {"mlm": {"inputs": rows(0)}, "ranking": {"inputs": rows(1), "targets": rows(2)}}


def loss_and_gradients(config, devices):
    mesh = make_mesh(config.mesh, jax.devices()[:devices])
    program = build_program(config, planned_context(LANGUAGES, config), LANGUAGES, mesh)
    state = program.initialise()
    function = jax.jit(gradient_function(program, program.objectives))
    with jax.set_mesh(mesh):
        gradients, (metrics, _) = function(
            state.params, to_devices(batch(), mesh), jax.random.key(3), state.step, state.extras
        )
    losses = {task: np.asarray(values["loss"][0]) for task, values in metrics.items()}
    return losses, jax.device_get(gradients)


@pytest.fixture(scope="module")
def reference():
    return loss_and_gradients(small(), 1)


@pytest.mark.parametrize(
    "devices, mesh, microbatches",
    [
        (1, {}, 4),
        (2, {}, 1),
        (4, {}, 4),
        (8, {"fsdp": 2, "tensor": 2}, 1),
        (8, {"sequence": 2, "fsdp": 2}, 1),
    ],
)
def test_the_same_on_every_mesh_and_for_any_microbatches(reference, devices, mesh, microbatches):
    config = small(**mesh)
    config.training.microbatches = microbatches
    assert_same(loss_and_gradients(config, devices), reference)


def assert_same(found, wanted):
    for task, loss in wanted[0].items():
        np.testing.assert_allclose(found[0][task], loss, rtol=2e-6)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted[1]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6 * scale, rtol=0), found[1], wanted[1])


def remembering(remat, dropout=0.0):
    config = small()
    config.model.remat, config.model.dropout = remat, dropout
    return loss_and_gradients(config, 1)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_what_is_recomputed_changes_nothing(reference, remat):
    assert_same(remembering(remat), reference)


def test_dropout_is_recomputed_as_it_was(reference):
    dropped = remembering("none", dropout=0.3)
    assert any((dropped[0][task] != reference[0][task]).any() for task in reference[0])
    assert_same(remembering("full", dropout=0.3), dropped)


def unpack(rows, masked):
    """Put every document on a row of its own, with the same hidden tokens."""
    tokens, originals = np.asarray(masked.rows.tokens), np.asarray(rows.tokens)
    segments, length = np.asarray(rows.segment_ids), rows.tokens.shape[1]
    chosen = np.zeros(tokens.shape, bool)
    for row, positions in enumerate(np.asarray(masked.positions)):
        chosen[row, positions[np.asarray(masked.chosen)[row]]] = True
    out = []
    for row in range(len(tokens)):
        for segment in range(1, segments[row].max() + 1):
            at = segments[row] == segment
            pad = (0, length - at.sum())
            out.append(
                [np.pad(x[row][at], pad) for x in (tokens, originals, segments, np.asarray(rows.positions), chosen)]
                + [np.asarray(rows.language)[row]]
            )
    new, old, segment, position, hidden, language = (np.stack(column) for column in zip(*out))
    apart = Rows(new, (segment > 0).astype(np.int32), position, language.astype(np.int32))
    order = np.argsort(~hidden, axis=1, kind="stable").astype(np.int32)
    return Masked(apart, order, np.take_along_axis(old, order, 1), np.take_along_axis(hidden, order, 1))


def test_packed_equals_one_document_a_row_and_the_plain_formula():
    config = small()
    context = planned_context(LANGUAGES, config)
    graphdef, params = model_room.create(config, vocabulary_size=50, languages=LANGUAGES, seed=0)
    rows = random_rows(0, rows=8)
    masked = MaskedLanguageModelling(mask_rate=0.3).mask(jax.random.key(0), rows, context)

    def loss(params, masked):
        model = model_room.merge(graphdef, params)
        return predict_masked(model, model.encode(masked.rows), weigh(masked, context), context)[0]

    value_and_gradient = jax.jit(jax.value_and_grad(loss))
    packed, packed_gradients = value_and_gradient(params, masked)
    apart, apart_gradients = value_and_gradient(params, unpack(rows, masked))
    np.testing.assert_allclose(apart, packed, rtol=1e-6)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(packed_gradients))
    for one, other in zip(jax.tree.leaves(apart_gradients), jax.tree.leaves(packed_gradients)):
        np.testing.assert_allclose(one, other, atol=1e-6 * scale, rtol=0)

    # L = −Σ_l (1/N_l) Σ_i log P(x_i^l | x_∖i^l), in NumPy from the logits
    model = model_room.merge(graphdef, params)
    table, bias = model.output_table()
    hidden = model.masked_head(model.encode(masked.rows))
    logits = np.asarray(jnp.einsum("rld,vd->rlv", hidden, table) + bias, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = 0.0
    for language in range(len(LANGUAGES)):
        terms = [
            -log_p[row, position, label]
            for row in np.flatnonzero(rows.language == language)
            for position, label, real in zip(*(np.asarray(x)[row] for x in masked[1:]))
            if real
        ]
        wanted += sum(terms) / len(terms) if terms else 0.0
    np.testing.assert_allclose(packed, wanted, rtol=1e-5)


def test_a_language_absent_from_the_batch_contributes_nothing():
    config = small()
    rows = random_rows(0, rows=8)._replace(language=np.zeros(8, np.int32))
    examples = MaskedLanguageModelling().prepare(
        {"inputs": rows}, jax.random.key(0), planned_context(LANGUAGES, config)
    )
    np.testing.assert_allclose(np.asarray(examples.weights).sum(), 1.0, rtol=1e-6)
    assert np.isfinite(np.asarray(examples.weights)).all()
