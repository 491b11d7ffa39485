"""Signals that end a run: SIGTERM, SIGINT (Ctrl-C) and SIGHUP (a terminal that closes)."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import jax

from mlm_jax.common.signals import Interruptions


class Stopped(Exception):
    """A signal asked the run to end; the current work is not finished."""


class StopSignal:
    """Records SIGTERM, SIGINT and SIGHUP, so that the run can end by itself; a second signal kills the process as usual.

    Until :meth:`begin_steps`, when there is nothing to save yet, the first signal raises :class:`Stopped` at once.

    In a job of several processes JAX's preemption service listens to SIGTERM
    (``jax.experimental.multihost_utils.reached_preemption_sync_point``), and a Python handler would disable it. In such a job,
    SIGINT and SIGHUP are passed on to that service as SIGTERM. Python handles signals in the main thread only: in another
    thread (of a notebook or a server) no signal is recorded. SIGHUP stays ignored under ``nohup``.

    Attributes:
      received: whether a signal has arrived.
      step: the step of the checkpoint from which the run would continue; None before there is one.
    """

    def __init__(self) -> None:
        self.received = False
        self.step: int | None = None
        self._at_once = True
        self._interruptions = Interruptions(Stopped)

    def __enter__(self) -> StopSignal:
        self._before: dict[int, Any] = {}
        self._interruptions.begin()
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGINT, signal.SIGHUP] + [signal.SIGTERM] * (jax.process_count() == 1)
            if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
                numbers.remove(signal.SIGHUP)
            handler = self._note if jax.process_count() == 1 else self._pass_on
            self._before = {number: signal.signal(number, handler) for number in numbers}
        return self

    def begin_steps(self, step: int) -> None:
        """From now on, only record signals: the run finishes the current work and saves a checkpoint.

        Args:
          step: the step at which the run begins or continues.
        """
        self.step, self._at_once = step, False

    def check(self) -> None:
        """Raise :class:`Stopped` if a signal has arrived; long work that can be repeated calls this now and then."""
        if self.received:
            raise Stopped

    def __exit__(self, *exception: Any) -> None:
        self._interruptions.end()
        self._restore()

    def _note(self, number: int, frame: Any) -> None:
        is_second = self.received and not self._interruptions.is_own
        self.received = True
        if not is_second and self._at_once and not self._interruptions.may_raise(number, frame, self._note):
            return
        self._restore()
        if is_second:
            os.kill(os.getpid(), number)
        elif self._at_once:
            raise Stopped

    def _pass_on(self, number: int, frame: Any) -> None:
        self._restore()
        os.kill(os.getpid(), signal.SIGTERM)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
