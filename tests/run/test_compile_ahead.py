"""The training step is compiled in a thread while the run evaluates its first weights."""

import logging
import threading

import pytest

from mlm_jax.evaluation.held_out import HeldOut
from mlm_jax.run import loop, phase_steps
from tests.tiny import tiny_config, write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("ahead") / "store")


def config_of(store):
    config = tiny_config(store, 3)
    del config.tasks["ranking"]
    return config


@pytest.fixture
def compiled(caplog):
    """A function that returns the thread of each compilation of the training step so far."""

    def threads():
        records = [record for record in caplog.records if record.getMessage().startswith("Compiling jit(step) ")]
        return [record.threadName for record in records]

    with caplog.at_level(logging.DEBUG, "jax._src.interpreters.pxla"):
        yield threads


def test_the_step_is_compiled_once_and_in_the_thread(store, tmp_path, compiled):
    config = config_of(store)
    config.mesh.data, config.mesh.fsdp, config.training.ema = 4, 2, 0.9
    loop.train(config, tmp_path / "run")
    assert len(compiled()) == 1 and compiled()[0].startswith("compiler")
    config.steps = 4
    loop.train(config, tmp_path / "run")  # restored
    assert len(compiled()) == 2


def test_evaluation_does_not_wait_for_it(store, tmp_path, monkeypatch):
    evaluated = threading.Event()
    make, evaluate = phase_steps.make_train_step, HeldOut.evaluate

    def slow_to_compile(*args, **kwargs):
        run = make(*args, **kwargs)
        lower = run.lower

        def late(*shapes):
            assert evaluated.wait(60)
            return lower(*shapes)

        run.lower = late
        return run

    def marked(*args, **kwargs):
        found = evaluate(*args, **kwargs)
        evaluated.set()
        return found

    monkeypatch.setattr(phase_steps, "make_train_step", slow_to_compile)
    monkeypatch.setattr(HeldOut, "evaluate", marked)
    loop.train(config_of(store), tmp_path / "run")


def test_an_error_of_the_compilation_is_the_runs(store, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        def run(state, batch):
            raise AssertionError("must not run")

        def lower(*shapes):
            raise ValueError("too few sentinels")

        run.lower = lower
        return run

    monkeypatch.setattr(phase_steps, "make_train_step", broken)
    with pytest.raises(ValueError, match="too few sentinels"):
        loop.train(config_of(store), tmp_path / "run")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("compiler")]
