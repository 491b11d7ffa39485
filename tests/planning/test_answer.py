"""The answer of a plan follows from its numbers, and its advised settings fit."""

import jax
import numpy as np
import pytest

from mlm_jax.data.loading.loader import Loader
from mlm_jax.data.store.store import Store
from mlm_jax.objectives import kinds
from mlm_jax.parallel.topology import parse
from mlm_jax.planning import advice, search
from mlm_jax.planning.answer import WRITE_RATE, answer, reads_of
from mlm_jax.planning.estimate import Estimate, Estimator
from mlm_jax.planning.roofline import Roofline
from tests.planning.test_plan import small
from tests.tiny import tiny_config, write_store

MESH = {"data": 4, "fsdp": 2, "tensor": 1, "sequence": 1}


def test_the_answer_follows_from_the_estimate():
    config = small()
    config.steps = 1000
    config.optimizer.warmup_steps, config.optimizer.decay_steps = 10, 20
    config.mesh.fsdp = 2
    estimator = Estimator(config, parse("H100:8"))
    guess = estimator(MESH, "none", 1)
    said = answer(estimator, guess)
    assert said.fits and said.by == "formula" and said.peak == guess.peak
    assert said.tokens == 1000 * 32 * 128
    assert said.hours == pytest.approx(1000 * guess.roofline.expected_seconds / 3600)
    assert said.hours * 3600 * said.expected == pytest.approx(said.tokens)
    assert said.chip_hours == 8 * said.hours and said.expected < said.most
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(estimator.program.state))
    assert said.checkpoint == state and said.checkpoint_seconds == state / WRITE_RATE
    assert "mlm-jax prepare" in said.reads_unknown
    assert any("tokens/s expected" in line for line in said.lines())


def test_phases_take_time_in_proportion_to_their_work():
    config = small()
    config.steps = 100
    config.optimizer.warmup_steps, config.optimizer.decay_steps = 10, 20
    estimator = Estimator(config, parse("H100:8"))
    whole = answer(estimator, estimator(MESH, "none", 1))
    config.curriculum = ({"steps": 50, "length": 64}, {"steps": 50})
    estimator = Estimator(config, parse("H100:8"))
    halved = answer(estimator, estimator(MESH, "none", 1))
    assert halved.tokens == 0.75 * whole.tokens
    assert 0.5 * whole.hours < halved.hours < 0.76 * whole.hours


def test_epochs_are_those_that_the_loader_reads(tmp_path):
    config = tiny_config(write_store(tmp_path / "store"), steps=50)
    reads, unknown = reads_of(config)
    loader = Loader(Store.open(config.data.store), config, kinds(config.tasks))
    seen, streams = loader.tokens_seen(50), loader.store.streams
    text, pairs = streams["de"].splits["train"], streams["de-en"].splits["train"]
    assert not unknown and set(reads) == {"en", "de", "ar"}
    assert reads["de"].tokens == seen["de"]
    assert reads["de"].epochs == seen["de"] / (text.values("inputs") + pairs.values("inputs"))
    config.data.store = str(tmp_path / "nowhere")
    assert reads_of(config)[0] == {} and "nothing at data.store" in reads_of(config)[1]


@pytest.fixture(scope="module")
def too_large():
    """A config that needs more than the memory of its one card, and what it needs."""
    config = small()
    config.mesh.fsdp = 1
    config.tasks["mlm"]["rows"] = 64
    need = Estimator(config, parse("Mine:1", "hbm=1e9,flops=1e14,bandwidth=1e12"))(dict.fromkeys(MESH, 1), "none", 1)
    return config, need


def budget(memory):
    return parse("Mine:1", f"hbm={memory / 0.75},flops=1e14,bandwidth=1e12")


@pytest.mark.parametrize("share", [0.9, 0.6, 0.3])
def test_advised_settings_fit(too_large, share):
    config, need = too_large
    topology = budget(need.arguments + share * need.temporaries)
    found = advice.changes(config, topology, dict.fromkeys(MESH, 1))
    assert found
    for change in found:
        trial = config.copy_and_resolve_references()
        for key, value in change.settings.items():
            where, _, name = key.rpartition(".")
            place = trial
            for part in where.split("."):
                place = place[part]
            place[name] = value
        guess = Estimator(trial, topology)(dict.fromkeys(MESH, 1), trial.model.remat, trial.training.microbatches)
        assert guess.peak == pytest.approx(change.peak) and guess.peak <= topology.capacity
    paces = [change.slower for change in found[:-1]]
    assert paces == sorted(paces)


def test_advice_is_scaled_by_what_the_compiler_said(too_large):
    config, need = too_large
    topology = budget(need.peak * 1.01)
    assert advice.changes(config, topology, dict.fromkeys(MESH, 1), temporaries=2 * need.temporaries)
    said = answer(Estimator(config, budget(0.5 * need.peak)), need)
    assert not said.fits and said.hours is None and "--set " in said.changes[0]


def test_a_step_that_no_setting_makes_fit_is_reported(too_large):
    config, need = too_large
    assert advice.changes(config, budget(0.9 * need.arguments), dict.fromkeys(MESH, 1)) == []
    assert "smaller model" in advice.lines([])


def test_fsdp_over_a_whole_slice_ranks_last_and_ties_go_to_what_sends_less():
    def layout(mesh, seconds, links, peak=1.0):
        bounds = Roofline(seconds, 0, links, 0, 1 / seconds, 0.5, seconds, 1 / seconds)
        return Estimate(dict(zip(MESH, mesh)), "none", 1, peak, 0.0, bounds)

    slice_, hosts = parse("v5p:4x4x4"), parse("H100:8x8")
    whole, part, slower = (
        layout((1, 64, 1, 1), 0.9, 0.1),
        layout((2, 32, 1, 1), 1.0, 0.3),
        layout((4, 16, 1, 1), 1.1, 0.1),
    )
    less = layout((4, 8, 2, 1), 1.001, 0.2)
    best = sorted([whole, slower, part, less], key=lambda one: search.rank(one, slice_))
    assert best == [less, part, slower, whole]
    assert search.warning(whole.mesh, hosts) and search.warning(part.mesh, hosts)
    assert not search.warning(layout((8, 8, 1, 1), 1, 1).mesh, hosts)
    assert search.warning(layout((4, 1, 16, 1), 1, 1).mesh, hosts)
    assert np.isfinite(search.rank(part, hosts)).all()
