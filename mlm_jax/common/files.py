"""Atomic writes: a file or folder is complete or absent, even if the process that writes it is killed.

It is written beside its path under a temporary name, and renamed at the end. The temporary file is created exclusively and
never opened through a link. A lock is held on it while it is written. The lock shows whether another process is still writing
the file, or a killed process has left it; in that case the next writer of the same path removes it.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from mlm_jax.common.addresses import refuse_address
from mlm_jax.common.disk import disk_errors
from mlm_jax.common.errors import UserError, one_line, visible
from mlm_jax.common.lock import is_at, locked

SCRATCH = ".incomplete"
LONGEST = 255  # bytes of a file's name
SYSTEM = ("/dev", "/proc")  # files below these folders are written to directly, also through links (/dev/stdout)


def inside(folder: str | Path, name: object) -> Path:
    """Return the path of a file in a folder, by a name that comes from an untrusted file.

    Raises:
      UserError: the name is not that of a file directly in the folder.
    """
    plain = (
        isinstance(name, str) and name not in ("", ".", "..") and not any(sign in name for sign in ("/", "\\", "\0"))
    )
    if not plain or len(str(name).encode(errors="replace")) > LONGEST:
        raise UserError(f"{one_line(repr(name))[:80]} is not the name of a file in this folder", file=folder)
    return Path(folder, str(name))


def sizes_and_times(folder: str | Path) -> list[list]:
    """Return [path, bytes, modification time in ns] of each file below a folder, sorted; [] if there is no such folder."""
    found = sorted(os.path.join(top, name) for top, _, names in os.walk(folder) for name in names)
    return [[name, (status := os.stat(name)).st_size, status.st_mtime_ns] for name in found]


def write_whole(file: str | Path, text: str) -> None:
    """Write a text file in UTF-8 atomically.

    Raises:
      UserError: the path is a symbolic link, or an address of an object store.
    """
    with whole_file(file) as opened:
        opened.write(text)


class _ForTerminal:
    """Standard output that is a terminal: control characters in labels and texts are escaped."""

    def __init__(self, terminal: TextIO):
        self.terminal, self.flush = terminal, terminal.flush

    def write(self, text: str) -> int:
        return self.terminal.write(visible(text))


@contextlib.contextmanager
def writing(output: str) -> Iterator[TextIO]:
    """Open a text file that appears when it is complete, or standard output ("-"); pipes and devices are written to directly.

    Raises:
      UserError: the file cannot be written, or is a symbolic link.
    """
    if output == "-":
        yield _ForTerminal(sys.stdout) if sys.stdout.isatty() else sys.stdout  # type: ignore[misc]
        sys.stdout.flush()
        return
    with disk_errors(output), whole_file(output) as file:
        yield file


def check_file_place(path: str | Path) -> None:
    """Check that a file can be written to a path; verbs do so before the work whose result it will hold.

    Raises:
      UserError: the path is a folder, a symbolic link or an address of an object store, or its folder does not exist.
    """
    refuse_address(path)
    path = Path(os.path.abspath(path))
    if _is_written_directly(path):
        if not path.exists():
            raise UserError("there is no such file of the system", file=path, remedy="name another file")
        return
    _refuse_link(path)
    if path.is_dir():
        raise UserError("cannot write: Is a directory", file=path, remedy="name a file")
    if not path.parent.is_dir():
        raise UserError("its folder does not exist", file=path, remedy="make the folder, or name another file")


def check_folder_place(path: str | Path) -> None:
    """Check that a folder can be written to a path; verbs do so before the work whose result it will hold.

    Raises:
      UserError: the path is a symbolic link or an address of an object store, or lies below a file, a broken link or /dev.
    """
    refuse_address(path)
    path = Path(os.path.abspath(path))
    _refuse_link(path)
    above = next(folder for folder in path.parents if os.path.lexists(folder))
    if not above.is_dir() or _is_system(path):
        raise UserError("cannot write: Not a directory", file=path, remedy="name another folder")


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[TextIO]:
    """Open a text file in UTF-8 for writing; readers see the old text or the new one, also after a crash.

    A pipe or a device cannot be replaced, and is written to directly.

    Raises:
      UserError: the path is a symbolic link, or an address of an object store.
    """
    refuse_address(path)
    path = Path(os.path.abspath(path))
    if _is_written_directly(path):
        with path.open("a", encoding="utf-8") as file:
            yield file
        return
    _refuse_link(path)
    with _scratch(path, _create_file) as (scratch, descriptor):
        with open(descriptor, "w", encoding="utf-8", closefd=False) as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        scratch.replace(path)


@contextlib.contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield a scratch folder that replaces the folder of this name, if there is one, when the block succeeds.

    Raises:
      UserError: as :func:`check_folder_place`.
    """
    check_folder_place(path)
    path = Path(os.path.abspath(path))
    with _scratch(path, _create_folder) as (scratch, _):
        yield scratch
        if path.exists():
            # Renamed, not emptied: readers see a complete folder or none.
            with _scratch(path, _create_folder) as (old, _):
                path.rename(old / "old")
                scratch.rename(path)
        else:
            scratch.rename(path)


@contextlib.contextmanager
def scratch_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder next to a path; it is removed after the block, or when the path is next written."""
    with _scratch(Path(os.path.abspath(path)), _create_folder) as (scratch, _):
        yield scratch


@contextlib.contextmanager
def temporary_folder(name: str) -> Iterator[Path]:
    """Yield a folder for temporary files of this user (``TMPDIR``).

    It is removed after the block. If the process is killed, the next call with the same name removes it.

    Args:
      name: beginning of the folder's name, the same for all folders of one purpose.
    """
    with scratch_folder(Path(tempfile.gettempdir(), name)) as folder:
        folder.chmod(0o700)
        yield folder


def append_to(file: str | Path) -> TextIO:
    """Open a text file in UTF-8 to append to it, but never through a symbolic link.

    Raises:
      UserError: the file is a symbolic link, or an address of an object store.
    """
    refuse_address(file)
    _refuse_link(Path(file))
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    return open(descriptor, "a", encoding="utf-8")


def remove_abandoned(path: Path) -> None:
    """Remove scratch files that killed writers of a path have left."""
    for scratch in path.parent.glob(f"{glob.escape(_stem(path))}.????????{SCRATCH}"):
        try:
            descriptor = os.open(scratch, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:  # a link, or another writer has just removed it
            continue
        try:
            if locked(descriptor, unsupported=False):
                _remove(scratch)
        finally:
            os.close(descriptor)


# ---------------------------------------------------------------------------------------------------- details


def _is_written_directly(path: Path) -> bool:
    """Return whether a path cannot be replaced: a pipe, a device, or a path of the system."""
    return _is_system(path) or (path.exists() and not path.is_symlink() and not (path.is_file() or path.is_dir()))


def _is_system(path: Path) -> bool:
    """Return whether a path belongs to the system, such as /dev/stdout or the /dev/fd/63 of a shell's >(…)."""
    folder = os.path.realpath(path.parent)
    return any(folder == root or folder.startswith(f"{root}/") for root in SYSTEM) and not folder.startswith("/dev/shm")


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        remedy = f"name {os.path.realpath(path)} itself, or remove the link"
        raise UserError("this is a symbolic link; files are not written through links", file=path, remedy=remedy)


@contextlib.contextmanager
def _scratch(path: Path, create: Callable[[Path], int]) -> Iterator[tuple[Path, int]]:
    """Yield a new scratch path next to ``path``, and a descriptor that holds its lock; the path is removed afterwards."""
    remove_abandoned(path)
    while True:
        scratch = path.with_name(f"{_stem(path)}.{secrets.token_hex(4)}{SCRATCH}")
        try:
            descriptor = create(scratch)
        except FileExistsError:
            continue
        if locked(descriptor) and is_at(descriptor, scratch):
            break
        os.close(descriptor)  # another writer removed the file as abandoned before it was locked
    try:
        yield scratch, descriptor
    finally:
        _remove(scratch)  # does nothing if the path was renamed
        os.close(descriptor)


def _stem(path: Path) -> str:
    """Return the prefix of the names of the scratch files of a path."""
    name = os.fsencode(path.name)
    return f".{path.name if len(name) <= LONGEST - 30 else hashlib.sha256(name).hexdigest()}"


def _create_file(scratch: Path) -> int:
    return os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)


def _create_folder(scratch: Path) -> int:
    scratch.mkdir(parents=True)
    return os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _remove(scratch: Path) -> None:
    """Remove a file or a folder if it exists."""
    if scratch.is_dir() and not scratch.is_symlink():
        shutil.rmtree(scratch, ignore_errors=True)
    else:
        scratch.unlink(missing_ok=True)
