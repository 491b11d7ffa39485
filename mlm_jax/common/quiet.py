"""Hides output of libraries that is not for the user."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHATTY = ("absl", "asyncio")  # Orbax logs many lines for every checkpoint, and exceptions that it raises as well


class _Quiet:
    """Keeps the loggers of ``CHATTY`` and Orbax's closed event loops silent as long as somebody asks for it."""

    def __init__(self) -> None:
        self.lock, self.users = threading.Lock(), 0
        self.levels: dict[str, int] = {}
        self.hook: Any = None

    def begin(self) -> None:
        with self.lock:
            self.users += 1
            if self.users == 1:
                self.levels = {name: logging.getLogger(name).level for name in CHATTY}
                for name in CHATTY:
                    logging.getLogger(name).setLevel(logging.CRITICAL)
                self.hook, sys.unraisablehook = sys.unraisablehook, self.say_unraisable

    def end(self) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0:
                for name, level in self.levels.items():
                    logging.getLogger(name).setLevel(level)
                sys.unraisablehook = self.hook

    def say_unraisable(self, found: Any) -> None:
        """Leave out arrays whose reading or writing ends after that of another failed, which closed Orbax's event loop."""
        closed = isinstance(found.exc_value, RuntimeError) and "Event loop is closed" in str(found.exc_value)
        code = getattr(found.object, "cr_code", None)  # of a coroutine
        if not closed and not (code is not None and "orbax" in Path(code.co_filename).parts):
            self.hook(found)


_quiet = _Quiet()


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Keep Orbax's logging and its closed event loops off the screen inside; also a decorator."""
    _quiet.begin()
    try:
        yield
    finally:
        _quiet.end()


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back what native code writes to stderr inside the block; it is written if the block raises.

    TensorFlow greets from C++ before its log level counts, so that the file descriptor is the only place to stop it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
