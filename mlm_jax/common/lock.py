"""One writer of a folder at a time, among the processes that share a file system."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from mlm_jax.common.errors import UserError, one_line

UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # a file system without locks, as on some clusters
TRIES = 100  # to make a lock's folder and the lock in it


@contextlib.contextmanager
def only_writer(folder: str | Path) -> Iterator[None]:
    """Hold the lock ``FOLDER.lock`` while the block runs; the system releases the lock when the process ends in any way.

    Folders that are made for the lock are removed at the end if they are empty. On a file system without locks, no lock is held.

    Raises:
      UserError: another process holds the lock (the message names that process), or the folder cannot be made.
    """
    file = Path(f"{folder}.lock")
    made = [parent for parent in file.parents if not parent.exists()]  # the deepest one first
    try:
        with _holding(file):
            yield
    finally:
        with contextlib.suppress(OSError):  # a folder that contains something stays
            for parent in made:
                parent.rmdir()


@contextlib.contextmanager
def _holding(file: Path) -> Iterator[None]:
    while True:
        descriptor = _opened(file)
        try:
            if not locked(descriptor):
                holder = one_line(os.pread(descriptor, 200, 0).decode(errors="replace")) or "another process"
                raise UserError(
                    f"{holder} is writing here", file=file.with_suffix(""), remedy="wait until it has ended"
                )
            if is_at(descriptor, file):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
                try:
                    yield
                finally:
                    file.unlink(missing_ok=True)
                return
        finally:
            os.close(descriptor)


def _opened(file: Path) -> int:
    """Return a descriptor of a lock file; it and its folder are made if they are missing."""
    for _ in range(TRIES):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            return os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError as error:  # another process, which has ended, may have just removed the empty folder
            failed = error
    raise UserError(f"cannot write: {failed.strerror}", file=file.parent, remedy="name another folder") from failed


def remove_abandoned_lock(folder: str | Path) -> None:
    """Remove ``FOLDER.lock`` if a killed process has left it; without permission to remove it, do nothing."""
    file = Path(f"{folder}.lock")
    with contextlib.suppress(OSError):
        descriptor = os.open(file, os.O_RDWR | os.O_NOFOLLOW)
        try:
            if locked(descriptor, unsupported=False) and is_at(descriptor, file):
                file.unlink()
        finally:
            os.close(descriptor)


def locked(descriptor: int, *, unsupported: bool = True) -> bool:
    """Lock an open file, or folder, for this process until it is closed.

    Args:
      descriptor: the descriptor of the file.
      unsupported: the value to return on a file system without locks.

    Returns:
      whether the lock was acquired; False if another process holds it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return unsupported
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Return whether an open file is still the file at ``path``; the last holder of the lock may have removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False
