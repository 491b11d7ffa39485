"""Workdirs in object stores, with fake servers on this machine."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from mlm_jax import cli, load
from mlm_jax.common import bucket
from mlm_jax.common.errors import UserError
from mlm_jax.common.objects import open_keys
from mlm_jax.report.history import read_events
from mlm_jax.run.loop import train
from tests.buckets import amazon, google, names, read
from tests.tiny import tiny_config, write_store

ROOT = Path(__file__).parents[2]
TIMES = ("time", "train/tokens_per_second", "train/seconds_left")


@pytest.fixture(scope="module", params=[google, pytest.param(amazon, marks=pytest.mark.slow)], ids=["gs", "s3"])
def store(request, tmp_path_factory):
    """Yield an address of a bucket that is there while the tests run."""
    with request.param() as (scheme, environment), pytest.MonkeyPatch.context() as patch:
        for name, value in {**environment, "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}.items():
            patch.setenv(name, value)
        yield f"{scheme}://runs"


def command(store_folder, workdir, **settings):
    script = str(Path(__file__).parent / "train_process.py")
    return [sys.executable, script, json.dumps({"store": str(store_folder), "workdir": str(workdir), **settings})]


def run(store_folder, workdir, **settings):
    options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 300}
    return subprocess.run(command(store_folder, workdir, **settings), **options)


def start(commands, homes):
    """Start commands at the same time, each with a home of its own, as on several machines."""
    environments = [{**os.environ, "XDG_CACHE_HOME": str(homes / str(number))} for number in range(len(commands))]
    pipes = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return [subprocess.Popen(one, env=env, **pipes) for one, env in zip(commands, environments)]


def numbers(lines):
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


@pytest.mark.slow
def test_two_machines_that_train_at_one_address_leave_a_whole_run(store, store_folder, tmp_path):
    """The second one is warned, and both come to the same numbers."""
    address = f"{store}/two"
    processes = start([command(store_folder, address, steps=8)] * 2, tmp_path)
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert all("step 8/8" in output for output in outputs)
    assert load(address).step == 8 and "checkpoints/8.whole" in names(address)
    steps = [line["step"] for line in numbers(read(address, "metrics.jsonl").decode().splitlines())]
    assert sorted(set(steps)) == list(range(9)) and steps == sorted(steps)


def run_job(store_folder, workdir, homes, dies, **settings):
    """Run a job of two processes with two devices each, in new homes as on other machines, until one process kills itself.

    Args:
      store_folder: the token store.
      workdir: the workdir.
      homes: a new folder.
      dies: the index of the process that dies.
      settings: of both processes.

    Returns:
      what process 0 printed.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    job = {
        "coordinator": f"127.0.0.1:{port}",
        "processes": 2,
        "devices": 2,
        "silence": 12,
        "heartbeat": 900,
        "kill_after": "/",  # which is there
        **settings,
    }
    commands = [
        command(store_folder, workdir, process=number, **job, kill_at=12 if number == dies else None)
        for number in (0, 1)
    ]
    processes = start(commands, homes)
    try:
        outputs = [process.communicate(timeout=400)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    assert codes[dies] == -signal.SIGKILL and codes[1 - dies] == 1, outputs
    return outputs[0]


@pytest.mark.slow
def test_a_job_of_two_processes_goes_on_after_any_of_them_is_killed(store, tmp_path):
    """A block of a checkpoint is lost as well, and in the end a job of one process goes on."""
    if not store.startswith("gs"):
        pytest.skip("it takes minutes, and the code is the same for every store")
    address, text = f"{store}/job", write_store(f"{store}/text")
    one_task = {"mlm": {"objective": "mlm", "rows": 8, "length": 32}}
    settings = {"steps": 14, "set": {"mesh.fsdp": 4, "tasks": one_task}}

    def whole():
        return sorted(int(name[12:-6]) for name in names(address) if re.fullmatch(r"checkpoints/\d+\.whole", name))

    def logged():
        return {line["step"] for line in numbers(read(address, "metrics.jsonl").decode().splitlines())}

    def printed(output):
        return {int(step) for step in re.findall(r"^step (\d+)/", output, re.MULTILINE)}

    assert printed(run_job(text, address, tmp_path / "first", dies=1, **settings)) <= logged()
    *_, before, last = whole()
    embedding = f"checkpoints/{last}/state/params.embedding"
    blocks = {name for name in names(address) if re.fullmatch(rf"{embedding}/[\d.]+", name)}
    assert len(blocks) == 4  # two of each process
    open_keys(address).write(min(blocks), None).result()
    output = run_job(text, address, tmp_path / "second", dies=0, **settings)
    assert f"checkpoint {last} is damaged" in output and f"continuing from step {before} of 14" in output
    assert printed(output) <= logged() and whole()[-1] >= last
    done = run(text, address, devices=4, **settings)
    assert done.returncode == 0 and f"continuing from step {whole()[0]}" not in done.stdout, done.stderr
    assert whole()[-1] == 14 and "run.lock" not in names(address)
    assert run(text, tmp_path / "unbroken", devices=4, **settings).returncode == 0
    unbroken = numbers((tmp_path / "unbroken/metrics.jsonl").read_text().splitlines())
    found = numbers(read(address, "metrics.jsonl").decode().splitlines())
    assert losses(found) == pytest.approx(losses(unbroken), rel=1e-5)
    ours, theirs = load(address), load(tmp_path / "unbroken")
    for a, b in zip(jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params)):
        np.testing.assert_allclose(a, b, atol=1e-5)


def losses(lines):
    return {(line["step"], key): value for line in lines for key, value in line.items() if "/loss/" in key}


@pytest.fixture(scope="module")
def killed(store, store_folder):
    """Return the address of a run that was killed, and the steps whose log lines it had printed."""
    address = f"{store}/killed"
    done = run(store_folder, address, kill_at=12, steps=14)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return address, {int(step) for step in re.findall(r"^step (\d+)/", done.stdout, re.MULTILINE)}


def test_a_hard_kill_loses_nothing_that_was_logged_and_the_same_command_ends_the_run(killed, store_folder, tmp_path):
    killed, logged = killed
    left = {line["step"] for line in numbers(read(killed, "metrics.jsonl").decode().splitlines())}
    assert logged and logged <= left and "checkpoints/2.whole" in names(killed)
    again = run(store_folder, killed, steps=14)
    assert again.returncode == 0, again.stderr
    assert "continuing from step" in again.stdout and f"report: {killed}/report.html" in again.stdout
    assert {"metrics.jsonl", "report.html", "config.json", "goodput.json", "provenance.jsonl"} < names(killed)
    assert f"{socket.gethostname()} uses this workdir and has not ended" in again.stderr and "run.lock" not in names(
        killed
    )
    assert "checkpoints/14.whole" in names(killed) and any(name.startswith("tensorboard/") for name in names(killed))
    assert any(name.startswith("compiled/") for name in names(killed))
    assert run(store_folder, tmp_path / "unbroken", steps=14).returncode == 0
    unbroken = (tmp_path / "unbroken/metrics.jsonl").read_text().splitlines()
    assert numbers(read(killed, "metrics.jsonl").decode().splitlines()) == numbers(unbroken)
    ours, theirs = load(killed), load(tmp_path / "unbroken")
    for a, b in zip(jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params)):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def store_folder(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "store")


@pytest.fixture(scope="module")
def trained(store, store_folder, tmp_path_factory):
    """Return the address of a run that has ended, with a token store in the bucket."""
    address = f"{store}/trained"
    write_store(f"{address}/store")
    config = tiny_config("", 4)
    config.data.store = f"{address}/store"
    config.checkpoint.every, config.checkpoint.keep_last = 1, 2
    assert train(config, address) == f"{address}/report.html"
    return address


def test_checkpoints_that_are_removed_here_are_removed_there(trained):
    there = {name.split("/")[1] for name in names(trained) if name.startswith("checkpoints/")}
    assert there == {"3", "4", "3.whole", "4.whole"}


def test_a_checkpoint_that_is_removed_here_while_it_is_sent_arrives_whole(store):
    address, parts = f"{store}/overtaken", {"checkpoints/1/metrics", "checkpoints/1/state/d/array"}
    with bucket.local_workdir(address) as copy:
        for name in parts:
            (copy.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (copy.folder / name).write_text(name)
        removed = threading.Event()
        copy.sender.submit(removed.wait)  # the network is slow
        copy.push()
        shutil.rmtree(copy.folder / "checkpoints/1")
        removed.set()
        copy.settle()
        assert names(address) == parts | {"checkpoints/1.whole", "run.lock"}
        assert all(read(address, name).decode() == name for name in parts)
    assert names(address) == set()


def test_a_checkpoint_that_the_run_is_removing_is_not_sent(store, monkeypatch):
    address = f"{store}/half"
    with bucket.local_workdir(address) as copy:
        for name in ("metrics", "array"):
            (copy.folder / "checkpoints/1").mkdir(parents=True, exist_ok=True)
            (copy.folder / "checkpoints/1" / name).write_text(name)
        link = os.link

        def link_late(source, target):
            (copy.folder / "checkpoints/1/metrics").unlink(missing_ok=True)
            link(source, target)

        monkeypatch.setattr(os, "link", link_late)
        copy.push()
        copy.settle()
        assert names(address) == {"run.lock"}
        monkeypatch.undo()
        shutil.rmtree(copy.folder / "checkpoints/1")


class Job:
    """A process of a job whose messages are in a set that all its processes share."""

    def __init__(self, index, told):
        self.index, self.told = index, told

    def tell(self, message):
        self.told.add((message, self.index))

    def have_told(self, message):
        return {(message, 0), (message, 1)} <= self.told


def test_a_checkpoint_of_several_processes_is_whole_when_all_have_sent_their_blocks(store, tmp_path):
    address, checkpoint, told = f"{store}/blocks", "checkpoints/1", set()
    copies = [bucket.Copy(tmp_path / str(n) / "run", address, works=True, job=Job(n, told)) for n in (0, 1)]
    for number, copy in enumerate(copies):
        (copy.folder / checkpoint / "state").mkdir(parents=True)
        (copy.folder / checkpoint / f"state/{number}").write_text("block")
        (copy.folder / checkpoint / "facts").write_text(f"facts of process {number}")
        (copy.folder / "metrics.jsonl").write_text(f"metrics of process {number}")
    copies[0].push()
    assert not copies[0].sending.done()  # it waits for the other process
    assert names(address) <= {"metrics.jsonl", f"{checkpoint}/state/0", f"{checkpoint}/facts"}
    for copy in reversed(copies):
        copy.deliver()
    blocks = {f"{checkpoint}/state/0", f"{checkpoint}/state/1"}
    assert names(address) == {"metrics.jsonl", f"{checkpoint}.whole", f"{checkpoint}/facts", *blocks}
    assert read(address, "metrics.jsonl") == b"metrics of process 0"
    assert read(address, f"{checkpoint}/facts") == b"facts of process 0"
    (copies[0].folder / checkpoint / "metrics").write_text("of an evaluation")  # no blocks, so nobody is waited for
    copies[0].deliver()
    assert read(address, f"{checkpoint}/metrics") == b"of an evaluation"
    (copies[0].folder / "checkpoints/2/state").mkdir(parents=True)
    (copies[0].folder / "checkpoints/2/state/0").write_text("block")
    copies[0].has_failed.set()
    copies[0].end()  # the other process may have failed, too: it is not waited for
    assert "checkpoints/2.whole" not in names(address) and "checkpoints/2/state/0" in names(address)
    shutil.rmtree(copies[1].folder / checkpoint)
    copies[1].deliver()  # only process 0 removes what is gone
    assert f"{checkpoint}.whole" in names(address)


def test_verbs_read_what_is_in_a_bucket(trained, capsys):
    for marker in ("", "checkpoints/", "checkpoints/4/", "held_out_rows/"):  # of folders, as a console writes them
        open_keys(trained).write(marker, b"").result()
    assert cli.main(["eval", trained]) == 0
    assert "loss" in capsys.readouterr().out
    assert cli.main(["eval", f"{trained}/checkpoints/3"]) == 0
    capsys.readouterr()
    before = read(trained, "report.html")
    open_keys(trained).write("report.html", b"").result()
    assert cli.main(["report", trained]) == 0
    assert capsys.readouterr().out.strip() == f"{trained}/report.html"
    assert len(read(trained, "report.html")) == len(before)
    assert cli.main(["compare", trained, trained]) == 2
    capsys.readouterr()


def test_a_checkpoint_that_is_not_whole_is_passed_over_and_removed_by_the_next_start(trained):
    keys = open_keys(trained)
    for name in [name for name in names(trained) if name.startswith("checkpoints/4/")]:
        keys.write(name.replace("/4/", "/9/"), read(trained, name)).result()
    assert load(trained).step == 4  # and not 9
    config = tiny_config("", 5)
    config.data.store = f"{trained}/store"
    config.checkpoint.every, config.checkpoint.keep_last = 1, 2
    train(config, trained)
    assert not any(name.startswith("checkpoints/9") for name in names(trained))
    assert load(trained).step == 5


def test_the_local_copies_are_gone_after_a_run(trained):
    assert not list((Path(os.environ["XDG_CACHE_HOME"]) / "mlm_jax/work").glob("*/*"))


def test_two_runs_of_one_machine_at_an_address_are_refused(trained):
    with bucket.local_workdir(f"{trained}/other"), pytest.raises(UserError, match="is writing here"):
        train(tiny_config("nowhere"), f"{trained}/other")


@pytest.mark.parametrize("name", ["../escaped", "a/../../escaped", "/escaped"])
def test_objects_with_names_that_would_leave_the_copy_are_refused(store, name, tmp_path):
    if not store.startswith("gs"):
        pytest.skip("such names do not reach an S3 store: the client resolves them")
    address = f"{store}/hostile"
    keys = open_keys(address)
    keys.write(name, b"!").result()
    try:
        with pytest.raises(UserError, match="is not the name of a file"):
            bucket.local_path(address)
    finally:
        keys.write(name, None).result()


def test_a_bucket_that_is_not_there_is_said_to_be_so_at_once(store):
    with pytest.raises(UserError, match=r"cannot (read|write) this address: .*Remedy: check the address"):
        train(tiny_config("nowhere"), f"{store.replace('runs', 'nowhere')}/run")


def test_a_token_store_in_the_bucket_is_prepared_there(store, tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    for language in ("en", "de"):
        (folder / f"{language}.txt").write_text("\n\n".join(f"{language} line {i}" for i in range(300)))
    config = tmp_path / "config.py"
    config.write_text(
        "from mlm_jax.config import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        f"    config.data.corpora = {{'en': '{folder}/en.txt', 'de': '{folder}/de.txt'}}\n"
        "    config.vocabulary.kind = 'bytes'\n"
        "    config.tasks = {'mlm': {'objective': 'mlm', 'rows': 8, 'length': 32}}\n"
        "    return config\n"
    )
    assert cli.main(["prepare", "--config", str(config), "--workdir", f"{store}/prepared"]) == 0
    assert "store/manifest.json" in names(f"{store}/prepared")


def test_what_cannot_be_written_to_a_bucket_makes_no_local_folder_of_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    from mlm_jax.common.files import append_to, whole_folder, write_whole

    for place in ("gs://runs/x", Path("gs://runs/x"), "s3://runs/x"):
        with pytest.raises(UserError, match="address of an object store"):
            write_whole(place, "")
        with pytest.raises(UserError, match="address of an object store"):
            append_to(place)
        with pytest.raises(UserError, match="address of an object store"), whole_folder(place):
            pass
    assert cli.main(["sweep", "--config", str(ROOT / "configs/sweeps/alpha.py"), "--workdir", "gs://runs/x"]) == 2
    assert "the workdir of a sweep cannot be an address" in capsys.readouterr().err
    for verb, options in {
        "grow": ["runs/x", "--language", "sw", "--text", "x.txt", "--out"],
        "trim": ["runs/x", "--text", "sw=x.txt", "--out"],
        "export-hf": ["runs/x", "--out"],
        "embed": ["runs/x", "--output"],
        "compare": ["runs/x", "runs/y", "--output"],
    }.items():
        assert cli.main([verb, *options, "gs://runs/x"]) == 2
        assert "gs://runs/x: this is an address of an object store; only" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_files_at_addresses_are_refused_and_leave_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = "gs://runs/x.txt"
    for verb, *options in (
        ("embed", "run", "--input", given),
        ("classify", "run", "--input", given),
        ("translate", "run", "--to", "de", "--input", given),
        ("align", "run", given, "b.txt"),
        ("mine", "run", "a.txt", given),
        ("mine", "run", "a.txt", "b.txt", "--gold", given),
        ("import-hf", given, "--out", "published"),
        ("train", "--workdir", "run", "--config", given),
        ("train", "--workdir", "run", "--config", "gs://runs/config.json"),
    ):
        assert cli.main([verb, *options]) == 2
        assert ": this is an address; only a run's workdir" in capsys.readouterr().err, verb
    demo = ["train", "--config", str(ROOT / "configs/demo.py")]
    for address, problem in {
        "https://runs/x": "a workdir cannot be at an address of this kind",
        "gs://runs/x/..": "an address cannot contain '.' or '..'",
        "s3://runs/./x": "an address cannot contain '.' or '..'",
    }.items():
        assert cli.main([*demo, "--workdir", address]) == 2
        assert f"{address}: {problem}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture
def silent_store(monkeypatch, tmp_path):
    """An object store that takes connections and never answers."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield "gs://runs/silent"


def test_a_bucket_that_does_not_answer_is_said_to_be_so(silent_store, monkeypatch):
    monkeypatch.setattr(bucket, "ANSWER", 0.2)
    with pytest.raises(UserError, match=r"gs://runs/silent: cannot read this address: no answer within 0.2 s. Remedy"):
        train(tiny_config("nowhere"), silent_store)


def test_a_signal_before_the_bucket_has_answered_ends_the_run_as_others_do(silent_store, capsys):
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(SystemExit) as stopped:
        train(tiny_config("nowhere"), silent_store)
    assert stopped.value.code == 75
    assert "stopped by a signal before the first step; the same command continues" in capsys.readouterr().out


def test_events_of_a_copy_are_read_as_those_of_a_folder(trained):
    folder = bucket.local_path(trained)
    assert [event["step"] for event in read_events(folder)] and bucket.original(folder) == trained
    shutil.rmtree(folder)
