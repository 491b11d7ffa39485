"""Settings of a curriculum phase in a step: its rows, its learning rate, its rotary positions, its mask rate."""

import os
import signal

import jax
import numpy as np
import pytest

from mlm_jax.config.values import BadValue
from mlm_jax.data.loading import curriculum
from mlm_jax.data.loading.loader import Loader
from mlm_jax.data.store.store import Store
from mlm_jax.objectives import kinds
from mlm_jax.report.store_tables import phases_table
from mlm_jax.run.loop import train
from mlm_jax.training.check import check_config
from mlm_jax.training.cost import in_phase
from mlm_jax.training.schedule import learning_rate
from tests.tiny import tiny_config, write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("phases") / "store")


def config_of(store, *phases):
    config = tiny_config(store, steps=sum(phase["steps"] for phase in phases))
    config.curriculum = phases
    return config


def loader_of(config):
    return Loader(Store.open(config.data.store), config, kinds(config.tasks))


def test_rows_of_a_phase_are_taken_once_and_tokens_a_step_can_stay_the_same(store):
    config = config_of(
        store, {"steps": 3}, {"steps": 4, "length": 64, "rows": 4}, {"steps": 2, "rows": {"ranking": 16}}
    )
    loader = loader_of(config)
    shapes = [{task: batch["inputs"].tokens.shape for task, batch in loader.batch(step).items()} for step in range(9)]
    assert shapes[2] == {"mlm": (8, 32), "ranking": (8, 32)} and shapes[3] == {"mlm": (4, 64), "ranking": (8, 32)}
    assert shapes[7] == {"mlm": (8, 32), "ranking": (16, 32)}
    seen = {}
    for step in range(9):
        batch = loader.batch(step)["mlm"]["inputs"]
        for row, language in enumerate(batch.language):
            seen[int(language)] = seen.get(int(language), 0) + int((batch.segment_ids[row] > 0).sum())
    text = tiny_config(store).tasks["mlm"]
    config.tasks = {"mlm": text}
    config.curriculum = tuple(
        {**phase, "rows": phase.get("rows", 8) if not isinstance(phase.get("rows"), dict) else 8}
        for phase in config.curriculum
    )
    alone = loader_of(config)
    assert alone.tokens_seen(9) == {language: seen[i] for i, language in enumerate(alone.languages)}


def test_every_unit_is_taken_once_an_epoch_though_rows_change(store):
    config = config_of(store, {"steps": 5, "rows": 2}, {"steps": 7, "rows": 6}, {"steps": 4, "rows": 10})
    config.tasks = {"ranking": config.tasks["ranking"]}
    config.curriculum = tuple(
        {"steps": phase["steps"], "rows": {"ranking": phase["rows"]}} for phase in config.curriculum
    )
    order = loader_of(config)._tasks["ranking"].order
    taken = {}
    for step, phase in ((step, curriculum.at(loader_of(config).phases, step)) for step in range(16)):
        plan = order.plan(step, 0, phase.rows("ranking", "pairs", 8))
        for stream, epoch, start in zip(plan.stream.tolist(), plan.epoch.tolist(), plan.start.tolist()):
            assert (stream, epoch, start) not in taken, "twice in one epoch"
            taken[stream, epoch, start] = step
    assert len(taken) == 5 * 2 + 7 * 6 + 4 * 10


def test_rows_that_cannot_be_shared_are_an_error(store):
    config = config_of(store, {"steps": 3}, {"steps": 3, "rows": 3})
    config.training.microbatches = 2
    with pytest.raises(BadValue, match=r"curriculum\[1\].rows is 3 for task 'mlm'.* multiple of 2"):
        check_config(config)


def test_a_phase_scales_the_learning_rate_or_has_a_schedule_of_its_own(store):
    config = config_of(
        store,
        {"steps": 40},
        {"steps": 20, "rate_factor": 0.5},
        {"steps": 40, "optimizer": {"schedule": "linear", "warmup_steps": 0.25, "final_fraction": 0.0}},
    )
    config.optimizer.update(schedule="constant", warmup_steps=0, learning_rate=1e-2)
    rate = jax.jit(learning_rate(config.optimizer, 100, config.curriculum))
    assert [float(rate(step)) for step in (0, 39)] == pytest.approx([1e-2, 1e-2])
    assert [float(rate(step)) for step in (40, 59)] == pytest.approx([5e-3, 5e-3])
    assert [float(rate(step)) for step in (60, 65, 70, 85, 100 - 1e-3)] == pytest.approx(
        [0, 5e-3, 1e-2, 5e-3, 0], abs=1e-6
    )  # a warm-up of 10 of 40 steps, then down to 0 at the run's end
    config.curriculum = ({"steps": 100, "optimizer": {"warmup_steps": 101}},)
    with pytest.raises(
        BadValue, match=r"curriculum\[0\].optimizer: optimizer.warmup_steps=101 .* more than the run's 100"
    ):
        learning_rate(config.optimizer, 100, config.curriculum)


def test_a_mask_rate_can_lead_from_one_number_to_another(store):
    config = config_of(store, {"steps": 4, "mask_rate": 0.2}, {"steps": 5, "mask_rate": (0.5, 0.1)})
    loader = loader_of(config)
    from mlm_jax.objectives import create_objectives
    from mlm_jax.training.context import make_context

    objective = create_objectives(config.tasks)["mlm"]
    context = make_context(loader.store.vocabulary, loader.languages, config)
    key = jax.random.key(0)

    def share(step):
        batch = loader.batch(step)["mlm"]
        changed = in_phase(objective, curriculum.at(loader.phases, step))
        masked = jax.jit(lambda step: changed.at_step(step).prepare(batch, key, context))(np.int32(step)).masked
        eligible = (batch["inputs"].segment_ids > 0) & ~context.special[batch["inputs"].tokens]
        np.testing.assert_array_equal(masked.chosen.sum(1), np.floor(wanted(step) * eligible.sum(1) + 1e-4))
        return masked.positions.shape[1]

    def wanted(step):
        return 0.2 if step < 4 else 0.5 - 0.1 * (step - 4)

    assert {share(step) for step in range(4)} == {7} and {share(step) for step in range(4, 9)} == {16}


def test_both_rope_bases_change_and_are_known_afterwards(store):
    config = config_of(store, {"steps": 2}, {"steps": 2, "rope_theta": 5e4, "local_rope_theta": 3e4})
    assert [curriculum.rope_bases(config, steps) for steps in (0, 2, 3)] == [(160_000, 10_000)] * 2 + [(5e4, 3e4)]
    config.model.position = "learned"
    with pytest.raises(BadValue, match="has a rope_theta"):
        check_config(config)


def test_inspect_lists_what_a_language_sees_in_each_phase_and_marks_much_repeated_text(store):
    config = config_of(store, {"steps": 3, "languages": ("en",)}, {"steps": 150, "languages": ("en", "de")})
    config.tasks = {"mlm": config.tasks["mlm"]}
    loader = loader_of(config)
    table = phases_table(loader)
    cells = dict(zip(loader.languages, zip(*(column.cells for column in table.columns[1:]))))
    assert cells["ar"] == ("0", "0.00", "0", "0.00")
    assert cells["de"][:2] == ("0", "0.00") and cells["de"][3].endswith("(many)")
    (first, second), seen = (int(cells["en"][i].replace(",", "")) for i in (0, 2)), loader.tokens_seen(153)
    assert first == 3 * 8 * 32 and first + second == seen["en"]
    size = loader.store.stream("en").split("train").values("inputs")
    assert cells["en"][1] == f"{first / size:.2f}"


@pytest.mark.slow  # compiles three phases four times
def test_a_run_that_is_stopped_in_any_phase_goes_on_bit_for_bit(store, tmp_path):
    phases = (
        {"steps": 2, "languages": ("en",), "mask_rate": 0.3},
        {"steps": 2, "rows": 4, "length": 64, "rope_theta": 5e4, "local_rope_theta": 5e4, "rate_factor": 0.5},
        {"steps": 2, "mask_rate": (0.15, 0.05), "optimizer": {"schedule": "linear"}},
    )
    config = config_of(store, *phases)
    config.tasks = {"mlm": config.tasks["mlm"]}
    config.checkpoint.every = 1
    whole = config.copy_and_resolve_references()
    train(whole, tmp_path / "whole")
    original = Loader.batch
    for stop in (1, 3, 5):

        def batch(self, step, stop=stop):
            if step == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(self, step)

        folder = tmp_path / str(stop)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Loader, "batch", batch)
            with pytest.raises(SystemExit):
                train(config.copy_and_resolve_references(), folder)
        train(config.copy_and_resolve_references(), folder)
        assert losses(folder) == losses(tmp_path / "whole") and {step for step, _ in losses(folder)} == {*range(1, 7)}


def losses(folder):
    from mlm_jax.report.history import read_events

    return {
        (event["step"], key): event[key]
        for event in read_events(folder)
        for key in event
        if key.startswith("train/mlm/") or key in ("train/learning_rate", "train/gradient_norm")
    }
