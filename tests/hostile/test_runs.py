"""Untrusted files of a run: store, metrics.jsonl, report.json and config.json. Hostile ones are refused with a one-line error."""

import base64
import hashlib
import json
import os
import shutil

import pytest

from mlm_jax import cli
from mlm_jax.common.errors import UserError
from mlm_jax.common.seal import SEAL, sealed
from mlm_jax.config import default_config, load_config
from mlm_jax.data.store.prepare import prepare
from mlm_jax.data.store.store import Store
from mlm_jax.report import comparison_page
from mlm_jax.report.comparison import compare_workdirs
from tests.hostile.limits import limited, refused, refused_after_progress
from tests.report.helpers import write_run

DEEP = "[" * 200_000
HUGE = 10**400
CONFIG = """from mlm_jax.config import default_config

def get_config():
    config = default_config()
    config.data.store = STORE
    return config
"""


def at(*path, value):
    """Return a change of JSON: the value at a path, from which a function makes another one, or which is taken away."""

    def change(content):
        *parents, last = path
        for step in parents:
            content = content[step if step != "*" else next(iter(content))]
        last = last if last != "*" else next(iter(content))
        if value is DELETED:
            del content[last]
        else:
            content[last] = value
        return None

    return change


DELETED = object()

# ----------------------------------------------------------------------------------------------------------- stores


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    (folder / "de.txt").write_text("ein Fluss\nein Stein\n" * 30)
    (folder / "genre.tsv").write_text("ein Fluss\tyes\nein Stein\tno\n" * 9)
    config = default_config()
    config.data.corpora = {"de": str(folder / "de.txt")}
    config.data.labelled = {"genre": {"format": "tsv", "language": "de", "train": str(folder / "genre.tsv")}}
    config.vocabulary.kind = "bytes"
    prepare(config, folder / "store", progress=False)
    return folder / "store"


TRAIN = ("streams", "de", "splits", "train")
MANIFESTS = {
    "deep": DEEP,
    "list": "[]",
    "text": '"store"',
    "null": "null",
    "not json": "{",
    "not utf-8": b"\xff\xfe{}",
    "empty": "",
    "another format": at("format", value=99),
    "format of 400 digits": at("format", value=HUGE),
    "no format": at("format", value=DELETED),
    "no streams": at("streams", value=DELETED),
    "streams are a list": at("streams", value=[]),
    "streams are numbers": at("streams", "de", value=3),
    "no languages": at("languages", value=DELETED),
    "languages are numbers": at("languages", value=[1, 2]),
    "languages are a number": at("languages", value=7),
    "a stream of no known kind": at("streams", "de", "kind", value="txt"),
    "a stream of another language": at("streams", "de", "languages", value=["xx"]),
    "a stream without languages": at("streams", "de", "languages", value=[]),
    "a stream without splits": at("streams", "de", "splits", value=DELETED),
    "a split without counts": at(*TRAIN, "documents", value=DELETED),
    "documents are a text": at(*TRAIN, "documents", value="9"),
    "documents are negative": at(*TRAIN, "documents", value=-1),
    "documents are many": at(*TRAIN, "documents", value=10**15),
    "documents of 400 digits": at(*TRAIN, "documents", value=HUGE),
    "documents are no whole number": at(*TRAIN, "documents", value=1.5),
    "values are many": at(*TRAIN, "features", "inputs", "values", value=10**15),
    "values are a text": at(*TRAIN, "features", "inputs", "values", value="9"),
    "the longest is a text": at(*TRAIN, "features", "inputs", "longest", value="9"),
    "a feature that there is not": at(*TRAIN, "features", value={"../../x": {"values": 1}}),
    "features are a list": at(*TRAIN, "features", value=[]),
    "labels are numbers": at("streams", "genre", "labels", value=[1, 2]),
    "labels are a number": at("streams", "genre", "labels", value=3),
    "a rate that is a text": at("streams", "de", "rate", value="much"),
    "no vocabulary": at("vocabulary", value=DELETED),
    "another vocabulary": at("vocabulary", "fingerprint", value="0"),
    "padding is a text": at("vocabulary", "pad_id", value="0"),
    "padding is huge": at("vocabulary", "pad_id", value=HUGE),
    "counts of what was left out are a list": at("facts", "skipped", value=[1]),
    "facts are a list": at("facts", value=[]),
}
VOCABULARIES = {
    "deep": DEEP,
    "list": "[]",
    "empty": "",
    "no kind": "{}",
    "another kind": '{"kind": "pickle"}',
    "sentinels by the billion": '{"kind": "bytes", "languages": ["de"], "sentinels": 1000000000000}',
    "languages are numbers": '{"kind": "bytes", "languages": [1], "sentinels": 100}',
}


def change_json(file, change):
    if callable(change):
        content = json.loads(file.read_text())
        change(content)
        change = json.dumps(content)
    file.write_bytes(change if isinstance(change, bytes) else change.encode())


def inspect(tmp_path, capfd, store):
    (tmp_path / "config.py").write_text(CONFIG.replace("STORE", repr(str(store))))
    return refused_after_progress(capfd, "inspect", "--config", tmp_path / "config.py")


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_hostile_manifest_is_refused(store, tmp_path, capfd, name):
    shutil.copytree(store, tmp_path / "store")
    change_json(tmp_path / "store" / "manifest.json", MANIFESTS[name])
    assert "store" in inspect(tmp_path, capfd, tmp_path / "store")


@pytest.mark.parametrize("name", VOCABULARIES)
def test_a_hostile_vocabulary_is_refused(store, tmp_path, capfd, name):
    shutil.copytree(store, tmp_path / "store")
    change_json(tmp_path / "store" / "vocabulary" / "vocabulary.json", VOCABULARIES[name])
    assert "vocabulary" in inspect(tmp_path, capfd, tmp_path / "store")


# ------------------------------------------------------------------------------------------ metrics.jsonl, report.json

METRICS = {
    "deep": DEEP + "\n",
    "list": "[1]\n",
    "null": "null\n",
    "no step": '{"train/loss/de": 1}\n',
    "a step that is a text": '{"step": "1", "a": 1}\n',
    "a step that is NaN": '{"step": NaN, "a": 1}\n',
    "a step without end": '{"step": Infinity, "a": 1}\n',
    "a step below 0": '{"step": -1, "a": 1}\n',
    "a step of 400 digits": f'{{"step": {HUGE}, "a": 1}}\n',
    "a step that is true": '{"step": true, "a": 1}\n',
    "numbers of 5,000 digits": '{"step": 1, "a": ' + "1" * 5000 + "}\n",
    "not utf-8": b'{"step": 1, "\xff": 1}\n',
    "nothing but texts": '{"step": 1, "train/loss/de": "3"}\n',
    "only a number of 400 digits": f'{{"step": 1, "train/loss/de": {HUGE}}}\n',
    "a line of 20 MB": '{"step": 1, "a": "' + "x" * 20_000_000 + '"}\n',
    "nothing": "",
    "NUL": b"\0" * 100 + b"\n",
    "half a character": '{"step": 1, "eval/loss/\\ud800": 1}\n',
    "too many metrics": "{" + ", ".join(f'"a{n}": 1' for n in range(300_000)) + ', "step": 1}\n',
}
ROWS = "held_out_rows/500.jsonl"  # of the last evaluation


def rows(key, units):
    """A line of the values from which a metric is computed."""
    eight, four = (base64.b64encode(bytes(size * units)).decode() for size in (8, 4))
    return json.dumps({"key": key, "units": eight, "first": four, "second": four}) + "\n"


BESIDE = {  # {name: (file, content)} of small files that a report shows as well
    "seconds nested deep": ("goodput.json", DEEP),
    "seconds that are a list": ("goodput.json", "[1]"),
    "seconds that are texts": ("goodput.json", '{"step": "x"}'),
    "seconds that are NaN": ("goodput.json", '{"step": NaN}'),
    "seconds without end": ("goodput.json", '{"step": 1e400}'),
    "seconds that are not utf-8": ("goodput.json", b"\xff"),
    "starts nested deep": ("provenance.jsonl", DEEP + "\n"),
    "starts nested less deep": ("provenance.jsonl", '{"command": ' + "[" * 900 + "]" * 900 + "}\n"),
    "starts that are lists": ("provenance.jsonl", "[1]\n"),
    "starts that are not utf-8": ("provenance.jsonl", b"\xff\n"),
    "starts with half a character": ("provenance.jsonl", '{"step": 1, "command": "\\udfff"}\n'),
    "starts of 20 MB": ("provenance.jsonl", b"x" * 20_000_000),
    "rows of 20 MB": (ROWS, b"x" * 20_000_000),
    "rows of nine million lists": (ROWS, '{"key": [' + "[]," * 9_000_000 + "0]}"),
    "rows that are lists": (ROWS, "[1]\n"),
    "rows of 100,000 metrics": (ROWS, "".join(rows(f"eval/loss/{number}", 1) for number in range(100_000))),
    "rows with half a character": (ROWS, rows("eval/loss/\ud800", 1)),
    "rows of a metric without a language": (ROWS, rows("loss", 1)),
    "rows of another length": (ROWS, '{"key": "eval/loss/de", "units": "AAAAAAAAAAA=", "first": "", "second": ""}\n'),
}
REPORTS = {
    "deep": DEEP,
    "list": "[]",
    "null": "null",
    "empty": "",
    "not utf-8": b"\xff",
    "20 MB": '{"languages": ["de"], "title": "' + "x" * 20_000_000 + '"}',
    "half a character": '{"languages": ["de"], "title": "\\ud800"}',
    "no languages": at("languages", value=DELETED),
    "languages are a text": at("languages", value="de"),
    "languages are numbers": at("languages", value=[1, 2]),
    "languages are lists": at("languages", value=[["de"]]),
    "a title that is a list": at("title", value=["a"]),
    "facts are a number": at("facts", value=3),
    "facts are objects": at("facts", value=[{}]),
    "a config that is a list": at("config", value=[]),
    "a table of texts": at("table", value=[{"language": "de", "loss": "3.1"}]),
    "a table that is an object": at("table", value={}),
    "a table of numbers of 400 digits": at("table", value=[{"language": "de", "tokens": HUGE}]),
    "a matrix of texts": at("retrieval", "scores", "*", value=[["a"]]),
    "a matrix that is not square": at("retrieval", "scores", "*", value=[[1, 2]]),
    "a matrix that is a number": at("retrieval", "scores", "*", value=1),
    "phases that are a number": at("phases", value=3),
    "phases that are texts": at("phases", value=[["0", "9", "warm-up"]]),
    "a map without points": at("map", "raw", "points", value=[]),
    "a map of texts": at("map", "raw", "points", "*", value=[["x", "y"]]),
    "a map that is a list": at("map", value=[]),
    "samples that are a list": at("samples", value=[]),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    folder.mkdir()
    write_run(folder, languages=("de", "en"), steps=500)
    (folder / "config.json").write_text(json.dumps(default_config().to_dict(), default=list))
    return folder


@pytest.mark.parametrize("name", METRICS)
def test_hostile_metrics_are_refused(run, tmp_path, capfd, name):
    shutil.copytree(run, tmp_path / "run")
    change_json(tmp_path / "run" / "metrics.jsonl", METRICS[name])
    shutil.copytree(run, tmp_path / "other")
    for arguments in (["run"], ["other", "--beside", tmp_path / "run"]):
        assert "metrics.jsonl" in refused(capfd, "report", tmp_path / arguments[0], *arguments[1:])
    assert not [*tmp_path.glob("*/report.html")]


@pytest.mark.parametrize("name", REPORTS)
def test_a_hostile_report_is_refused(run, tmp_path, capfd, name):
    shutil.copytree(run, tmp_path / "run")
    change_json(tmp_path / "run" / "report.json", REPORTS[name])
    assert "report.json" in refused(capfd, "report", tmp_path / "run")
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("name", BESIDE)
def test_hostile_files_beside_the_metrics_are_refused(run, tmp_path, capfd, name):
    shutil.copytree(run, tmp_path / "run")
    file, content = BESIDE[name]
    (tmp_path / "run" / file).parent.mkdir(exist_ok=True)
    change_json(tmp_path / "run" / file, content)
    assert str(tmp_path / "run" / file) in refused(capfd, "report", tmp_path / "run")
    assert not (tmp_path / "run" / "report.html").exists()


def test_metrics_of_any_size_take_little_memory(run, tmp_path):
    """Half a million numbers, of which a report draws some thousand."""
    for name in ("one", "other"):
        shutil.copytree(run, tmp_path / name)
        (tmp_path / name / "config.json").write_text(
            json.dumps(default_config().to_dict() | {"seed": len(name)}, default=list)
        )
    values = ", ".join(f'"train/loss/l{n}": 1.5' for n in range(20))
    with (tmp_path / "one" / "metrics.jsonl").open("a") as file:
        for start in range(1000, 26_000, 1000):
            file.writelines(
                f'{{"step": {step}, "eval/loss/de": {step}.5, {values}}}\n' for step in range(start, start + 1000)
            )
    with limited(kilobytes=100_000):
        assert cli.main(["report", str(tmp_path / "one")]) == 0
        page = str(tmp_path / "page.html")
        assert cli.main(["compare", str(tmp_path / "one"), str(tmp_path / "other"), "--output", page]) == 0
    assert (tmp_path / "one" / "report.html").stat().st_size < 2_000_000


def test_correlations_of_many_examples_take_little_memory(run, tmp_path):
    """1,000 resamples of 20,000 pairs are 160 MB for each of some ten arrays."""
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / ROWS).parent.mkdir(exist_ok=True)
    (tmp_path / "run" / ROWS).write_text(rows("eval/sts/pearson/de", 20_000))
    with limited(kilobytes=150_000):
        assert cli.main(["report", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("name", ["metrics.jsonl", "report.json", "goodput.json", "provenance.jsonl"])
def test_a_fifo_or_a_folder_in_place_of_a_file_is_refused(run, tmp_path, capfd, name):
    for make in (os.mkfifo, os.mkdir):
        shutil.copytree(run, tmp_path / make.__name__)
        (tmp_path / make.__name__ / name).unlink(missing_ok=True)
        make(tmp_path / make.__name__ / name)
        assert name in refused(capfd, "report", tmp_path / make.__name__)


# ------------------------------------------------------------------------------------------- comparisons and sweeps

COMPARED = {  # config.json of the second of two runs
    "deep": DEEP,
    "list": "[]",
    "not utf-8": b"\xff",
    "half a character": '{"languages": ["\\ud800"]}',
    "patience that is a text": at("evaluation", "patience", value="long"),
    "a metric that is a number": at("evaluation", "select", value=3),
    "a group that is a list": at("evaluation", value=[]),
    "steps that are a list": at("steps", value=[1]),
}
SWEPT = {  # comparison.json of a sweep
    "deep": DEEP,
    "object": "{}",
    "numbers": "[1]",
    "no name": '[{"state": "failed"}]',
    "a name that is a list": '[{"name": ["seed=1"]}]',
    "a state that is a number": '[{"name": "seed=1", "state": 3}]',
    "metrics that are a list": '[{"name": "seed=1", "metrics": [1]}]',
    "metrics that are texts": '[{"name": "seed=1", "metrics": {"eval/loss/mean": "3"}}]',
    "a metric of 400 digits": f'[{{"name": "seed=1", "metrics": {{"eval/loss/mean": {HUGE}}}}}]',
    "a metric's name that is a list": '[{"name": "seed=1", "select": ["x"]}]',
    "20 MB": '[{"name": "' + "x" * 20_000_000 + '"}]',
}
PROPOSED = {  # proposals.json of a search
    "deep": DEEP,
    "object": "{}",
    "numbers": "[1]",
    "lists of keys": '[["seed", "optimizer.learning_rate"]]',
    "other keys": '[{"steps": 1}]',
    "a value that is not proposed": '[{"seed": 99, "optimizer.learning_rate": 0.1}]',
    "a value that is an object": '[{"seed": {"a": 1}, "optimizer.learning_rate": 0.1}]',
    "a number that is a text": '[{"seed": 1, "optimizer.learning_rate": "x"}]',
    "a number that is NaN": '[{"seed": 1, "optimizer.learning_rate": NaN}]',
    "not utf-8": b"\xff",
}
SEARCH = """from mlm_jax.config import default_config
from mlm_jax.run.sweep import Range, optuna_search

def get_config():
    return default_config()

def sweep():
    return SWEEP
"""


@pytest.mark.parametrize("name", COMPARED)
def test_a_hostile_config_of_a_compared_run_is_refused(run, tmp_path, capfd, name):
    for other in ("one", "two"):
        shutil.copytree(run, tmp_path / other)
    change_json(tmp_path / "two" / "config.json", COMPARED[name])
    page = tmp_path / "page.html"
    assert "config.json" in refused(capfd, "compare", tmp_path / "one", tmp_path / "two", "--output", page)
    assert not page.exists()


def swept(tmp_path, trials, file, content, *options):
    (tmp_path / "sweep").mkdir()
    change_json(tmp_path / "sweep" / file, content)
    (tmp_path / "config.py").write_text(SEARCH.replace("SWEEP", trials))
    return ["sweep", "--config", tmp_path / "config.py", "--workdir", tmp_path / "sweep", "--dry-run", *options]


@pytest.mark.parametrize("name", SWEPT)
def test_hostile_results_of_a_sweep_are_refused(tmp_path, capfd, name):
    early = ("--stop", "median", "--set", "evaluation.every=5")
    command = swept(tmp_path, "[{'seed': 1}, {'seed': 2}]", "comparison.json", SWEPT[name], *early)
    assert "comparison.json" in refused_after_progress(capfd, *command)
    assert [file.name for file in (tmp_path / "sweep").iterdir()] == ["comparison.json"]


@pytest.mark.parametrize("name", PROPOSED)
def test_hostile_proposals_of_a_search_are_refused(tmp_path, capfd, name):
    pytest.importorskip("optuna")
    search = "optuna_search({'seed': [1, 2], 'optimizer.learning_rate': Range(1e-4, 1e-2)}, trials=2)"
    assert "proposals.json" in refused_after_progress(capfd, *swept(tmp_path, search, "proposals.json", PROPOSED[name]))
    assert [file.name for file in (tmp_path / "sweep").iterdir()] == ["proposals.json"]


def test_a_link_to_a_report_is_a_path_whatever_its_folders_are_called(run, tmp_path):
    """Such as javascript:…, or with a sign that an address reads in another way."""
    for other in ("javascript:alert(1)", "50 %#?"):
        shutil.copytree(run, tmp_path / other)
        (tmp_path / other / "report.html").touch()
    runs = comparison_page.page_of(compare_workdirs([*tmp_path.iterdir()]), "title", tmp_path)["runs"]
    assert sorted(one["report"] for one in runs) == [
        "50%20%25%23%3F/report.html",
        "javascript%3Aalert%281%29/report.html",
    ]


# -------------------------------------------------------------------------------------------------- configs as data

CONFIGS = {
    "deep": DEEP,
    "list": "[]",
    "text": '"steps"',
    "null": "null",
    "not json": "{steps: 1}",
    "empty": "",
    "not utf-8": b"\xff\xfe",
    "20 MB": '{"seed": "' + "x" * 20_000_000 + '"}',
    "an unknown key": '{"stpes": 1}',
    "an unknown key in a group": '{"model": {"widht": 1}}',
    "a group that is a list": '{"model": []}',
    "a group that is a number": '{"data": 3}',
    "a number that is a text": '{"steps": "many"}',
    "a number that is a list": '{"model": {"width": [1]}}',
    "a number of 400 digits": f'{{"model": {{"width": {HUGE}}}}}',
    "a number that is NaN": '{"optimizer": {"learning_rate": NaN}}',
    "a number without end": '{"optimizer": {"learning_rate": Infinity}}',
    "a number below 0": '{"steps": -1}',
    "null for a number": '{"steps": null}',
    "tasks that are a list": '{"tasks": ["mlm"]}',
    "a task that is a number": '{"tasks": {"mlm": 3}}',
    "a task nested deep": '{"tasks": {"mlm": ' + '{"a":' * 500 + "1" + "}" * 500 + "}}",
    "languages that are numbers": '{"languages": [1, 2]}',
    "a function": '{"data": {"corpora": {"de": "os:popen"}}}',
    "a function of pairs": '{"data": {"parallel": {"de-en": "subprocess:call"}}}',
    "a function of labels": '{"data": {"labelled": {"x": {"format": "function", "language": "de", "train": "os:system"}}}}',
    "a function for held-out text": '{"data": {"validation": {"de": "os:popen"}}}',
    "a data set library": '{"data": {"corpora": {"de": "tfds:huggingface:x/y"}}}',
    "modules": '{"data": {"modules": ["antigravity"]}}',
    "a mixture": '{"data": {"mixture": "mine", "modules": ["mine"]}}',
    "sources that are numbers": '{"data": {"corpora": {"de": 3}}}',
    "corpora that are a list": '{"data": {"corpora": ["de.txt"]}}',
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_hostile_config_is_refused_and_runs_nothing(tmp_path, capfd, name):
    file = tmp_path / "config.json"
    file.write_bytes(CONFIGS[name] if isinstance(CONFIGS[name], bytes) else CONFIGS[name].encode())
    assert "config.json" in refused(capfd, "prepare", "--config", file, "--workdir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_workdirs_own_config_is_taken_as_it_is(tmp_path):
    config = default_config()
    config.data.corpora = {"de": ("a/*.txt", "b.txt"), "en": "mlm_jax.data.bible:text"}
    config.model.encoder = ({"layers": 2, "weights": "shared"},)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict(), default=list))
    assert load_config(tmp_path / "config.json").to_dict() == config.to_dict()
    assert load_config(tmp_path / "config.json", ("seed=7",)).seed == 7


# ------------------------------------------------------------------------------------------------------ arrays of a store


def description(**changes):
    """Change what an array says of itself, and the checksum of that."""

    def change(folder, array):
        file = array / "zarr.json"
        found = json.loads(file.read_text())
        for path, value in changes.items():
            at(*path.split("__"), value=value)(found)
        file.write_text(json.dumps(found))

    return change


def blocks_of(block, in_file=1):
    """Blocks of so many values, and files of so many blocks."""

    def change(folder, array):
        file = array / "zarr.json"
        found = json.loads(file.read_text())
        found["shape"] = [1, block]
        found["chunk_grid"]["configuration"]["chunk_shape"] = [in_file, block]
        found["codecs"][0]["configuration"]["chunk_shape"] = [1, block]
        file.write_text(json.dumps(found))

    return change


def instead(make):
    def change(folder, array):
        file = next(file for file in (array / "c").rglob("*") if file.is_file())
        file.unlink()
        make(file)

    return change


def sparse(name):
    def change(folder, array):
        with (folder / name if name.startswith("held") else array / name).open("wb") as file:
            file.truncate(10**11)

    return change


ARRAYS = {
    "a block of a trillion": blocks_of(10**12),
    "a block of a billion": blocks_of(10**9),
    "a file of a trillion blocks": blocks_of(2048, in_file=10**12),
    "a trillion rows": description(shape=[10**12, 2048]),
    "a shape of three sizes": description(shape=[1, 2048, 1]),
    "a shape below 0": description(shape=[-1, 2048]),
    "a shape that is 1e400": description(shape=[float("inf"), 2048]),
    "a shape that is NaN": description(shape=[float("nan"), 2048]),
    "a shape of a hundred digits": description(shape=[10**100, 2048]),
    "numbers of another type": description(data_type="float64"),
    "codecs that there are not": description(codecs=[{"name": "pickle"}]),
    "a description nested deep": lambda folder, array: (array / "zarr.json").write_text(DEEP),
    "a description with no end": sparse("zarr.json"),
    "a file that is a pipe": instead(os.mkfifo),
    "a file that is a device without end": instead(lambda file: file.symlink_to("/dev/zero")),
    "a file that is a folder": instead(os.mkdir),
    "hashes with no end": sparse("held_out"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_hostile_arrays_of_a_store_are_refused(store, tmp_path, name):
    folder = tmp_path / "store"
    shutil.copytree(store, folder)
    ARRAYS[name](folder, folder / "de" / "train" / "inputs" / "values")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest[SEAL]
    described = folder / "de" / "train" / "inputs" / "values" / "zarr.json"
    if described.stat().st_size < 10**6:
        manifest["arrays"]["de/train/inputs/values"] = hashlib.sha256(described.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(sealed(manifest)))
    with limited(), pytest.raises(UserError) as raised:
        opened = Store.open(folder)
        split = opened.stream("de").split("train")["inputs"]
        split.documents(range(5))
        split.read()
        assert opened.held_out
    assert "\n" not in str(raised.value) and str(folder) in str(raised.value)
