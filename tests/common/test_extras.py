"""Remedies name installs that exist, from a checkout and from a wheel."""

import re
import shlex
from pathlib import Path

import pytest

from mlm_jax.common import extras

PACKAGE = Path(extras.__file__).parents[1]
USED = sorted(
    set(re.findall(r"install_command\(\"(\w+)\"\)", "\n".join(file.read_text() for file in PACKAGE.rglob("*.py"))))
)


def test_remedies_name_no_package_that_an_index_lacks():
    for file in PACKAGE.rglob("*.py"):
        assert not re.search(
            r"pip install '?mlm_jax\[", file.read_text().replace(extras.install_command.__doc__, "")
        ), file


@pytest.mark.parametrize("extra", USED)
def test_an_extra_is_one_of_setup_py_and_a_wheel_names_its_libraries(extra, tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "CHECKOUT", tmp_path)
    requires = [
        "jax>=0.10",
        'wandb>=0.20; extra == "wandb"',
        "sacrebleu>=2.6; extra == 'metrics'",
        'x; extra == "wandb2"',
    ]
    monkeypatch.setattr(extras.importlib.metadata, "requires", lambda name: requires)
    if extra == "wandb":
        assert extras.install_command(extra) == "pip install 'wandb>=0.20'"
    if extra == "metrics":
        assert extras.install_command(extra) == "pip install 'sacrebleu>=2.6'"
    (tmp_path / "setup.py").touch()
    assert extras.install_command(extra) == f"pip install -e '{tmp_path}[{extra}]'"
    monkeypatch.chdir(tmp_path)
    assert shlex.split(extras.install_command(extra)) == ["pip", "install", "-e", f".[{extra}]"]
    assert re.search(
        rf'EXTRAS = {{.*^    "{extra}": ', (PACKAGE.parent / "setup.py").read_text(), re.DOTALL | re.MULTILINE
    )
