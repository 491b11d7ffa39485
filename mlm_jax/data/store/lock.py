"""One writer of a folder at a time, among the processes that see the same file system."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from mlm_jax.common.errors import UserError

UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # a file system without locks, as some clusters mount it


@contextlib.contextmanager
def only_writer(folder: str | Path) -> Iterator[None]:
    """Hold ``FOLDER.lock`` while the block runs; the system lets go of it however the process ends.

    Where the file system has no locks, nothing is held.

    Raises:
      UserError: another process holds it.
    """
    file = Path(f"{folder}.lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError("another process is writing here", file=folder, remedy="wait until it has ended") from error
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
            # Whoever held it may have removed the file since it was opened: then it is another one that counts.
            if file.exists() and os.path.samestat(os.fstat(descriptor), file.stat()):
                try:
                    yield
                finally:
                    file.unlink(missing_ok=True)
                return
        finally:
            os.close(descriptor)
