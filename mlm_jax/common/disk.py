"""Errors of a disk that cannot be written: full, read-only, forbidden or gone. Each library reports them differently."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path

from mlm_jax.common.errors import UserError

FULL, READ_ONLY = "the disk is full", "the disk is read-only"
TOO_MANY = (
    "the file system refuses: too many open files"  # so gcsfuse answers a rename of a folder with many files, too
)
GONE, BRING_BACK = "this folder is gone", "bring it back, or begin in another one"
REMEDIES = {
    FULL: "free some space",
    READ_ONLY: "name a folder on another disk",
    TOO_MANY: "mount a bucket with gcsfuse --rename-dir-limit=200000; on a disk, raise the limit (ulimit -n 65536)",
}
NUMBERS = {errno.ENOSPC: FULL, errno.EDQUOT: FULL, errno.EFBIG: FULL, errno.EROFS: READ_ONLY, errno.EMFILE: TOO_MANY}
# The same errors in messages of Rust (safetensors: "os error 28") and of C++ (TensorStore: "RESOURCE_EXHAUSTED: … [OS error
# 28: No space left on device]").
OS_ERROR = re.compile(r"os error (\d+)", re.IGNORECASE)
MISSING = re.compile(r"NOT_FOUND|No such (file|directory)", re.IGNORECASE)  # in messages of TensorStore and Orbax
SIGNS = {
    "No space left": FULL,
    "File too large": FULL,
    "quota exceeded": FULL,
    "Read-only file system": READ_ONLY,
    "Too many open files": TOO_MANY,
}


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and its chain of causes."""
    reason: BaseException | None = error
    while reason is not None:
        yield reason
        reason = reason.__cause__ or reason.__context__


def disk_problem(error: BaseException) -> str:
    """Return FULL, READ_ONLY or TOO_MANY if this is the cause of an error, else ""."""
    for reason in causes(error):
        number = OS_ERROR.search(str(reason))
        if problem := NUMBERS.get(getattr(reason, "errno", None) or (int(number[1]) if number else 0)):
            return problem
        if sign := next((sign for sign in SIGNS if sign in str(reason)), None):
            return SIGNS[sign]
    return ""


def is_of_files(error: BaseException) -> bool:
    """Return whether an error, or one of its causes, comes from reading or writing files; others are bugs."""
    return any(isinstance(reason, OSError) or MISSING.search(str(reason)) for reason in causes(error))


@contextlib.contextmanager
def disk_errors(path: str | Path, *, left: str = "", remedy: str = "", is_there: bool = False) -> Iterator[None]:
    """Turn errors of the disk inside the block into a UserError.

    Args:
      path: the file or folder that is written.
      left: a note for the message about what is on the disk now, such as "nothing half-written was left".
      remedy: replaces the remedy for a full or read-only disk.
      is_there: whether ``path`` is a folder that exists before the block. If it is missing after an error of
        files, the message says that it is gone.

    Raises:
      UserError: the disk is full or read-only, ``path`` may not be written, or its folder is gone.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # TensorStore raises ValueError, safetensors an exception of its own
        problem = disk_problem(error)
        if is_there and not Path(path).is_dir() and is_of_files(error):
            raise UserError(GONE, file=path, remedy=BRING_BACK) from error
        if not problem and not isinstance(error, OSError):
            raise
        if not problem and isinstance(error, FileNotFoundError) and not Path(path).parent.is_dir():
            problem = "its folder does not exist"
        if not problem and isinstance(
            error, PermissionError | NotADirectoryError | IsADirectoryError | FileExistsError
        ):
            problem = f"cannot write: {error.strerror}"
        if not problem:
            raise
        more = f"; {left}" if left else ""
        own = REMEDIES.get(problem, "")
        raise UserError(f"{problem}{more}", file=path, remedy=own if problem == TOO_MANY else remedy or own) from error
