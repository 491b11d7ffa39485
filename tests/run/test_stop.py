"""Signals to a run: when they come, where it runs, and with which exit code it ends."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest

from mlm_jax.common.errors import UNFINISHED
from mlm_jax.common.signals import AGAIN, COMPILER
from mlm_jax.run.stop import Stopped, StopSignal
from tests.processes import descendants, is_alive, wait_for
from tests.run.test_resume import run

ROOT = Path(__file__).parents[2]
COMMAND = """
import sys
sys.argv[0] = "mlm-jax"
from mlm_jax import cli
sys.exit(cli.main())
"""
CONFIG = """
from mlm_jax.config import default_config
def slow(language, split):
    import time
    yield "held-out text"
    while split == "train":
        time.sleep(0.1)
        yield "text"
def get_config():
    config = default_config()
    config.data.corpora = {"en": "my_config:slow"}
    config.vocabulary.kind, config.data.workers = "bytes", 2
    config.tasks = {"mlm": {"objective": "mlm", "rows": 8, "length": 32}}
    return config
"""


SLOW = pytest.mark.slow
IN_A_CALLBACK = """
import gc, os, signal, sys, time
from mlm_jax import cli

def callback(phase, facts):
    gc.callbacks.remove(callback)
    os.kill(os.getpid(), signal.NUMBER)
    for _ in range(1000):  # the handler raises here, and Python ignores the exception
        pass

def run(options):
    gc.callbacks.append(callback)
    gc.collect()
    time.sleep(30)

cli.verb_module("config").run = run
sys.argv = ["mlm-jax", "config"]
sys.exit(cli.main())
"""


@pytest.mark.parametrize("name, code", [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_that_comes_inside_a_callback_is_not_lost(name, code):
    command = [sys.executable, "-c", IN_A_CALLBACK.replace("NUMBER", name)]
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, timeout=20)
    assert ended.returncode == code and b"Traceback" not in ended.stderr


COMPILE = """
def compile(done):
    signal.raise_signal(signal.SIGTERM)
    time.sleep(4 * AGAIN)
    done.append("compiled")
"""


def test_a_signal_while_xla_compiles_waits_for_it():
    assert jax._src.compiler.__file__.endswith(COMPILER)
    names, done = {"signal": signal, "time": time, "AGAIN": AGAIN}, []
    exec(compile(COMPILE, f"/{COMPILER}", "exec"), names)
    with pytest.raises(Stopped), StopSignal():
        names["compile"](done)
        time.sleep(10)
    assert done == ["compiled"]


def test_a_run_stops_if_a_signal_comes_inside_a_callback():
    def callback(phase, facts):
        gc.callbacks.remove(callback)
        signal.raise_signal(signal.SIGTERM)

    before = sys.unraisablehook
    with pytest.raises(Stopped), StopSignal():
        gc.callbacks.append(callback)
        gc.collect()
        time.sleep(10)
    assert sys.unraisablehook is before


@pytest.mark.parametrize(
    "verb, number",
    [
        ("train", signal.SIGHUP),
        pytest.param("train", signal.SIGTERM, marks=SLOW),
        pytest.param("train", signal.SIGINT, marks=SLOW),
        ("prepare", signal.SIGTERM),
        pytest.param("prepare", signal.SIGHUP, marks=SLOW),
        pytest.param("prepare", signal.SIGINT, marks=SLOW),
    ],
)
def test_a_signal_before_the_steps_ends_a_verb_and_its_helpers_at_once(tmp_path, verb, number):
    (tmp_path / "my_config.py").write_text(CONFIG)
    command = [verb, "--config", str(tmp_path / "my_config.py"), "--workdir", str(tmp_path / "run")]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{ROOT}:{tmp_path}", "GLIBC_TUNABLES": "x=1"}
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for(
            lambda: (
                list(tmp_path.glob("run/.store.*.incomplete/store.shards/*.incomplete")) or process.poll() is not None
            ),
            120,
        )
        family = descendants(process.pid)
        assert family, process.communicate()[0]
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        printed, _ = process.communicate(timeout=60)
        assert "Traceback" not in printed
    finally:
        if process.poll() is None:  # the test has failed; its text would never end
            os.killpg(process.pid, signal.SIGKILL)
    if verb == "train":
        assert process.returncode == UNFINISHED, printed
        assert "stopped by a signal before the first step; the same command continues" in printed
    else:
        assert process.returncode == 128 + number, printed
    wait_for(lambda: not any(map(is_alive, family)))
    assert not [file for file in tmp_path.rglob("*") if file.name.endswith((".incomplete", ".lock"))]


WAITS = """
import pathlib, time
pathlib.Path(__file__).with_name("began").touch()
time.sleep(60)
"""


@pytest.mark.parametrize(
    "verb, number", [("train", signal.SIGTERM), ("sweep", signal.SIGHUP), ("train", signal.SIGINT)]
)
def test_a_signal_before_a_run_can_handle_it_says_that_the_run_is_unfinished(tmp_path, verb, number):
    (tmp_path / "my_config.py").write_text(WAITS)
    command = [verb, "--config", str(tmp_path / "my_config.py"), "--workdir", str(tmp_path / "run")]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "GLIBC_TUNABLES": "x=1"}
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, *command], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for((tmp_path / "began").exists, 60)
        process.send_signal(number)
        said = process.stderr.read()
    assert process.returncode == UNFINISHED
    assert said.splitlines()[-1] == "mlm-jax: stopped by a signal; the same command continues" and "Trace" not in said


def test_a_run_that_is_done_ends_with_0_and_a_second_start_too(store_folder, tmp_path):
    common = {"store": str(store_folder), "workdir": str(tmp_path), "steps": 3}
    code, output = run(**common, hang_up_at=1)
    assert code == UNFINISHED and "stopped by a signal after step" in output, output
    for _ in range(2):
        code, output = run(**common)
        assert code == 0, output


def test_training_off_the_main_thread_takes_no_signals():
    before, found = signal.getsignal(signal.SIGTERM), []

    def enter():
        with StopSignal() as stop:
            stop.begin_steps(0)
            stop.check()
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(10)
    assert found == [before]


def test_a_hangup_is_ignored_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
            assert not stop.received
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_before_the_steps_a_signal_raises_and_later_it_is_noted():
    with StopSignal() as stop:
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        assert stop.received and stop.step is None
    with StopSignal() as stop:
        stop.begin_steps(7)
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.01)
        with pytest.raises(Stopped):
            stop.check()
        assert stop.step == 7
