import os
import signal
import subprocess
import sys
import time

import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.common.processes import fresh_processes, how_it_ended
from tests.processes import descendants, is_alive, wait_for

SCRIPT = """
from mlm_jax.common.processes import fresh_processes
from os import getppid
print("begun")
with fresh_processes(1) as pool:
    pool.submit(getppid).result()
print("done")
"""
WAITS = """
import time
from mlm_jax.common.processes import fresh_processes
with fresh_processes(2) as pool:
    waiting = [pool.submit(time.sleep, 600) for _ in range(2)]
    pool.submit(print, "begun", flush=True)
    print("waits", flush=True)
    for one in waiting:
        one.result()
"""


def test_a_script_needs_no_main_block_for_child_processes(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    run = subprocess.run([sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout.split()) == (0, ["begun", "done"]), run.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_child_processes_end_with_their_parent_in_any_way(number):
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "waits\n"
    wait_for(lambda: len(descendants(process.pid)) >= 3)  # and multiprocessing's resource tracker
    family = descendants(process.pid)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    _, said = process.communicate(timeout=60)
    wait_for(lambda: not any(map(is_alive, family)))
    if number == signal.SIGINT:
        assert said.count("Traceback") == 1 and "leaked" not in said, said  # its own KeyboardInterrupt, no helper's


ENDS = """
import multiprocessing, signal, sys, time
from mlm_jax.common.processes import start_resource_tracker

{start}
lock = multiprocessing.get_context("spawn").RLock()


def end(number, frame):
    time.sleep(0.5)  # in which the tracker would end
    sys.exit(129)


signal.signal(signal.SIGHUP, end)
print("waits", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("start", ["", "start_resource_tracker()"])
def test_the_end_of_a_terminal_leaves_no_tracebacks(start):
    command = [sys.executable, "-c", ENDS.format(start=start)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "waits\n"
    wait_for(lambda: descendants(process.pid))  # the tracker
    time.sleep(0.2)  # until it runs
    os.killpg(process.pid, signal.SIGHUP)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 129 and ("died unexpectedly" in said) == (not start), said


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_child_process_is_a_one_line_error():
    with (
        pytest.raises(UserError, match=r"a child process was killed by signal 9 \(SIGKILL\). Remedy: take fewer"),
        fresh_processes(2, remedy="take fewer") as pool,
    ):
        pool.submit(die).result()


def test_an_error_ends_the_others_at_once():
    with pytest.raises(ZeroDivisionError), fresh_processes(2) as pool:
        import time

        pool.submit(time.sleep, 600)
        pool.submit(divmod, 1, 0).result()


def test_how_it_ended():
    assert how_it_ended(-9) == "was killed by signal 9 (SIGKILL)"
    assert how_it_ended(3) == "ended with exit code 3"


def test_child_processes_of_a_notebook_show_no_progress_bars(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a notebook's kernel sets it
    with fresh_processes(1) as pool:
        assert pool.submit(os.getenv, "FORCE_COLOR").result() is None
    assert os.environ["FORCE_COLOR"] == "1"


def test_messages_of_a_notebooks_child_processes_are_not_on_standard_error(monkeypatch, capfd):
    """A notebook shows standard error on red."""
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    with fresh_processes(1) as pool:
        pool.submit(os.write, 2, b"looking for held-out text\n").result()
    assert capfd.readouterr() == ("looking for held-out text\n", "")
