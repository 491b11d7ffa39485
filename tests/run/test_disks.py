"""Disks that are full, read-only or gone, and clocks that jump: a run ends with a one-line error, or continues."""

import itertools
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.data.loading.loader import Loader
from mlm_jax.run.loop import train
from tests.report.helpers import write_run
from tests.tiny import tiny_config

ROOT = Path(__file__).parents[2]
UNFINISHED_FILES = (".incomplete", ".lock", ".old", ".orbax-checkpoint-tmp")


def values(workdir):
    events = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [((event["step"], key), event[key]) for event in events for key in event if "/loss/" in key]


def left(workdir):
    return [file.name for file in workdir.rglob("*") if file.name.endswith(UNFINISHED_FILES)]


@pytest.fixture(scope="module")
def whole(store_folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    train(tiny_config(store_folder), workdir)
    return values(workdir)


@pytest.mark.parametrize(
    "most_bytes",  # of the first file that is too large: a log line, TensorBoard's file, a part of a checkpoint
    [pytest.param(700, marks=pytest.mark.slow), pytest.param(5_000, marks=pytest.mark.slow), 20_000],
)
def test_a_disk_that_fills_while_a_run_trains_is_a_line_and_the_same_command_goes_on(
    config, tmp_path, whole, most_bytes
):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    shutil.copytree(config.data.store, tmp_path / "store")
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))  # the nearest thing to a full disk that needs no root
    try:
        with pytest.raises(UserError, match="the disk is full") as raised:
            train(config, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(raised.value) and not left(tmp_path)
    train(config, tmp_path)
    assert values(tmp_path) == whole


def test_a_workdir_that_is_deleted_under_a_run_is_a_line(config, tmp_path, monkeypatch):
    read, workdir = Loader.batch, tmp_path / "run"

    def batch(self, step):
        if step == 3:
            workdir.rename(tmp_path / "moved")
        return read(self, step)

    monkeypatch.setattr(Loader, "batch", batch)
    with pytest.raises(UserError, match="this folder is gone. Remedy: bring it back") as raised:
        train(config, workdir)
    assert "\n" not in str(raised.value) and not workdir.exists()


@pytest.mark.parametrize("jump", [pytest.param(31_536_000, marks=pytest.mark.slow), -31_536_000])
def test_a_clock_that_jumps_changes_no_number(config, tmp_path, whole, monkeypatch, jump):
    clock, read, offset = time.time, Loader.batch, [0]

    def batch(self, step):
        offset[0] = jump * (step >= 3)
        return read(self, step)

    monkeypatch.setattr(time, "time", lambda: clock() + offset[0])
    monkeypatch.setattr(Loader, "batch", batch)
    train(config, tmp_path)
    offset[0] = 0
    train(config, tmp_path)  # all steps are done: files of the future, or of long ago, are taken as they are
    assert values(tmp_path) == whole and not left(tmp_path)
    speeds = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(event.get("train/seconds_left", 0) >= 0 for event in speeds)


def test_a_clock_that_jumps_at_each_look_ends_the_run_in_a_line_and_the_same_command_goes_on(
    config, tmp_path, whole, monkeypatch
):
    clock, offset = time.time, itertools.count(0, 3600)
    monkeypatch.setattr(time, "time", lambda: clock() + next(offset))  # by which Orbax measures how long it waits
    with pytest.raises(UserError, match="or the clock has jumped; earlier checkpoints are complete") as raised:
        train(config, tmp_path)
    monkeypatch.undo()
    assert "\n" not in str(raised.value) and not left(tmp_path)
    train(config, tmp_path)
    assert values(tmp_path) == whole


READ_ONLY = """
import subprocess, sys
from mlm_jax import cli
folder = sys.argv[1]
subprocess.run(["mount", "--bind", folder, folder], check=True)
subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
for verb in (["train", "--config", sys.argv[2]], ["prepare", "--config", sys.argv[2]], ["report"]):
    place = [folder + "/run"] if verb == ["report"] else ["--workdir", folder + "/new"]
    print(verb[0], cli.main([*verb, *place]), flush=True)
"""


def test_a_read_only_disk_is_a_line(tmp_path):
    unshare = ["unshare", "--mount", "--map-root-user"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a mount of his own")
    disk = tmp_path / "disk"
    (disk / "run").mkdir(parents=True)
    write_run(disk / "run", languages=("de", "en"), steps=20, sentences=8)
    (tmp_path / "en.txt").write_text("a text\n" * 30)
    (tmp_path / "my_config.py").write_text(
        "from tests.tiny import tiny_config\n"
        "def get_config():\n"
        "    config = tiny_config('')\n"
        f"    config.data.corpora, config.vocabulary.kind = {{'en': '{tmp_path}/en.txt'}}, 'bytes'\n"
        "    config.tasks = {'mlm': config.tasks['mlm']}\n"
        "    return config\n"
    )
    before = sorted(disk.rglob("*"))
    done = subprocess.run(
        [*unshare, sys.executable, "-c", READ_ONLY, str(disk), str(tmp_path / "my_config.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == ["train 2", "prepare 2", "report 2"], done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("mlm-jax: error: ")]
    assert len(errors) == 3 and all("the disk is read-only. Remedy: name a folder on another disk" in e for e in errors)
    assert "Traceback" not in done.stderr and sorted(disk.rglob("*")) == before
