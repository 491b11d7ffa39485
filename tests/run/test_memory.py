"""A step that needs more memory than is available: the settings that the error names."""

import re
import resource
import subprocess
import sys

import jax
import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.data.store.store import Store
from mlm_jax.planning.estimate import Estimator
from mlm_jax.planning.prepare import Known
from mlm_jax.run import loop, memory
from mlm_jax.run.phase_steps import CompiledPhases
from tests.tiny import tiny_config, write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("memory") / "store")


def out_of_memory(run):
    """The compiled step, whose run fails as XLA's does."""

    def failing(state, batch):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 137438953472 bytes."
        )

    failing.lower = run.lower
    return failing


def test_settings_that_fit_are_named(store, tmp_path, monkeypatch):
    config = tiny_config(store)
    config.mesh.data = 8
    config.tasks["mlm"]["rows"] = config.tasks["ranking"]["rows"] = 64
    step_of = CompiledPhases.step_of
    seen = []

    def fails(phases, step):
        seen.append(phases.program)
        run, is_new = step_of(phases, step)
        return out_of_memory(run), is_new

    monkeypatch.setattr(CompiledPhases, "step_of", fails)
    monkeypatch.setattr(memory, "machine_memory", lambda: 8 * 600e3)
    with pytest.raises(UserError) as caught:
        loop.train(config, tmp_path / "run")
    needs, has = re.match(
        r"a training step needs ([\d.]+) GB on each device, which has ([\d.]+) GB", str(caught.value)
    ).groups()
    assert float(needs) >= 0 and "RESOURCE_EXHAUSTED" not in str(caught.value)
    assert "--set training.microbatches=" in str(caught.value) and "rows=" in str(caught.value)
    # The formula that advises knows the run's own vocabulary and languages.
    program, vocabulary = seen[0], Store.open(store).vocabulary
    assert program.context.vocabulary_size == vocabulary.size != config.vocabulary.size
    estimator = Estimator(program.config, memory.topology_of(program), Known(program.context, program.languages, {}))
    assert estimator.program.state.params["embedding"].shape == program.state.params["embedding"].shape


def test_other_errors_of_the_runtime_pass(store, tmp_path, monkeypatch):
    def fails(phases, step):
        def run(state, batch):
            raise jax.errors.JaxRuntimeError("INTERNAL: an accelerator is gone")

        return run, True

    monkeypatch.setattr(CompiledPhases, "step_of", fails)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        loop.train(tiny_config(store), tmp_path / "run")


@pytest.mark.slow
def test_a_machine_with_too_little_memory(store, tmp_path):
    """XLA's own error: a process that may have 12 GB of addresses runs a step of more."""
    config = tmp_path / "config.py"
    config.write_text(f"""
from tests.tiny import tiny_config

def get_config():
    config = tiny_config({str(store)!r})
    config.tasks = {{"mlm": {{"objective": "mlm", "rows": 4096, "length": 512, "mask_rate": 0.3}}}}
    config.model.update(width=64, heads=4, mlp_width=256, encoder=({{"layers": 4, "weights": "shared"}},), max_positions=512)
    config.evaluation.every = 100
    return config
""")
    command = [
        sys.executable,
        "-m",
        "mlm_jax.cli",
        "train",
        "--config",
        str(config),
        "--workdir",
        str(tmp_path / "run"),
    ]
    limit = 12 * 10**9
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.returncode == 2, done.stderr
    assert "a training step needs" in done.stderr and "--set " in done.stderr and "Traceback" not in done.stderr
