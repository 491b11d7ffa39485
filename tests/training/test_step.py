"""A step with a gradient that is not finite, and the savings of frozen parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mlm_jax.checkpoints.workdir import may_change
from mlm_jax.common.errors import UserError
from mlm_jax.parallel.batches import to_devices
from mlm_jax.parallel.mesh import make_mesh
from mlm_jax.run.reporter import check_finite
from mlm_jax.training.context import planned_context
from mlm_jax.training.step import at_step, build_program, make_train_step
from tests.training.test_exactness import LANGUAGES, batch, small


def make_program(config):
    return build_program(
        config, planned_context(LANGUAGES, config), LANGUAGES, make_mesh(config.mesh, jax.devices()[:1])
    )


def test_a_step_whose_gradient_is_not_finite_changes_nothing_and_is_counted(tmp_path):
    config = small()
    config.training.ema, config.training.nonfinite = 0.9, "skip"
    config.tasks["ranking"] |= {"queue": 8}  # a queue, so that the objective has a memory
    program = make_program(config)
    step, data = make_train_step(program), to_devices(batch(), program.mesh)
    whole = step(program.initialise(), data)
    before = jax.device_get(whole)
    assert before.skipped == 0 and before.first_skipped == -1
    sound = whole.params["encoder_norm"]["scale"] + 0
    whole.params["encoder_norm"]["scale"] = sound.at[0].set(jnp.nan)
    after = jax.device_get(step(whole, data))
    assert not np.isfinite(after.gradient_norm)
    assert (after.step, after.skipped, after.first_skipped) == (2, 1, 2)
    assert np.isnan(after.params["encoder_norm"]["scale"][0])
    after.params["encoder_norm"]["scale"] = before.params["encoder_norm"]["scale"]
    assert before.extras["ranking"].filled.all() and len(jax.tree.leaves(after.extras)) == 4
    for name in ("params", "optimizer_state", "average", "window", "extras"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(before, name))

    check_finite(config, int(after.first_skipped), tmp_path)
    config.training.nonfinite = "stop"
    with pytest.raises(UserError, match="gradient of step 2 is not finite; there is no checkpoint yet"):
        check_finite(config, int(after.first_skipped), tmp_path)
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    with pytest.raises(UserError, match="gradient of step 2 is not finite; the last checkpoint is from before it"):
        check_finite(config, int(after.first_skipped), tmp_path)
    assert may_change("optimizer.learning_rate")  # the remedy


def test_skipped_steps_count_in_the_schedule():
    config = small()
    config.optimizer.schedule, config.optimizer.warmup_steps = "linear", 4
    config.steps = 20
    program = make_program(config)
    state = program.initialise()
    ones = jax.tree.map(jnp.ones_like, state.params)

    @jax.jit
    def update(step):
        return program.transformation.update(ones, at_step(state.optimizer_state, step), state.params)

    (second, after), (twelfth, later) = update(1), update(12)
    for ours, theirs in zip(jax.tree.leaves(twelfth), jax.tree.leaves(second)):
        ratio = program.learning_rate(12) / program.learning_rate(1)
        np.testing.assert_allclose(ours, ratio * theirs, rtol=1e-5)
    counts = optax.tree_utils.tree_get_all_with_path
    assert sorted(int(n) for _, n in counts(after, "count")) == [1, 2]  # Adam's own, and the schedule's
    assert sorted(int(n) for _, n in counts(later, "count")) == [1, 13]


def test_the_average_of_what_does_not_move_is_itself_bit_for_bit():
    config = small()
    config.training.ema, config.optimizer.freeze_table = 0.9999, (("encoder/.*", True), (".*", False))
    program = make_program(config)
    step, data = make_train_step(program), to_devices(batch(), program.mesh)
    state = program.initialise()
    for _ in range(3):
        state = step(state, data)
    jax.tree.map(np.testing.assert_array_equal, state.average["encoder"], state.params["encoder"])
    assert (state.average["embedding"] != state.params["embedding"]).any()


def test_the_average_of_an_absent_language_stays_as_its_weights_do():
    config = small()
    config.training.ema, config.model.encoder = 0.9, ({"layers": 1, "weights": "source_language"},)
    config.tasks = {"mlm": config.tasks["mlm"]}
    program = make_program(config)
    step, rows = make_train_step(program), batch()["mlm"]["inputs"]

    def of(*languages):
        language = np.resize(np.array(languages, np.int32), len(rows.language))
        return to_devices({"mlm": {"inputs": rows._replace(language=language)}}, program.mesh)

    def kernel(tree):
        return np.asarray(tree["encoder"]["0"]["layers"]["mlp"]["up"]["kernel"])[0]  # [languages, …]

    state = step(program.initialise(), of(0, 1, 2))
    before = jax.device_get((state.params, state.average))
    state = step(state, of(0, 1))
    for old, new in zip(map(kernel, before), map(kernel, (state.params, state.average))):
        np.testing.assert_array_equal(new[2], old[2])
        assert (new[:2] != old[:2]).any(axis=(1, 2)).all()
    assert (kernel(state.average)[2] != kernel(state.params)[2]).any()  # it has not caught up


def test_frozen_parameters_cost_neither_memory_nor_a_backward_pass():
    def cost(*table):
        config = small()
        config.optimizer.freeze_table = (*table, (".*", False))
        program = make_program(config)
        compiled = make_train_step(program).lower(program.state, jax.eval_shape(batch)).compile()
        held = sum(leaf.size for leaf in jax.tree.leaves(program.state.optimizer_state))
        return compiled.cost_analysis()["flops"], held

    (flops, held), (frozen_flops, frozen_held) = cost(), cost(("encoder/.*|embedding.*", True))
    assert frozen_held < 0.2 * held
    # Forward alone is a third; what remains to be trained is the head, which is most of this tiny model's rest.
    assert frozen_flops < 0.6 * flops


def test_runs_that_differ_in_seed_and_learning_rate_share_their_programs():
    def program_of(seed, rate, **changes):
        config = small()
        config.seed, config.optimizer.learning_rate = seed, rate
        config.optimizer.update(changes)
        return make_program(config)

    def text(program):
        lowered = make_train_step(program).lower(program.state, jax.eval_shape(batch))
        return lowered.as_text() + program.initialise.func.lower(*program.initialise.args).as_text()

    one, other = program_of(0, 1e-3), program_of(2**40 + 1, 3e-3)
    assert text(one) == text(other) != text(program_of(0, 1e-3, clip=0.123))
    # They start from other weights, and change them at their own rate.
    data = to_devices(batch(), one.mesh)

    def moved(program):
        weights = np.asarray(program.initialise().params["encoder_norm"]["scale"])
        return weights, np.abs(
            make_train_step(program)(program.initialise(), data).params["encoder_norm"]["scale"] - weights
        )

    (weights, slow), (_, fast) = moved(one), moved(program_of(0, 3e-3))
    np.testing.assert_allclose(fast, 3 * slow, rtol=1e-3, atol=1e-7)
    embeddings = [np.asarray(program.initialise().params["embedding"]) for program in (one, other)]
    assert (embeddings[0] != embeddings[1]).any() and weights.shape == slow.shape
