"""Processes that help this one."""

from __future__ import annotations

import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType


class _Process(SpawnProcess):
    """A process that does not run anew the script that this one runs, which may stand there without ``if __name__ == …``."""

    def start(self) -> None:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")  # where multiprocessing looks for a file to run
        try:
            super().start()
        finally:
            sys.modules["__main__"] = main


class _Context(SpawnContext):
    Process = _Process


def fresh_processes(workers: int) -> ProcessPoolExecutor:
    """Return a pool of processes that share nothing with this one: TensorFlow and JAX do not survive a fork.

    Ctrl-C ends them at once and without a word: it reaches this process as well, which says what happens.

    Args:
      workers: how many.
    """
    return ProcessPoolExecutor(workers, _Context(), initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_DFL))
