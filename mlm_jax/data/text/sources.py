"""Sources of text that a config may name: globs of local files, functions and data set libraries.

A source that is the name of an existing file is that file, whatever characters it contains. Otherwise, a string that begins with
``scheme:`` of :data:`LIBRARIES` or has the form ``module:function`` is a library. All other strings are globs.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from mlm_jax.common.errors import UserError, one_line
from mlm_jax.config.values import several
from mlm_jax.data.text.libraries import function, saved_datasets, tfds
from mlm_jax.data.text.reading import PACKINGS, ending

log = logging.getLogger(__name__)

LIBRARIES: dict[str, ModuleType] = {"tfds": tfds, "datasets": saved_datasets}  # {scheme: its module}
FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")  # module:function
LONGEST_PATH = 4096  # characters; no file system accepts longer paths
URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
KINDS = ((stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"))


def is_library(source: Any) -> bool:
    """Return whether a source is ``"module:function"``, ``"tfds:…"`` or ``"datasets:…"``."""
    return (
        isinstance(source, str)
        and not os.path.lexists(source)
        and (_scheme(source) in LIBRARIES or is_function(source))
    )


def is_function(source: Any) -> bool:
    """Return whether a source is a user's function, ``"module:function"``."""
    return (
        isinstance(source, str)
        and FUNCTION.fullmatch(source) is not None
        and not (_scheme(source) in LIBRARIES or os.path.lexists(source))
    )


def library(source: str) -> tuple[ModuleType, str]:
    """Return (module that reads a library's source, the part of the source after the scheme)."""
    return (
        (LIBRARIES[_scheme(source)], source.partition(":")[2]) if _scheme(source) in LIBRARIES else (function, source)
    )


def _scheme(source: str) -> str:
    return source.partition(":")[0] if ":" in source else ""


def files(source: Any, endings: tuple[str, ...]) -> list[Path]:
    """Return the files of one or several globs, sorted.

    Raises:
      UserError: a glob matches nothing, or a file has an unknown ending, is a folder or is not a regular file.
    """
    found = matches(source)
    for file in found:
        mode = _status(file).st_mode
        if stat.S_ISDIR(mode):
            suffix = file.suffix if file.suffix in endings else endings[0]  # x.parquet may be a folder of Parquet files
            raise UserError("this is a folder", file=file, remedy=f"write {file}/*{suffix}")
        for is_kind, name in KINDS:
            if is_kind(mode):
                raise UserError(
                    f"this is {name}, which cannot be read several times",
                    file=file,
                    remedy="write its text to a file, or leave it out of the glob",
                )
        if ending(file) not in endings:
            raise UserError(
                f"cannot read a file that ends in {''.join(file.suffixes[-2:])!r}",
                file=file,
                remedy=f"use {', '.join(endings)}, plain or with {' or '.join(PACKINGS)}",
            )
    return found


def matches(source: Any) -> list[Path]:
    """Return the paths that one or several globs match, sorted within each glob; each real file once, by its first name.

    Raises:
      UserError: a glob matches nothing.
    """
    found: dict[str, Path] = {}
    for pattern in several(source):
        names = _expanded(pattern)
        if not names:
            raise _no_match(pattern)
        for name in names:
            found.setdefault(os.path.realpath(name), name)
    return [*found.values()]


def fingerprint(source: Any) -> list:
    """Return values that change if a source changes: path, size and time of each file, or its library's fingerprint."""
    if is_library(source):
        module, rest = library(source)
        return module.fingerprint(rest, source)
    found: dict[str, str] = {}
    for pattern in several(source):
        for name in _expanded(pattern):
            found.setdefault(os.path.realpath(name), str(name))
    return [[name, (status := _status(Path(name))).st_size, status.st_mtime_ns] for name in sorted(found.values())]


def shown(source: Any) -> str | None:
    """Return a source for a message: the function, or the globs."""
    return source if source is None or isinstance(source, str) else ", ".join(source)


def named_file(name: str, key: str) -> Path:
    """Return the regular file with this name.

    Raises:
      UserError: there is no such file; the remedy names ``key`` of the config.
    """
    file = Path(name).expanduser()
    if not os.path.lexists(file):
        raise UserError("there is no such file", file=file, remedy=f"check {key}")
    return files(str(file), (ending(file),))[0]


def _no_match(pattern: str) -> UserError:
    if URL.match(pattern):
        return UserError(
            f"{pattern!r} is an address, but text is read from local files", remedy="fetch or mount the files first"
        )
    remedy = f"check the path in config.data, which begins at {Path.cwd()}"
    if ":" in pattern:
        remedy += "; for a function write 'module:function', with Python names"
    return UserError(f"no file matches {pattern!r}", remedy=remedy)


def _status(file: Path) -> os.stat_result:
    try:
        return file.stat()
    except OSError as error:
        problem = "this link leads nowhere" if file.is_symlink() else "cannot look at it"
        raise UserError(
            f"{problem}: {one_line(error.strerror)}", file=file, remedy="remove it, or fix what it links to"
        ) from error


# ----------------------------------------------------------------------------------------------------------- globs


def _expanded(pattern: str) -> list[Path]:
    """Return the paths that a glob matches, sorted; ``**`` is any number of folders, and each real folder is visited once.

    The standard library's glob is not used, because it follows a link to a parent folder until the path is too long, and because
    it reads brackets in the name of a folder as a set of characters.
    """
    if len(pattern) > LONGEST_PATH:
        raise UserError(
            f"a path of {len(pattern):,} characters: {pattern[:80]}…", remedy="name files in several shorter globs"
        )
    path = Path(pattern).expanduser()
    if os.path.lexists(path):
        return [path]
    found = [path.anchor]
    for part in path.parts[bool(path.anchor) :]:
        found = [name for folder in found for name in _step(folder, part)]
    return sorted({Path(name) for name in found})


def _step(folder: str, part: str) -> Iterator[str]:
    """Yield the paths in a folder that one part of a glob matches."""
    if part == "**":
        yield from _folders(folder)
    elif os.path.lexists(os.path.join(folder, part)):
        yield os.path.join(folder, part)
    elif any(character in part for character in "*?["):
        try:
            names = os.listdir(folder or ".")
        except NotADirectoryError:
            return
        except OSError as error:
            log.warning("cannot look into the folder %s: %s", folder or ".", error.strerror)
            return
        hidden = part.startswith(".")
        yield from (
            os.path.join(folder, name) for name in fnmatch.filter(names, part) if hidden or not name.startswith(".")
        )


def _folders(top: str) -> Iterator[str]:
    """Yield a folder and all folders below it, also through links, but not hidden folders."""
    seen: set[str] = set()

    def unreadable(error: OSError) -> None:
        log.warning("cannot look into the folder %s: %s", error.filename, error.strerror)

    for folder, names, _ in os.walk(top or ".", followlinks=True, onerror=unreadable):
        real = os.path.realpath(folder)
        names[:] = [] if real in seen else sorted(name for name in names if not name.startswith("."))
        if real not in seen:
            seen.add(real)
            yield folder
