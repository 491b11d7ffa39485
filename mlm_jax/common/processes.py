"""Processes that help this one: they share nothing with it, and end with it."""

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
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType
from typing import Any

from mlm_jax.common.errors import UserError

PR_SET_PDEATHSIG = 1  # of Linux' prctl
POLL_SECONDS = 1.0  # between looks at the parent on other systems


class _Process(SpawnProcess):
    """A process that does not run this process's script again, which then needs no ``if __name__ == …``.

    It never sees Ctrl-C, which a terminal sends to all processes: the process that it helps ends it.
    """

    def start(self) -> None:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")  # multiprocessing looks here for a file to run
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which the new process inherits
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            sys.modules["__main__"] = main


class _Context(SpawnContext):
    def __init__(self) -> None:
        super().__init__()
        self.started: list[SpawnProcess] = []

    def Process(self, *arguments: Any, **options: Any) -> SpawnProcess:  # type: ignore[override]
        self.started.append(_Process(*arguments, **options))
        return self.started[-1]


@contextlib.contextmanager
def fresh_processes(workers: int, *, remedy: str = "") -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes that share nothing with this one: TensorFlow and JAX do not survive a fork.

    They end at once, whatever they do, if the block raises an error, or if this process ends in any way.

    Args:
      workers: how many.
      remedy: the remedy of the error that one of them was killed.

    Raises:
      UserError: one of them was killed.
    """
    context = _Context()
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(os.getpid(),))
    try:
        yield pool
        pool.shutdown()
    except BaseException as error:
        for process in context.started:
            if process.pid is not None:
                process.kill()
        pool.shutdown(cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise UserError(f"a helping process {_fate(context.started)}", remedy=remedy) from error
        raise


def _begin(parent: int) -> None:
    """Prepare a helper: it ends with its parent, and draws no progress bars if its output is not a terminal's."""
    end_with_parent(parent, signal.SIGKILL)
    if not sys.stderr.isatty():
        os.environ.pop("FORCE_COLOR", None)  # set by a notebook's kernel; Rich takes it for a terminal


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
    """Send this process a signal when the process that started it has ended, whatever ended that one.

    Args:
      parent: its process id.
      number: the number of the signal.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))  # even while native code keeps Python's threads waiting
    else:
        threading.Thread(target=_watch, args=(parent, number), name="parent", daemon=True).start()
    if os.getppid() != parent:  # it ended before
        os.kill(os.getpid(), number)


def _watch(parent: int, number: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), number)
