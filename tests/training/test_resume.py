"""A run that was interrupted tells the same story as one that was not."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "train_process.py"
ROOT = Path(__file__).parents[2]


def start(**settings):
    return subprocess.Popen([sys.executable, SCRIPT, json.dumps(settings)], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip


def run(**settings):
    process = start(**settings)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def losses(workdir):
    events = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {(event["step"], key): value for event in events for key, value in event.items() if "/loss/" in key}


@pytest.fixture(scope="module")
def uninterrupted(store_folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    code, output = run(store=str(store_folder), workdir=str(workdir))
    assert code == 0, output
    return losses(workdir)


def test_killed_and_stopped_runs_continue_bit_for_bit(store_folder, tmp_path, uninterrupted):
    common = {"store": str(store_folder), "workdir": str(tmp_path)}
    code, output = run(**common, kill_at=5)
    assert code == -signal.SIGKILL, output
    code, output = run(**common, stop_at=5)
    assert code == 0 and "stopped by a signal" in output, output
    assert (6, "train/loss/mean") not in losses(tmp_path)
    code, output = run(**common)
    assert code == 0, output
    assert losses(tmp_path) == uninterrupted


@pytest.mark.slow
def test_fewer_devices_give_the_same_losses(store_folder, tmp_path, uninterrupted):
    common = {"store": str(store_folder), "workdir": str(tmp_path)}
    assert run(**common, devices=8, kill_at=5)[0] == -signal.SIGKILL
    code, output = run(**common, devices=4)
    assert code == 0, output
    found = losses(tmp_path)
    assert found.keys() == uninterrupted.keys()
    for key, value in uninterrupted.items():
        assert found[key] == pytest.approx(value, rel=1e-5), key


@pytest.mark.slow
def test_two_processes_of_two_devices_give_the_same_losses(store_folder, tmp_path, uninterrupted):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = [start(store=str(store_folder), workdir=str(tmp_path), devices=2, coordinator=f"127.0.0.1:{port}", processes=2, process=i)
           for i in range(2)]  # fmt: skip
    outputs = [process.communicate(timeout=400)[0] for process in job]
    assert [process.returncode for process in job] == [0, 0], outputs
    found = losses(tmp_path)
    assert found.keys() == uninterrupted.keys()
    for key, value in uninterrupted.items():
        assert found[key] == pytest.approx(value, rel=1e-5), key


def test_another_config_is_refused_before_anything_is_touched(store_folder, tmp_path):
    common = {"store": str(store_folder), "workdir": str(tmp_path), "steps": 1, "set": {"optimizer.decay_steps": 0}}
    (tmp_path / "config.json").write_text('{"seed": 7}')
    code, output = run(**common)
    assert code == 2 and "belongs to another config" in output and "seed" in output, output
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json"]
