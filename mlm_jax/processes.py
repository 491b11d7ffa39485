"""Processes that help this one."""

from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor


def fresh_processes(workers: int) -> ProcessPoolExecutor:
    """Return a pool of processes that share nothing with this one: TensorFlow and JAX do not survive a fork.

    Ctrl-C ends them at once and without a word: it reaches this process as well, which says what happens.

    Args:
      workers: how many.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_DFL))
