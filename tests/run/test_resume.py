"""An interrupted run gives the same results as an uninterrupted one."""

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mlm_jax.run.steps import is_due, logged_evaluation

SCRIPT = Path(__file__).parent / "train_process.py"
ROOT = Path(__file__).parents[2]


def start(**settings):
    # A run may stop at any step, and is evaluated there.
    settings["set"] = {"evaluation.every": 1, "evaluation.select": "eval/loss/mean"} | settings.get("set", {})
    # If an earlier run has compiled the same programs, they are read.
    cache = {
        "JAX_COMPILATION_CACHE_DIR": f"{settings['store']}.compiled",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [sys.executable, SCRIPT, json.dumps(settings)],
        cwd=ROOT,
        text=True,
        env=os.environ | cache,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


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
    code, output = run(**common, stop_evaluation=3)
    assert code == 75 and "stopped by a signal after step 3" in output, output
    assert {step for step, key in losses(tmp_path) if key.startswith("eval/")} == {0, 1, 2}  # the third was cut short
    code, output = run(**common, kill_at=5)
    assert code == -signal.SIGKILL and "continuing from step 3 of 6" in output, output
    code, output = run(**common, stop_at=5)
    assert code == 75 and "stopped by a signal" in output, output
    assert (6, "train/loss/mean") not in losses(tmp_path)
    stopped = re.search(r"stopped by a signal after step (\d+)", output)[1]
    code, output = run(**common, set={"checkpoint.keep_last": 9})
    assert code == 0, output
    assert losses(tmp_path) == uninterrupted
    assert run(**common, set={"checkpoint.keep_last": 9})[0] == 0  # all steps are done: nothing is logged again
    events = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    keys = [(event["step"], key) for event in events for key in event if key not in ("step", "time")]
    assert len(keys) == len(set(keys))
    assert not [file for file in tmp_path.rglob("*") if file.name.endswith((".incomplete", ".lock", ".old"))]
    measured = json.loads((tmp_path / "checkpoints" / stopped / "metrics" / "metrics").read_text())
    assert measured["eval/loss/mean"] == uninterrupted[int(stopped), "eval/loss/mean"]  # so that it may be the best


def test_work_is_due_before_the_first_step_every_so_many_and_after_the_last():
    assert [done for done in range(11) if is_due(done, 4, 10)] == [0, 4, 8, 10]
    assert [done for done in range(3) if is_due(done, 99, 2)] == [0, 2]


def test_evaluations_of_an_earlier_start_are_read_from_the_metrics(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "eval/loss/de": null}\n{"step": 4, "train/loss/de": 1}\n')
    assert [*map(len, (logged_evaluation(tmp_path, step) for step in range(1, 5)))] == [0, 1, 0, 0]
    assert math.isnan(logged_evaluation(tmp_path, 2)["eval/loss/de"])


@pytest.mark.slow
def test_processes_whose_devices_share_rows_read_the_same_ones(store_folder, tmp_path, uninterrupted):
    mesh = {"mesh.data": 1, "mesh.fsdp": 1, "mesh.tensor": 1, "mesh.sequence": 4}
    codes, outputs = run_job(2, store=str(store_folder), workdir=str(tmp_path), devices=2, set=mesh)
    assert codes == [0, 0], outputs
    found = losses(tmp_path)
    assert found.keys() == uninterrupted.keys()
    for key, value in uninterrupted.items():
        assert found[key] == pytest.approx(value, rel=1e-5), key


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


def run_job(processes, **settings):
    """Run a job of several processes on this machine; return their exit codes and what they printed, in order of index."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    one_dies = settings.pop("one_dies", {})  # settings of the last process only
    job = [
        start(
            coordinator=f"127.0.0.1:{port}",
            processes=processes,
            process=index,
            heartbeat=900,
            **settings,
            **(one_dies if index == processes - 1 else {}),
        )
        for index in range(processes)
    ]
    try:
        outputs = [process.communicate(timeout=400)[0] for process in job]
    finally:
        for process in job:
            process.kill()
    return [process.returncode for process in job], outputs


@pytest.mark.slow
def test_a_killed_process_ends_the_job_and_half_as_many_continue_it(store_folder, tmp_path, uninterrupted):
    common = {"store": str(store_folder), "workdir": str(tmp_path)}
    dies = {"kill_at": 5, "kill_after": str(tmp_path / "checkpoints" / "4")}
    # JAX's heartbeat is so slow here that only our own check can end the job.
    codes, outputs = run_job(4, **common, silence=12, one_dies=dies)
    assert codes == [1, 1, 1, -signal.SIGKILL], outputs
    for output in outputs[:3]:
        assert "mlm-jax: error: process 3 of 4 died: not heard of for 12 s. Remedy: start the job again" in output, (
            output
        )
    assert (6, "train/loss/mean") not in losses(tmp_path)

    codes, outputs = run_job(2, **common, devices=2)
    assert codes == [0, 0], outputs
    # From the checkpoint, not from the start.
    assert "step 5/6" in outputs[0] and "step 4/6" not in outputs[0], outputs[0]
    assert "step" not in outputs[1]  # only process 0 prints
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
