"""Exceptions that handlers of signals raise, and that must not be lost.

Python ignores an exception that is raised inside a callback of the garbage collector, of a weak reference or of ``__del__``.
JAX has a callback of the garbage collector, which runs often while a program starts: there, every third signal was lost.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

AGAIN = 0.05  # seconds until an ignored signal is sent again, when the callback has ended


class Interruptions:
    """Sends a signal again if the exception that its handler raised was ignored.

    Args:
      kinds: the exceptions that the handlers raise.
    """

    def __init__(self, *kinds: type[BaseException]):
        self.kinds = kinds
        self._handler: tuple[int, Any] = (signal.SIGINT, signal.default_int_handler)
        self._before: Any = None

    def begin(self) -> None:
        """Watch for ignored exceptions; main thread only."""
        self._before, sys.unraisablehook = sys.unraisablehook, self._show

    def end(self) -> None:
        """Stop watching."""
        if sys.unraisablehook == self._show:
            sys.unraisablehook = self._before

    def raised_by(self, number: int, handler: Callable[[int, Any], Any]) -> None:
        """Note which signal was received, and its handler; the handler calls this before it raises."""
        self._handler = number, handler

    def _show(self, found: Any) -> None:
        if not isinstance(found.exc_value, self.kinds) or threading.current_thread() is not threading.main_thread():
            self._before(found)
            return
        number, handler = self._handler
        signal.signal(number, handler)
        again = threading.Timer(AGAIN, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()
