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

from mlm_jax.common.errors import one_line

CHATTY = ("absl", "asyncio")  # Orbax logs many lines for every checkpoint, and also the exceptions that it raises


class _Quiet:
    """Silences the loggers of ``CHATTY`` and errors about Orbax's closed event loops while at least one caller asks for it."""

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
                self.hook, sys.unraisablehook = sys.unraisablehook, self.show_unraisable

    def end(self) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0:
                for name, level in self.levels.items():
                    logging.getLogger(name).setLevel(level)
                sys.unraisablehook = self.hook

    def show_unraisable(self, found: Any) -> None:
        """Ignore reads and writes of arrays that end after another one failed and closed Orbax's event loop."""
        closed = isinstance(found.exc_value, RuntimeError) and "Event loop is closed" in str(found.exc_value)
        code = getattr(found.object, "cr_code", None)  # of a coroutine
        if not closed and not (code is not None and "orbax" in Path(code.co_filename).parts):
            self.hook(found)


_quiet = _Quiet()


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Hide Orbax's log lines and errors about its closed event loops inside the block; also a decorator."""
    _quiet.begin()
    try:
        yield
    finally:
        _quiet.end()


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back what native code writes to stderr inside the block; print it if the block raises.

    TensorFlow prints from C++ before its log level takes effect, so only redirecting the file descriptor helps.
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


def is_panic(error: BaseException) -> bool:
    """Return whether an exception is a panic of a library in Rust, which is no subclass of Exception."""
    return type(error).__name__ == "PanicException"


@contextlib.contextmanager
def quiet_panics() -> Iterator[None]:
    """Turn panics of libraries in Rust inside the block into ValueErrors, without the stack trace that they print.

    Raises:
      ValueError: a library has panicked.
    """
    sys.stderr.flush()
    kept, panic = os.dup(2), False
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException as error:
            panic = is_panic(error)
            if panic:
                raise ValueError(one_line(error)) from error
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            if not panic and (printed := held.read()):
                os.write(2, printed)
