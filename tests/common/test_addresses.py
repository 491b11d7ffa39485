from pathlib import Path

import pytest

from mlm_jax import cli, load
from mlm_jax.common.addresses import is_local, local_path
from mlm_jax.common.errors import UserError
from mlm_jax.run.loop import train
from tests.tiny import tiny_config


def test_addresses_are_told_from_paths():
    assert is_local("runs/mine") and is_local(Path("/runs")) and not is_local("gs://bucket/run")
    assert local_path("runs/mine") == Path("runs/mine")


@pytest.mark.parametrize("address", ["gs://bucket/run", "s3://bucket/run"])
@pytest.mark.parametrize(
    "verb",
    [
        ("train", "--config", "configs/demo.py", "--workdir"),
        ("eval",),
        ("report",),
        ("sweep", "--config", "configs/sweeps/alpha.py", "--workdir"),
    ],
)
def test_a_workdir_in_an_object_store_is_refused_at_once(verb, address, tmp_path, monkeypatch, capsys, request):
    monkeypatch.chdir(request.config.rootpath)
    assert cli.main([*verb, address]) == 2
    said = capsys.readouterr().err
    assert f"{address}: a workdir cannot be an address" in said and "Remedy: mount the bucket" in said
    assert not Path(address.partition("/")[0]).exists()


def test_the_python_interface_refuses_it_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (lambda: train(tiny_config("store"), "gs://bucket/run"), lambda: load("gs://bucket/run")):
        with pytest.raises(UserError, match="mount the bucket"):
            call()
    assert not list(tmp_path.iterdir())
