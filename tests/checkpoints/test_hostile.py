"""Untrusted checkpoints: refused with a one-line error, without writing files or taking much memory."""

import base64
import json
import logging
import os
import shutil
import subprocess
import sys

import pytest
import tensorstore as ts

from mlm_jax.checkpoints import checkpoint
from mlm_jax.checkpoints.checkpoint import find_checkpoint, load_parameters
from mlm_jax.common.errors import UserError
from mlm_jax.common.seal import SEAL, sealed
from tests.checkpoints.helpers import make_config, open_run, save
from tests.checkpoints.test_checkpoint import workdir, written  # noqa: F401
from tests.hostile.limits import limited


def encoded(text):
    return base64.b64encode(text.encode()).decode()


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


def vocabulary(**changes):
    return {
        "vocabulary.json": encoded(json.dumps({"kind": "bytes", "languages": ["en", "de"], "sentinels": 4} | changes))
    }


HOSTILE = {  # {what: {dotted key of the facts: value}}
    "config is a list": {"config": []},
    "config is a text": {"config": "x"},
    "a room of the config is a text": {"config.model": "x"},
    "a width is a text": {"config.model.width": "wide"},
    "a width is a list": {"config.model.width": [1]},
    "a width is below 1": {"config.model.width": -4},
    "steps nested": {"config.steps": nested(900)},
    "a table nested": {"config.optimizer.decay_table": nested(900)},
    "no tasks": {"config.tasks": {}},
    "tasks is a list": {"config.tasks": []},
    "a task is a number": {"config.tasks": {"mlm": 3}},
    "a billion layers": {"config.model.encoder": [{"layers": 10**9, "weights": "shared"}]},
    "layers is a text": {"config.model.encoder": [{"layers": "many", "weights": "shared"}]},
    "a billion layers of the decoder": {"config.model.decoder": [{"layers": 10**9, "weights": "shared"}]},
    "labels is a list": {"labels": ["a"]},
    "labels are numbers": {"labels": {"x": [1, 2]}},
    "languages are numbers": {"languages": [1, 2]},
    "languages is a text": {"languages": "en"},
    "languages is null": {"languages": None},
    "checksums is a list": {"checksums": [1]},
    "vocabulary is a text": {"vocabulary": "x"},
    "vocabulary is no base64": {"vocabulary": {"vocabulary.json": "%%%"}},
    "vocabulary of numbers": {"vocabulary": {"vocabulary.json": 3}},
    "vocabulary without facts": {"vocabulary": {}},
    "vocabulary of another kind": {"vocabulary": vocabulary(kind="pickle")},
    "vocabulary is a list": {"vocabulary": {"vocabulary.json": encoded("[]")}},
    "a vocabulary's languages are numbers": {"vocabulary": vocabulary(languages=[1])},
    "a hundred million sentinels": {"vocabulary": vocabulary(sentinels=10**8)},
    "negative sentinels": {"vocabulary": vocabulary(sentinels=-1)},
    "sentinels is a text": {"vocabulary": vocabulary(sentinels="x")},
    "no model": {"vocabulary": vocabulary(kind="sentencepiece")},
    "a model of rubbish": {"vocabulary": vocabulary(kind="sentencepiece") | {"vocabulary.model": encoded("rubbish")}},
    "a tokenizer of rubbish": {"vocabulary": vocabulary(kind="tokenizers", ids={}) | {"tokenizer.json": encoded("{}")}},
}


def put(facts, key, value):
    *rooms, name = key.split(".")
    for room in rooms:
        facts = facts[room]
    facts[name] = value


@pytest.mark.parametrize("changes", HOSTILE.values(), ids=HOSTILE)
def test_metadata_of_a_checkpoint_is_checked(workdir, changes):  # noqa: F811
    (one,) = [workdir / "checkpoints" / "2"]
    file = one / "facts" / "metadata"
    facts = json.loads(file.read_text())
    for key, value in changes.items():
        put(facts, key, value)
    file.write_text(json.dumps(facts))
    with pytest.raises(UserError) as raised:
        load_parameters(one)
    assert "\n" not in str(raised.value) and str(one) in str(raised.value)


@pytest.fixture(autouse=True)
def within_limits(request):
    if "workdir" not in request.fixturenames:
        yield
        return
    request.getfixturevalue("workdir")
    with limited():
        yield


PLACES = ["facts/metadata", "state/_METADATA", "state/manifest.ocdbt", "state/_sharding"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["fifo", "endless", "loop", "folder", "rubbish", "large"])
def test_files_that_are_not_regular_are_refused(workdir, kind, place):  # noqa: F811
    file = workdir / "checkpoints" / "2" / place
    if not file.exists():
        pytest.skip("this version of Orbax has no such file")
    file.unlink()
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind in ("endless", "loop"):
        file.symlink_to("/dev/zero" if kind == "endless" else file)
    else:
        file.write_bytes(b"\xff{[" * 9)
        os.truncate(file, 10**11 if kind == "large" else 20)  # sparse
    try:
        loaded = load_parameters(workdir / "checkpoints" / "2")
    except UserError as error:
        assert "\n" not in str(error) and str(workdir) in str(error)
    else:  # what is not needed to read the arrays
        assert place == "state/_sharding" and loaded.step == 2


@pytest.mark.parametrize("text", ["", "{", "[" * 200_000, "3", "null", '{"config": 1}', "\x00"])
def test_invalid_facts_are_refused(workdir, text):  # noqa: F811
    (workdir / "checkpoints" / "2" / "facts" / "metadata").write_text(text)
    with pytest.raises(UserError):
        load_parameters(workdir / "checkpoints" / "2")
    assert load_parameters(workdir).step == 1  # the last complete checkpoint


@pytest.mark.parametrize("name", ["../escaped", "sub/escaped", "ABSOLUTE"])
def test_names_in_a_checkpoint_are_not_used_as_paths(workdir, name):  # noqa: F811
    file = workdir / "checkpoints" / "2" / "facts" / "metadata"
    facts = json.loads(file.read_text())
    absolute = workdir / "escaped"
    facts["vocabulary"][str(absolute) if name == "ABSOLUTE" else name] = encoded("written")
    del facts[SEAL]
    file.write_text(json.dumps(sealed(facts)))
    before = sorted(workdir.rglob("*"))
    load_parameters(workdir / "checkpoints" / "2")
    assert sorted(workdir.rglob("*")) == before and not absolute.exists()


def test_arrays_far_larger_than_their_files_take_no_memory(workdir):  # noqa: F811
    step = workdir / "checkpoints" / "2"
    metadata = step / "state" / "array_metadatas"
    assert metadata.is_dir()
    for file in (step / "state").rglob("*"):
        if file.is_file() and b'"write_shape"' in file.read_bytes():
            file.write_bytes(file.read_bytes().replace(b"80", b"80000000000"))
    try:
        loaded = load_parameters(step)
    except UserError:
        return
    assert loaded.params["encoder"]["kernel"].shape == (64, 80)


@pytest.mark.parametrize(
    "text", ["[]", "null", '"x"', "{", "[" * 200_000, '{"eval/loss/mean": "x"}', '{"eval/loss/mean": null}']
)
def test_an_invalid_metric_counts_as_missing(tmp_path, text):
    config = make_config(evaluation__select="eval/loss/mean")
    save(open_run(tmp_path, config), 1, 2, metrics=lambda step: {"eval/loss/mean": float(step)})
    (tmp_path / "checkpoints" / "1" / "metrics" / "metrics").write_text(text)
    assert find_checkpoint(tmp_path).name == "2"
    open_run(tmp_path, config)


def test_a_lost_metric_is_logged(tmp_path, caplog):
    config = make_config(evaluation__select="eval/loss/mean")
    save(open_run(tmp_path, config), 1, 2, metrics=lambda step: {"eval/loss/mean": float(step)})
    assert find_checkpoint(tmp_path).name == "1" and not caplog.text
    (tmp_path / "checkpoints" / "1" / "metrics" / "metrics").unlink()
    assert find_checkpoint(tmp_path).name == "2"
    assert "the metric of checkpoint 1 is missing" in caplog.text


SCRIPT = """
import logging, sys
before = sys.unraisablehook, [logging.getLogger(name).level for name in ("absl", "asyncio")]
import mlm_jax.cli, mlm_jax.run.loop, mlm_jax.inference.translator, mlm_jax.run.sweep, mlm_jax.interop.importing
assert before == (sys.unraisablehook, [logging.getLogger(name).level for name in ("absl", "asyncio")])
"""


def test_importing_changes_nothing_of_others():
    assert subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True).stderr == b""


def test_loggers_of_others_are_as_they_were_after_saving(tmp_path):
    logging.getLogger("absl").setLevel(logging.INFO)
    try:
        hook = sys.unraisablehook
        save(open_run(tmp_path), 1)
        assert logging.getLogger("absl").level == logging.INFO and sys.unraisablehook is hook
    finally:
        logging.getLogger("absl").setLevel(logging.NOTSET)


ARRAYS = {  # {what: what the description of an array says}
    "a shape of many terabytes": {"shape": [10**9, 10**6]},
    "a shape of most of a gigabyte": {"shape": [4_000_000, 60], "chunks": [4_000_000, 60]},
    "chunks of many terabytes": {"chunks": [10**9, 10**6]},
    "chunks of gigabytes": {"chunks": [10**8, 80]},
    "a shape below 0": {"shape": [-1, 80]},
    "a shape of a hundred digits": {"shape": [10**100, 80]},
    "a shape that is 1e400": {"shape": [float("inf"), 80]},
    "a shape that is NaN": {"shape": [float("nan"), 80]},
    "numbers of another type": {"dtype": "<f8"},
    "objects": {"dtype": "|O"},
    "a compressor that there is not": {"compressor": {"id": "pickle"}},
}


@pytest.mark.parametrize("changes", ARRAYS.values(), ids=ARRAYS)
def test_metadata_of_an_array_is_checked(workdir, changes):  # noqa: F811
    step = workdir / "checkpoints" / "2"
    keys = ts.KvStore.open({"driver": "ocdbt", "base": f"file://{step}/state/"}).result()
    name = b"params.encoder.kernel/.zarray"
    described = json.loads(keys.read(name).result().value)
    keys.write(name, json.dumps(described | changes).encode()).result()
    with pytest.raises(UserError) as raised:
        load_parameters(step)
    assert "\n" not in str(raised.value) and str(step) in str(raised.value)


def test_names_of_arrays_cannot_leave_the_folder(workdir):  # noqa: F811
    file = workdir / "checkpoints" / "2" / "state" / "_METADATA"
    text = file.read_text()
    assert '"key": "kernel"' in text
    file.write_text(text.replace('"key": "kernel"', '"key": "../../../../escaped"'))
    before = sorted(workdir.rglob("*"))
    with pytest.raises(UserError):
        load_parameters(workdir / "checkpoints" / "2")
    assert sorted(workdir.rglob("*")) == before and load_parameters(workdir).step == 1


def test_a_checkpoint_that_its_run_removes_while_it_is_read_is_no_error(workdir, monkeypatch, caplog):  # noqa: F811
    step = workdir / "checkpoints" / "2"
    read, hidden = checkpoint.read_arrays, workdir / "hidden"
    (workdir / "checkpoints" / "1").rename(hidden)

    def read_late(folder, abstract):
        if folder == step.resolve():
            shutil.rmtree(step)
            hidden.rename(workdir / "checkpoints" / "3")
        return read(folder, abstract)

    monkeypatch.setattr(checkpoint, "read_arrays", read_late)
    assert load_parameters(workdir).step == 3 and not caplog.text


def test_values_that_take_far_more_memory_than_their_text(workdir):  # noqa: F811
    (workdir / "checkpoints" / "2" / "facts" / "metadata").write_bytes(b'{"config": [' + b"[]," * 12_000_000 + b"1]}")
    with pytest.raises(UserError, match="bytes of memory"):
        load_parameters(workdir / "checkpoints" / "2")
