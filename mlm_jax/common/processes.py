"""Child processes: they share no memory with this process, and end when it ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType
from typing import Any

from mlm_jax.common.errors import UserError

PR_SET_PDEATHSIG = 1  # of Linux' prctl
POLL_SECONDS = 1.0  # time between two checks of the parent on other systems


class _Process(SpawnProcess):
    """A child process that does not import the parent's script, so that the script needs no ``if __name__ == …``.

    It ignores Ctrl-C and the end of a terminal, which are sent to all processes; the parent ends it.
    """

    def start(self) -> None:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")  # multiprocessing looks here for a file to run
        try:
            with _blocked(signal.SIGINT, signal.SIGHUP):
                super().start()
        finally:
            sys.modules["__main__"] = main


@contextlib.contextmanager
def _blocked(*numbers: signal.Signals) -> Iterator[None]:
    """Block signals for this thread, and for processes that are started meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_resource_tracker() -> None:
    """Start multiprocessing's resource tracker, so that the end of a terminal does not end it before this process.

    It ignores SIGINT and SIGTERM by itself. Without this call, the first library that makes a semaphore starts it, and SIGHUP to
    the process group leaves tracebacks.
    """
    with _blocked(signal.SIGHUP):
        resource_tracker.ensure_running()


class _Context(SpawnContext):
    def __init__(self) -> None:
        super().__init__()
        self.started: list[SpawnProcess] = []

    def Process(self, *arguments: Any, **options: Any) -> SpawnProcess:  # type: ignore[override]
        self.started.append(_Process(*arguments, **options))
        return self.started[-1]


@contextlib.contextmanager
def fresh_processes(workers: int, *, remedy: str = "") -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of spawned (not forked) processes, because TensorFlow and JAX do not survive a fork.

    The processes end at once, even in the middle of work, if the block raises an error, or if this process ends in any way.

    Args:
      workers: the number of processes.
      remedy: the remedy in the error that is raised if a process is killed.

    Raises:
      UserError: a process of the pool was killed.
    """
    context = _Context()
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(os.getpid(), "ipykernel" in sys.modules))
    try:
        yield pool
        pool.shutdown()
    except BaseException as error:
        for process in context.started:
            if process.pid is not None:
                process.kill()
        pool.shutdown(cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise UserError(f"a child process {_fate(context.started)}", remedy=remedy) from error
        raise


def _begin(parent: int, of_notebook: bool) -> None:
    """Prepare a child process: it ends with its parent, and shows no progress bars if its output is not a terminal.

    Args:
      parent: the process id of the parent.
      of_notebook: whether the parent is the kernel of a notebook, which shows standard error on red.
    """
    end_with_parent(parent, signal.SIGKILL)
    if of_notebook:
        os.dup2(1, 2)
    if not sys.stderr.isatty():
        os.environ.pop("FORCE_COLOR", None)  # a notebook's kernel sets it, and Rich would then assume a terminal


def _fate(processes: Sequence[SpawnProcess]) -> str:
    """Return how the first of some processes ended; the pool itself sends SIGTERM to the others."""
    codes = [process.exitcode for process in processes if process.pid is not None]
    own = (-signal.SIGTERM, -signal.SIGKILL, 0, None)
    return how_it_ended(next((code for code in codes if code not in own), -signal.SIGKILL))


def how_it_ended(code: int | None) -> str:
    """Return "was killed by signal 9 (SIGKILL)" or "ended with exit code 3" for the exit code of a process."""
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in {*signal.Signals} else "unknown"
    return f"was killed by signal {-code} ({name})"


def end_with_parent(parent: int, number: int) -> None:
    """Send this process a signal when its parent has ended for any reason.

    Args:
      parent: the process id of the parent.
      number: the number of the signal.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))  # works even while native code blocks Python's threads
    else:
        threading.Thread(target=_watch, args=(parent, number), name="parent", daemon=True).start()
    if os.getppid() != parent:  # the parent has already ended
        os.kill(os.getpid(), number)


def _watch(parent: int, number: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), number)
