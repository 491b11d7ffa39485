"""A process that dies or fails ends the others with a line that names it."""

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.parallel import peers
from mlm_jax.parallel.peers import Peers

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the exit, see quick


class Service:
    """The coordination service's key-value store, in this process."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key, value, allow_overwrite):
        assert allow_overwrite
        self.values[key] = value

    def key_value_dir_get(self, folder):
        return [(key, value) for key, value in self.values.items() if key.startswith(folder + "/")]


class Gone:
    """What the service looks like when process 0 is gone."""

    def key_value_set(self, key, value, allow_overwrite):
        raise jax.errors.JaxRuntimeError("UNAVAILABLE: Socket closed")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Exit from the thread only, and fast."""
    codes = []

    def leave(code):
        codes.append(code)
        raise SystemExit(code)

    monkeypatch.setattr(peers.os, "_exit", leave)
    monkeypatch.setattr(peers, "PULSE_SECONDS", 0.02)
    monkeypatch.setattr(peers, "SILENCE_SECONDS", 0.4)
    return codes


def test_everyone_learns_who_is_silent(quick, capfd):
    service = Service()
    job = [Peers(service, index, 3) for index in range(3)]
    for peer in job[:2]:  # process 2 never gives a sign
        peer.start()
    for peer in job[:2]:
        peer._thread.join(30)
        assert not peer._thread.is_alive()
    assert quick == [1, 1]
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == 2 and all(
        "mlm-jax: error: process 2 of 3 died: not heard of for" in line for line in errors
    ), errors


class Hanging(Service):
    """What the service looks like when process 0 is stopped: a call does not come back."""

    def key_value_dir_get(self, folder):
        threading.Event().wait(30)


def test_a_process_0_that_is_stopped_ends_the_others_with_a_line(quick, capfd):
    peer = Peers(Hanging(), 1, 2)
    peer.start()
    peer._guard.join(20)
    assert quick == [1]
    assert (
        "mlm-jax: error: process 0 of 2 died: not heard of for 0 s. Remedy: start the job again"
        in capfd.readouterr().err
    )


class Unheard(Service):
    """What the service looks like when process 0 is stopped: nothing can be written."""

    def key_value_set(self, key, value, allow_overwrite):
        threading.Event().wait(30)


def test_a_process_that_fails_or_finishes_while_process_0_is_stopped_ends_nevertheless(quick, capfd):
    begun = time.monotonic()
    finished = Peers(Unheard(), 1, 2)
    finished.start()
    finished.leave()
    with pytest.raises(SystemExit):
        Peers(Unheard(), 1, 2).fail(UserError("the disk is full"))
    assert quick == [2] and time.monotonic() - begun < 10
    broken = Peers(Unheard(), 1, 2)
    broken.start()
    with pytest.raises(SystemExit):
        broken.fail(ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer"))
    assert quick[1] == 1
    assert "process 0 of 2 died: not heard of for" in capfd.readouterr().err


class Unread(io.StringIO):
    """Standard output or error whose reader has ended."""

    def write(self, text):
        raise BrokenPipeError

    def flush(self):
        raise BrokenPipeError


def test_processes_end_although_nobody_reads_what_they_say(quick, monkeypatch):
    service = Service()
    heard, failed = Peers(service, 0, 2), Peers(service, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Unread())
        patch.setattr(sys, "stdout", Unread())
        heard.start()
        with pytest.raises(SystemExit):
            failed.fail(ValueError("no number"))
        heard._thread.join(30)
    assert quick == [1, 1]


def test_a_process_that_has_finished_is_not_dead(quick):
    service = Service()
    job = [Peers(service, index, 2) for index in range(2)]
    for peer in job:
        peer.start()
    job[1].leave()
    job[0]._thread.join(1)  # more than twice the silence
    assert job[0]._thread.is_alive() and not quick
    job[0].leave()
    assert set(service.values.values()) == {peers.LEFT}


def test_what_ends_one_process_ends_the_others_with_its_message_and_code(quick, capfd):
    service = Service()
    first, second = Peers(service, 0, 2), Peers(service, 1, 2)
    first.start()
    second.start()
    with pytest.raises(SystemExit):
        second.fail(UserError("the disk is full", remedy="make room"))
    first._thread.join(30)
    assert quick == [2, 2]
    own, heard = capfd.readouterr().err.splitlines()
    assert own == "mlm-jax: error: the disk is full. Remedy: make room"
    assert heard.startswith("mlm-jax: error: process 1 of 2 (") and heard.endswith(
        "failed: the disk is full. Remedy: make room"
    )


def test_a_collective_that_broke_is_told_as_the_death_that_broke_it(quick, capfd):
    service = Service()
    first = Peers(service, 0, 2)
    first.start()
    with pytest.raises(SystemExit):
        first.fail(jax.errors.JaxRuntimeError("Gloo AllGather failed: Connection closed by peer"))
    assert quick[0] == 1
    assert "process 1 of 2 died" in capfd.readouterr().err


def test_the_death_of_process_0_is_noticed(quick, capfd):
    peer = Peers(Gone(), 1, 2)
    peer.start()
    peer._thread.join(30)
    assert quick == [1]
    assert "process 0 of 2 does not answer: UNAVAILABLE: Socket closed. Remedy" in capfd.readouterr().err


def test_one_thread_alone_says_why_a_process_ends(quick, capfd):
    peer = Peers(Gone(), 1, 2)
    with pytest.raises(SystemExit):
        peer.lose_service()
    peer._leaving.clear()
    peer.start()  # it finds nothing new
    peer._thread.join(0.5)
    assert quick == [1]
    assert capfd.readouterr().err.count("mlm-jax: error: process 0 of 2 died, or its connection broke. Remedy") == 1


JOB = """
import sys, time
from mlm_jax.parallel import multihost
with multihost.job(sys.argv[1], 2, int(sys.argv[2])):
    print("joined", flush=True)
    time.sleep(300)
"""


def test_a_process_0_that_is_killed_ends_the_others_at_once_with_a_line():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[2])}
    job = [
        subprocess.Popen(
            [sys.executable, "-c", JOB, address, str(index)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        assert [process.stdout.readline() for process in job] == ["joined\n"] * 2
        job[0].send_signal(signal.SIGKILL)
        begun = time.monotonic()
        _, errors = job[1].communicate(timeout=60)
        assert job[1].returncode == 1 and time.monotonic() - begun < 20, errors
        own = [line for line in errors.splitlines() if line.startswith("mlm-jax: ")]
        assert own == [
            "mlm-jax: error: process 0 of 2 died, or its connection broke. Remedy: start the job again; it continues "
            "from its last checkpoint"
        ], errors
        assert "stack trace" not in errors and "Traceback" not in errors
    finally:
        for process in job:
            process.kill()
            process.communicate()
