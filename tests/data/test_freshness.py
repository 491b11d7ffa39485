"""Whether a store fits the config, and the protection of a store that a run was trained on."""

import json
import os
import re

import pytest

from mlm_jax.cli import main
from mlm_jax.common.seal import unsealed
from mlm_jax.config import load_config
from mlm_jax.data.store.freshness import is_fresh, request, why_stale
from mlm_jax.data.store.prepare import prepare

CONFIG = """from mlm_jax.config import default_config

def get_config():
    config = default_config()
    config.data.corpora = {"en": "FOLDER/en*.txt"}
    config.vocabulary.kind = "bytes"
    return config
"""


@pytest.fixture
def run(tmp_path):
    """A config, and the workdir of a run with a store and a checkpoint."""
    (tmp_path / "en.txt").write_text("the word was light\n" * 30)
    (tmp_path / "config.py").write_text(CONFIG.replace("FOLDER", str(tmp_path)))
    workdir = tmp_path / "run"
    prepare(load_config(tmp_path / "config.py"), workdir / "store", progress=False)
    (workdir / "checkpoints" / "12").mkdir(parents=True)
    return tmp_path / "config.py", workdir


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("verb", ["train", "prepare", "inspect"])
def test_text_that_changes_under_a_run_leaves_its_store_alone(run, verb, capsys):
    config, workdir = run
    before, text = contents(workdir), config.with_name("en.txt")
    text.write_text("another text\n")
    assert main([verb, "--config", str(config), "--workdir", str(workdir)]) == 2
    said = capsys.readouterr().err
    problem = "the text that this run was trained on has changed (570 bytes then, 13 bytes now)"
    assert said.startswith(f"mlm-jax: error: {text}: {problem}. Remedy: ")
    assert said.count("\n") == 1 and "Remedy: restore it, or use a new workdir, with checkpoint.init" in said
    assert contents(workdir) == before
    (workdir / "checkpoints" / "12").rmdir()
    if verb == "prepare":
        assert main([verb, "--config", str(config), "--workdir", str(workdir)]) == 0
        assert contents(workdir) != before


@pytest.mark.parametrize(
    "change, said",
    [
        (
            lambda folder: os.utime(folder / "en.txt", (1, 1)),
            "en.txt: .*same size, 570 bytes, but another modif.*delete .*store",
        ),
        (
            lambda folder: (folder / "en2.txt").write_text("more"),
            "en2.txt: .*it is new.*Remedy: remove it, or use a new workdir",
        ),
        (lambda folder: (folder / "en.txt").rename(folder / "en3.txt"), "en.txt: .*it is gone; 1 more"),
    ],
)
def test_what_has_changed_is_named(run, change, said, capsys):
    config, workdir = run
    change(config.parent)
    assert main(["prepare", "--config", str(config), "--workdir", str(workdir)]) == 2
    assert re.search(said, capsys.readouterr().err)


def test_a_store_of_another_config_names_the_keys(run, capsys):
    config, workdir = run
    command = ["prepare", "--config", str(config), "--workdir", str(workdir)]
    assert main([*command, "--set", "data.max_document_tokens=9"]) == 2
    assert "these keys differ: data.max_document_tokens." in capsys.readouterr().err


def test_a_store_without_a_run_is_made_anew_and_the_reason_is_said(run, capsys):
    config, workdir = run
    (workdir / "checkpoints" / "12").rmdir()
    config.with_name("en.txt").write_text("another text\n" * 30)
    command = ["prepare", "--config", str(config), "--workdir", str(workdir)]
    assert main([*command, "--set", "data.max_document_tokens=9"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "is made again: data.max_document_tokens differs, " in said and "has changed" in said


def test_a_store_of_changed_code_is_stale(tmp_path, monkeypatch, capsys):
    module = f"text_of_{tmp_path.name}".replace("-", "_")
    monkeypatch.syspath_prepend(tmp_path)
    code = "def text(language, split): return [{0!r}] * 30\n"
    (tmp_path / f"{module}.py").write_text(code.format("the word was light"))
    (tmp_path / "config.py").write_text(CONFIG.replace('"FOLDER/en*.txt"', repr(f"{module}:text")))
    config, store = load_config(tmp_path / "config.py"), tmp_path / "run" / "store"
    prepare(config, store, progress=False)
    assert is_fresh(config, store) and why_stale(config, store) == ""

    manifest = unsealed(json.loads((store / "manifest.json").read_text()))
    request = manifest["facts"]["request"]
    older = request | {"sources": [source[:1] for source in request["sources"]]}
    del older["code"]
    (store / "manifest.json").write_text(json.dumps(manifest | {"facts": manifest["facts"] | {"request": older}}))
    assert is_fresh(config, store)  # a store of a version that did not record code
    (store / "manifest.json").write_text(json.dumps(manifest))

    (tmp_path / f"{module}.py").rename(tmp_path / "elsewhere")
    assert is_fresh(config, store)  # on a machine that lacks the module
    (tmp_path / f"{module}.py").write_text(code.format("another text"))
    assert not is_fresh(config, store) and f"the code of {module}:text has changed" in why_stale(config, store)
    (tmp_path / "run" / "checkpoints" / "12").mkdir(parents=True)
    assert main(["prepare", "--config", str(tmp_path / "config.py"), "--workdir", str(tmp_path / "run")]) == 2
    assert (
        f"the code that yields this run's text has changed: {module}:text. Remedy: restore it"
        in capsys.readouterr().err
    )


def test_a_store_of_a_changed_data_set_is_stale(run, tmp_path, monkeypatch):
    """Not on a machine that lacks the data set, nor if an older version recorded its name only."""
    config, workdir = run
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    config.write_text(
        config.read_text().replace("def get_config", "def before")
        + """
def get_config():
    config = before()
    config.data.corpora = {"en": "tfds:lines"}
    return config
"""
    )
    asked, file = load_config(config), workdir / "store" / "manifest.json"
    manifest = unsealed(json.loads(file.read_text()))

    def prepared(request):
        file.write_text(json.dumps(manifest | {"facts": manifest["facts"] | {"request": request}}))

    prepared(request(asked))
    data = tmp_path / "tfds" / "lines" / "1.0.0" / "train"
    data.parent.mkdir(parents=True)
    data.write_text("a")
    assert is_fresh(asked, workdir / "store")  # its name only is known
    prepared(request(asked))
    data.write_text("ab")
    assert why_stale(asked, workdir / "store") == f"{data} has changed"
    data.unlink()
    assert is_fresh(asked, workdir / "store")


def test_a_store_from_before_a_key_goes_on_and_says_what_it_lacks(run, capsys):
    config, workdir = run
    file = workdir / "store" / "manifest.json"
    manifest = unsealed(json.loads(file.read_text()))
    older = manifest["facts"]["request"]
    older["data"] = {key: older["data"][key] for key in ("corpora", "parallel", "labelled", "validation", "prefix")}
    older["data"] |= {"validation_fraction": 0.01, "mixture": "", "mixture_languages": {}, "modules": []}
    older["data"]["max_document_tokens"] = 8192
    file.write_text(json.dumps(manifest))
    before, command = contents(workdir), ["prepare", "--config", str(config), "--workdir", str(workdir)]
    assert main(command) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "is up to date" in said and "was prepared before data.decontaminate existed" in said
    assert main([*command, "--set", "data.decontaminate=False"]) == 0  # this is how it was made
    assert "data.decontaminate" not in capsys.readouterr().err
    assert contents(workdir) == before
    assert not is_fresh(load_config(config), workdir / "store", or_older=False)  # as a shard, which others build on


def test_code_that_a_users_module_imports_makes_a_store_stale_too(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / f"of_{tmp_path.name}".replace("-", "_")
    (package / "parts").mkdir(parents=True)
    code = {
        "__init__.py": "",
        "text.py": "import json\nfrom . import clean\ndef text(language, split): return clean.lines()\n",
        "clean.py": "from .parts.words import word\ndef lines(): return [word()] * 30\n",
        "parts/__init__.py": "",
        "parts/words.py": "def word(): return 'light'\n",
        "other.py": "",
    }
    for name, lines in code.items():
        (package / name).write_text(lines)
    (tmp_path / "config.py").write_text(CONFIG.replace('"FOLDER/en*.txt"', repr(f"{package.name}.text:text")))
    config, store = load_config(tmp_path / "config.py"), tmp_path / "store"
    prepare(config, store, progress=False)
    (package / "other.py").write_text("nothing imports it = 1")
    assert is_fresh(config, store)
    (package / "parts" / "words.py").write_text("def word(): return 'dark'\n")
    assert not is_fresh(config, store) and f"the code of {package.name}.text:text has changed" in why_stale(
        config, store
    )
    (package / "parts" / "words.py").write_text(code["parts/words.py"])
    assert is_fresh(config, store)

    manifest = unsealed(json.loads((store / "manifest.json").read_text()))
    request = manifest["facts"]["request"]
    request["sources"] = [source[:2] for source in request["sources"]]
    (store / "manifest.json").write_text(json.dumps(manifest))
    (package / "parts" / "words.py").write_text("def word(): return 'dark'\n")
    assert is_fresh(config, store)  # a store of a version that looked at the module's own file only


def test_a_config_may_name_a_store_and_no_data(run, tmp_path, capsys):
    _, workdir = run
    file = tmp_path / "store_only.py"
    file.write_text(CONFIG.replace("config.data.corpora = ", f"config.data.store = {str(workdir / 'store')!r}  # "))
    assert main(["prepare", "--config", str(file)]) == 0
    assert "is up to date" in capsys.readouterr().err
    assert main(["prepare", "--config", str(file), "--set", f"data.store={tmp_path / 'other'}"]) == 2
    assert "the config names no data" in capsys.readouterr().err
