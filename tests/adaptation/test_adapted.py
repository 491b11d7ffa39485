"""One config imports, trims, grows and continues a published model, as the steps do one by one."""

import json

import numpy as np
import pytest

import mlm_jax
from mlm_jax import cli
from mlm_jax.adaptation.adapted import adapted
from mlm_jax.adaptation.grow import old_rows
from mlm_jax.checkpoints.checkpoint import describe, load_parameters
from mlm_jax.checkpoints.transplant import row_sources
from mlm_jax.checkpoints.workdir import check_workdir
from mlm_jax.common.bucket import local_workdir
from mlm_jax.common.errors import UserError
from mlm_jax.config import load_config
from mlm_jax.data.bible import _verses
from mlm_jax.data.vocabulary.folder import load_vocabulary
from tests.interop.published import published


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapt")
    published(folder / "theirs", "modernbert")
    for code in ("de", "tl"):
        (folder / f"{code}.txt").write_text("\n".join(verse for _, verse in _verses(code)[:150]), encoding="utf-8")
    corpora = {code: str(folder / f"{code}.txt") for code in ("de", "tl")}
    config = {
        "steps": 2,
        "data": {"corpora": corpora},
        "adapt": {
            "model": str(folder / "theirs"),
            "trim": corpora,
            "grow": {"language": "tl", "pieces": 30},
            "only_new": True,
        },
        "tasks": {"mlm": {"objective": "mlm", "rows": 8, "length": 32, "mask_rate": 0.3}},
        "model": {"lora": {"rank": 2}},
        "optimizer": {"learning_rate": 0.01, "warmup_steps": 0},
        "evaluation": {"rows": 4},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def changed(folder, name, **keys):
    """Write the config with other keys, and return its path."""
    config = json.loads((folder / "config.json").read_text())
    for group, values in keys.items():
        config[group] = {**config.get(group, {}), **values}
    (folder / name).write_text(json.dumps(config))
    return str(folder / name)


def test_one_config_does_what_the_steps_do(folder, capsys):
    run = folder / "run"
    config = changed(folder, "frozen.json", model={"lora": {}})
    assert cli.main(["train", "--config", config, "--workdir", str(run)]) == 0
    said = capsys.readouterr().out
    texts = {code: str(folder / f"{code}.txt") for code in ("de", "tl")}
    trimmed = mlm_jax.trim(folder / "theirs", texts, folder / "small")  # the same by hand
    grown = mlm_jax.grow(
        folder / "small", "tl", texts["tl"], folder / "vocabulary", pieces=30, old_texts={"de": texts["de"]}
    )
    assert grown.new == 30 and trimmed.pieces[1] < trimmed.pieces[0]
    assert all(" ".join(line.split()) in " ".join(said.split()) for line in (*trimmed.lines(), *grown.lines()))
    old, new = (load_vocabulary(folder / name) for name in ("small/vocabulary", "vocabulary"))
    found = describe(run)
    assert found.vocabulary.fingerprint == new.fingerprint and found.languages == ("de", "tl")
    assert found.config.model == describe(folder / "small").config.model and not found.config.adapt.model
    before, after = (np.asarray(load_parameters(name).params["embedding"]) for name in (folder / "small", run))
    for first, behind in old_rows(old, new):  # old rows stay bit for bit, and new ones are trained
        np.testing.assert_array_equal(after[first:behind], before[first:behind])
    sources = row_sources(old, new)
    rows = [index for index in range(new.size) if sources[index] and sources[index] != [index]]
    assert all((after[index] != before[sources[index]].mean(axis=0)).any() for index in rows[:20])

    assert cli.main(["train", "--config", config, "--workdir", str(run)]) == 0  # nothing is left to do
    assert "adapting" not in capsys.readouterr().out
    assert cli.main(["train", "--config", config, "--workdir", str(run), "--set", "adapt.trim={}"]) == 2
    assert "adapted with other settings; adapt.* that differ: trim.de, trim.tl" in capsys.readouterr().err
    check_workdir(
        run, load_config(run / "adapted" / "config.json")
    )  # the config of the adapted model is an ordinary one

    moved = run.rename(folder / "elsewhere").rename(folder / "moved")  # of all these folders, only the last one exists
    (folder / "small").rename(folder / "smaller")
    for place, own in ((moved, moved / "adapted"), (folder / "smaller", folder / "smaller")):
        assert describe(place).config.vocabulary.path == str(own / "vocabulary")
    assert describe(moved).config.checkpoint.init["from"] == str(moved / "adapted" / "model")
    for with_adapt in (str(moved / "config.json"), config):
        assert cli.main(["train", "--config", with_adapt, "--workdir", str(moved), "--set", "steps=3"]) == 0
    said = capsys.readouterr()
    assert "held-out text" not in said.out + said.err and "adapting" not in said.out  # neither is done again
    assert cli.main(["eval", str(moved), "--json"]) == 0 and json.loads(capsys.readouterr().out)["step"] == 3
    assert cli.main(["export-hf", str(moved), "--out", str(folder / "out")]) == 0
    assert json.loads((folder / "out" / "config.json").read_text())["vocab_size"] == new.size
    for name in ("config.json", "adapted/config.json", "checkpoints/3/facts/metadata"):
        assert str(run) not in (moved / name).read_text()


def test_keys_of_the_users_config_are_kept(folder, capsys):
    config = changed(folder, "lora.json", adapt={"trim": {}, "grow": {}, "only_new": False})
    place = str(folder / "prepared")
    assert cli.main(["plan", "--config", config, "--topology", "cpu:1"]) == 2
    assert "known only when it has been adapted" in capsys.readouterr().err
    assert cli.main(["prepare", "--config", config, "--workdir", place]) == 0
    ready = load_config(f"{place}/adapted/config.json")
    theirs = describe(f"{place}/adapted/model")
    assert ready.model.lora["rank"] == 2 and ready.model.width == 32  # theirs is 32, the default is not
    assert ready.vocabulary.size == theirs.vocabulary.size and ready.optimizer.learning_rate == 0.01
    assert ready.data.prefix == "bos" and ready.steps == 2
    assert adapted(load_config(config), place) == ready
    with local_workdir(f"file://{folder}/bucket/run") as local:  # a run adapts in the local copy, which is sent
        model = adapted(load_config(config), local.folder)
    capsys.readouterr()
    (folder / "bucket").rename(folder / "other_bucket")
    with local_workdir(f"file://{folder}/other_bucket/run") as local:
        again = adapted(load_config(config), local.folder)
        assert load_vocabulary(again.vocabulary.path).fingerprint == theirs.vocabulary.fingerprint
    assert again.vocabulary.path != model.vocabulary.path and "adapting" not in capsys.readouterr().out
    (folder / "prepared" / "adapted" / "adapt.json").unlink()
    with pytest.raises(UserError, match="not empty, and was not made for config.adapt"):
        adapted(load_config(config), place)


def test_settings_that_cannot_work(folder):
    for keys, message in (
        ({"adapt": {"model": ""}}, "adapt.trim is set, but adapt.model names no model"),
        ({"adapt": {"grow": {}}}, "there is no adapt.grow"),
        ({"adapt": {"grow": {"language": "sw"}}}, "there is no text of 'sw'"),
        (
            {"adapt": {"grow": {"language": "tl", "start": "lexicon"}}},
            "adapt.grow has only one of the start 'lexicon' and pairs",
        ),
        ({"adapt": {"grow": {"language": "tl", "text": "os:getcwd"}}}, "adapt.grow.text is 'os:getcwd'"),
        ({"adapt": {"trim": {"tl": "os:getcwd"}}}, "adapt.trim.tl is 'os:getcwd'"),
        ({"checkpoint": {"init": {"from": "run"}}}, "checkpoint.init and adapt.model are both set"),
        ({"optimizer": {"freeze_table": [["encoder/.*", True]]}}, "adapt.only_new and optimizer.freeze_table"),
    ):
        file = changed(folder, "wrong.json", **keys)
        with pytest.raises(UserError, match=message.replace(".", r"\.").replace("*", r"\*")):
            load_config(file)
    with pytest.raises(UserError, match="only a run can adapt a model in a workdir in an object store"):
        adapted(load_config(str(folder / "config.json")), "gs://bucket/run")
    with pytest.raises(UserError, match="no folder for the adapted model"):
        adapted(load_config(str(folder / "config.json")), None)
    nowhere = load_config(changed(folder, "wrong.json", adapt={"model": str(folder / "none")}))
    with pytest.raises(UserError, match="there is no checkpoint here"):
        adapted(nowhere, folder / "wrong" / "run")
    assert not (folder / "wrong").exists()  # so that a corrected config may use this workdir
