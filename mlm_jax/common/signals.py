"""Exceptions that handlers of signals raise: they must neither be lost nor interrupt XLA.

Python ignores an exception that is raised inside a callback of the garbage collector, of a weak reference or of ``__del__``.
JAX has a callback of the garbage collector, which runs often while a program starts: there, every third signal was lost.
XLA compiles in threads that an exception does not stop, and a process that ends meanwhile crashes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

AGAIN = 0.05  # seconds until a signal is sent again
COMPILER = os.path.join("jax", "_src", "compiler.py")  # calls XLA

Handler = Callable[[int, Any], Any]


class Interruptions:
    """Sends a signal again if its handler came inside XLA, or if the exception that it raised was ignored.

    Args:
      kinds: the exceptions that the handlers raise.

    Attributes:
      is_own: whether the signal that is handled now was sent again, and not by the user.
    """

    def __init__(self, *kinds: type[BaseException]):
        self.kinds = kinds
        self.is_own = False
        self._received: tuple[int, Handler] = (signal.SIGINT, signal.default_int_handler)
        self._before: Any = None

    def begin(self) -> None:
        """Watch for ignored exceptions."""
        self._before, sys.unraisablehook = sys.unraisablehook, self._show

    def end(self) -> None:
        """Stop watching."""
        if sys.unraisablehook == self._show:
            sys.unraisablehook = self._before

    def may_raise(self, number: int, frame: FrameType | None, handler: Handler) -> bool:
        """Return whether a handler may raise its exception now; if it may not, the signal is sent again a little later.

        Args:
          number: the signal.
          frame: the frame that it interrupted.
          handler: its handler.
        """
        self._received, self.is_own = (number, handler), False
        while frame is not None:
            if frame.f_code.co_filename.endswith(COMPILER):
                self._send_again()
                return False
            frame = frame.f_back
        return True

    def _show(self, found: Any) -> None:
        if isinstance(found.exc_value, self.kinds) and threading.current_thread() is threading.main_thread():
            signal.signal(*self._received)
            self._send_again()
        else:
            self._before(found)

    def _send_again(self) -> None:
        def send() -> None:
            self.is_own = True
            os.kill(os.getpid(), self._received[0])

        timer = threading.Timer(AGAIN, send)
        timer.daemon = True
        timer.start()
