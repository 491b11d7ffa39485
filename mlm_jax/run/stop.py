"""Ending a run when it is asked to: SIGTERM and SIGINT."""

from __future__ import annotations

import signal
from typing import Any

import jax


class Stopped(Exception):
    """The run was asked to end, and what was under way is left undone."""


class StopSignal:
    """Notes SIGTERM and SIGINT instead of dying of them; a second signal kills as ever.

    In a job of several processes it notes nothing: there, JAX's preemption service listens to SIGTERM
    (``jax.experimental.multihost_utils.reached_preemption_sync_point``), and a Python handler would silence it.
    """

    def __enter__(self) -> StopSignal:
        self.received = False
        numbers = (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else ()
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def check(self) -> None:
        """Raise :class:`Stopped` if a signal has come: called now and then by what takes long and can be done again."""
        if self.received:
            raise Stopped

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self.received = True
        for known, handler in self._before.items():
            signal.signal(known, handler)
