"""A config file is imported once, under one name, from wherever it is named."""

import importlib
import sys

import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.config import import_config, load_config

BODY = "from mlm_jax.config import default_config\n\ndef get_config():\n    return default_config()\n"


@pytest.fixture(autouse=True)
def modules_and_path(monkeypatch):
    """What a test adds is gone after it."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = {*sys.modules}
    yield
    for name in {*sys.modules} - before:
        del sys.modules[name]


def test_a_dataclass_with_postponed_annotations_works(tmp_path):
    file = tmp_path / "with_dataclass.py"
    file.write_text(
        "from __future__ import annotations\nimport dataclasses\nfrom typing import ClassVar\n"
        "from mlm_jax.config import default_config\n"
        "@dataclasses.dataclass\nclass Size:\n    width: int = 64\n    kind: ClassVar[str] = 'small'\n"
        "def get_config():\n    c = default_config()\n    c.model.update(width=Size().width, heads=4)\n    return c\n"
    )
    assert load_config(file).model.width == 64


def test_a_file_is_loaded_once_and_again_if_it_has_changed(tmp_path):
    file = tmp_path / "counted.py"
    file.write_text("import builtins\nbuiltins.loads = getattr(builtins, 'loads', 0) + 1\n" + BODY)
    import builtins

    module = import_config(file)
    load_config(file)
    assert import_config(tmp_path / "." / "counted.py") is module is importlib.import_module("counted")
    assert builtins.loads == 1  # type: ignore[attr-defined]
    file.write_text(file.read_text() + "CHANGED = True\n")
    assert import_config(file).CHANGED and importlib.import_module("counted").CHANGED
    del builtins.loads  # type: ignore[attr-defined]


def test_a_file_of_a_package_has_its_package_s_name_from_anywhere(tmp_path, monkeypatch):
    package = tmp_path / "my_configs"
    (package / "more").mkdir(parents=True)
    for folder in (package, package / "more"):
        (folder / "__init__.py").touch()
    (package / "base.py").write_text(BODY + "def texts(language, split):\n    yield 'a'\n")
    (package / "more" / "wide.py").write_text("from my_configs.base import get_config, texts\nfrom .. import base\n")
    monkeypatch.chdir(tmp_path / "my_configs" / "more")
    wide = import_config("wide.py")
    assert wide.__name__ == "my_configs.more.wide"
    assert wide.base is import_config("../base.py") is importlib.import_module("my_configs.base")
    with pytest.raises(ImportError):
        importlib.import_module("base")


def test_a_neighbour_without_its_package_s_name_is_an_error_that_gives_it(tmp_path):
    package = tmp_path / "some_configs"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "near.py").write_text(BODY)
    (package / "mine.py").write_text("from near import get_config\n")
    with pytest.raises(
        UserError, match=r"mine.py:1: No module named 'near'. Remedy: write from some_configs.near import"
    ):
        import_config(package / "mine.py")


def test_two_files_of_the_same_name_do_not_mix(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "twin.py").write_text(BODY + f"NAME = {name!r}\n")
    assert [import_config(tmp_path / name / "twin.py").NAME for name in ("a", "b", "a")] == ["a", "b", "a"]
    (tmp_path / "a" / "neighbour.py").write_text("import twin\n")
    assert import_config(tmp_path / "a" / "neighbour.py").twin.NAME == "a"


def test_a_file_may_have_the_name_of_a_library_s_module(tmp_path):
    file = tmp_path / "json.py"
    file.write_text(BODY)
    import json

    load_config(file)
    assert importlib.import_module("json") is json


def test_a_package_of_another_s_name_is_refused(tmp_path):
    package = tmp_path / "email"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "mine.py").write_text(BODY)
    with pytest.raises(UserError, match="another package is called 'email'.* Remedy: rename the folder"):
        import_config(package / "mine.py")


def test_a_file_that_fails_leaves_no_module(tmp_path):
    file = tmp_path / "half.py"
    file.write_text("x = 1\nraise ValueError('no')\n")
    with pytest.raises(UserError, match=r"half.py:2: no"):
        import_config(file)
    assert "half" not in sys.modules
    file.write_text(BODY)
    load_config(file)
