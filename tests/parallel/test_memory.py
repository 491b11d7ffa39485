"""Programs that need more memory than a CPU has free."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.parallel import memory
from mlm_jax.parallel.memory import Fitting, check_batch, free_memory, machine_memory


def test_a_program_that_does_not_fit_is_not_run_and_one_that_fits_is_compiled_once(caplog, monkeypatch):
    free = 50e6
    monkeypatch.setattr(memory, "free_memory", lambda: free)

    def products(x, *, times):
        return jnp.stack([jnp.sin(x[:, None] * x + number) for number in range(times)]).sum()

    run = Fitting(jax.jit(products, static_argnames="times"), "multiplying")
    with caplog.at_level(logging.DEBUG, "jax"), jax.log_compiles():
        for _ in range(2):
            assert run(jnp.ones(8), times=2) > 0
    compiled = [one for one in caplog.messages if one.startswith("Finished XLA compilation of jit(products)")]
    assert len(compiled) == run.programs == 1
    with pytest.raises(
        UserError, match="multiplying rows of this number and length needs .* GB of memory, and 0.1 GB are free"
    ):
        run(np.ones(1_000_000, np.float32), times=2)  # 4 MB, and 4 TB for the products
    with pytest.raises(UserError, match="0.1 GB are free"):
        run.check(jax.ShapeDtypeStruct((10**15,), jnp.float32), times=2)
    free = 1e18
    assert run(jnp.ones(16), times=2) > 0 and run.programs == 2


def test_the_memory_of_a_batch_is_compared_before_it_is_read():
    check_batch({"inputs": jax.ShapeDtypeStruct((8, 128), jnp.int32)}, "evaluating")
    with pytest.raises(UserError, match="evaluating rows .* needs 400,000,000.0 GB"):
        check_batch({"inputs": jax.ShapeDtypeStruct((10**8, 10**8), jnp.int32)}, "evaluating")


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    installed = machine_memory()
    assert 0 < free_memory() <= installed
    (tmp_path / "max").write_text("1000000\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(memory, "LIMITS", (str(tmp_path / "none"), str(tmp_path / "gone")))
    assert machine_memory() >= installed
    monkeypatch.setattr(memory, "LIMITS", (str(tmp_path / "none"), str(tmp_path / "max")))
    assert machine_memory() == free_memory() == 1e6
