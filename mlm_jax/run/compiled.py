"""Compiled programs: kept in a folder, so that a restart does not compile again; a damaged one is compiled again."""

from __future__ import annotations

import contextlib
import logging
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from mlm_jax.common.addresses import is_local
from mlm_jax.common.bucket import original
from mlm_jax.common.files import write_whole

log = logging.getLogger(__name__)

ENTRY, CHECKSUM = "-cache", ".crc32"  # endings of the file of a compiled program (JAX's), and of its checksum (ours)
YOUNG = 5  # seconds


class CompiledPrograms:
    """JAX's persistent compilation cache, whose files are checked before they are read.

    JAX ignores a file that it cannot decompress, but does not replace it, and does not notice a flipped bit if zstd does not.

    Args:
      workdir: the cache is below this folder, unless the user chose another one (``JAX_COMPILATION_CACHE_DIR``).
      writes: whether this process removes damaged files and records checksums; the first process of a job does.
    """

    def __init__(self, workdir: Path, writes: bool):
        self.goes = False  # whether the folder is part of a local copy that is removed at the end
        if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
            jax.config.update("jax_compilation_cache_dir", str(workdir.resolve() / "compiled"))
            self.goes = original(workdir.resolve()) != str(workdir.resolve())
        folder: str = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
        self.folder = Path(folder) if writes and folder and is_local(folder) else None
        self._remove_damaged()

    def release(self) -> None:
        """Make the process compile without a cache again if the folder of this cache is removed with the run."""
        if self.goes:
            jax.config.update("jax_compilation_cache_dir", None)
            compilation_cache.reset_cache()

    def record(self) -> None:
        """Write the checksums of programs that were compiled since the last call."""
        for entry in self._entries():
            file = Path(f"{entry}{CHECKSUM}")
            with contextlib.suppress(FileNotFoundError):  # another run of this folder has just removed it
                if not file.exists() and not _is_young(entry):
                    write_whole(file, str(zlib.crc32(entry.read_bytes())))

    def _entries(self) -> Iterator[Path]:
        if self.folder is not None:
            yield from sorted(entry for entry in self.folder.glob(f"*{ENTRY}") if not entry.is_dir())

    def _remove_damaged(self) -> None:
        """Remove programs whose checksum differs, and those that a killed process wrote only in part."""
        for entry in self._entries():
            file = Path(f"{entry}{CHECKSUM}")
            try:
                damaged = (file.exists() or not _is_young(entry)) and not _is_as_written(entry, file)
            except FileNotFoundError:  # another run of this folder has just removed it
                continue
            if damaged:
                log.warning("the compiled program %s is damaged: it is compiled again", entry.name)
                for rest in (file, entry):
                    rest.unlink(missing_ok=True)


def _is_young(entry: Path) -> bool:
    """Return whether another process, such as another trial of a sweep, may still be writing a program."""
    return abs(time.time() - entry.stat().st_mtime) < YOUNG


def _is_as_written(entry: Path, file: Path) -> bool:
    """Return whether a program has the checksum in its file, or is complete if it has no such file."""
    if not entry.is_file() and entry.exists():  # a pipe, which would be read for ever
        return False
    content = entry.read_bytes()
    try:
        return int(file.read_text()) == zlib.crc32(content) if file.exists() else _is_whole(content)
    except ValueError:
        return False


def _is_whole(content: bytes) -> bool:
    """Return whether a program without a checksum (from an older version or a killed process) is complete.

    JAX compresses with zlib, which has its own checksum, or with zstd, whose files JAX checks when it reads them.
    """
    if content[:1] != b"\x78":  # zlib's first byte
        return len(content) > 0
    decompressor = zlib.decompressobj()
    try:
        decompressor.decompress(content)
    except zlib.error:
        return False
    return decompressor.eof
