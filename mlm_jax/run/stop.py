"""Ending a run when it is asked to: SIGTERM, SIGINT (Ctrl-C) and SIGHUP (a terminal that closes)."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import jax


class Stopped(Exception):
    """A signal asked the run to end; work under way is left undone."""


class StopSignal:
    """Notes SIGTERM, SIGINT and SIGHUP instead of dying of them; a second signal kills as usual.

    Until :meth:`begin_steps`, when there is nothing to save yet, the first signal raises :class:`Stopped` at once.

    In a job of several processes JAX's preemption service listens to SIGTERM
    (``jax.experimental.multihost_utils.reached_preemption_sync_point``), and a Python handler would silence it: there,
    SIGINT and SIGHUP are passed on to it as SIGTERM. Python handles signals in the main thread only: in another thread
    (a notebook's or a server's) nothing is noted. SIGHUP stays ignored under ``nohup``.

    Attributes:
      received: whether a signal has come.
      step: the step of the checkpoint from which the run would continue; None before there is one.
    """

    def __enter__(self) -> StopSignal:
        self.received = False
        self.step: int | None = None
        self._at_once = True
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGINT, signal.SIGHUP] + [signal.SIGTERM] * (jax.process_count() == 1)
            if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
                numbers.remove(signal.SIGHUP)
            handler = self._note if jax.process_count() == 1 else self._pass_on
            self._before = {number: signal.signal(number, handler) for number in numbers}
        return self

    def begin_steps(self, step: int) -> None:
        """From now on only note signals: the current work ends first, and the run is saved.

        Args:
          step: at which the run begins or continues.
        """
        self.step, self._at_once = step, False

    def check(self) -> None:
        """Raise :class:`Stopped` if a signal has come: called now and then by work that takes long and can be repeated."""
        if self.received:
            raise Stopped

    def __exit__(self, *exception: Any) -> None:
        self._restore()

    def _note(self, number: int, frame: Any) -> None:
        self.received = True
        self._restore()
        if self._at_once:
            raise Stopped

    def _pass_on(self, number: int, frame: Any) -> None:
        self._restore()
        os.kill(os.getpid(), signal.SIGTERM)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
