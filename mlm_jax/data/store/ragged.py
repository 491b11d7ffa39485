"""Ragged arrays of numbers in Zarr 3, by TensorStore: many slices are read at once, and appending takes bounded memory.

A flat array is stored as ``[blocks, block]``, many blocks to a file (Zarr's sharding codec). So reading a random row of a text
decodes one or two blocks, not the million tokens of a file. Every block has a checksum; a missing block is an error.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorstore as ts

from mlm_jax.common.disk import disk_problem
from mlm_jax.common.errors import UserError, one_line
from mlm_jax.common.objects import FAILURES

FILE_VALUES = 1 << 20  # values of a file; a writer keeps as many of each array in memory
MOST_IN_FILE = 64 * FILE_VALUES  # largest file that is read
VALUES_BLOCK = (
    2048  # values that a random read decodes; smaller compresses worse, larger reads slower (benchmarks/loader.py)
)
OFFSETS_BLOCK = 512
DESCRIPTION = "zarr.json"  # the file of an array that holds its shape, type and codecs
LOOKED_AT = 1 << 20  # most documents whose lengths are read for statistics: 8 MiB of offsets
UNBOUNDED = 1 << 40  # blocks; the shape of an array that is still growing
MAKE_ANEW = "delete the store and run mlm-jax prepare"


class Flat:
    """A flat array of numbers, of which many slices can be read at once.

    Args:
      array: opened TensorStore of shape ``[blocks, block]``.
      size: number of values; the last block is padded with zeros.
      path: for messages.
    """

    def __init__(self, array: ts.TensorStore, size: int, path: str):
        self.array, self.size, self.path = array, size, path
        self.block = array.shape[1]

    def __len__(self) -> int:
        return self.size

    def request(self, starts: np.ndarray, stops: np.ndarray) -> Callable[[], list[np.ndarray]]:
        """Start reading ``[start, stop)`` for every pair; the returned function waits and returns the slices, in order.

        Raises:
          UserError: (from the returned function) a file of the array is missing or corrupt.
        """
        starts, stops = np.asarray(starts, np.int64), np.asarray(stops, np.int64)
        if len(starts) and (starts.min() < 0 or stops.max() > self.size or (stops < starts).any()):
            raise IndexError(f"{self.path}: a slice outside [0, {self.size})")
        first, last = starts // self.block, np.maximum(stops - 1, starts) // self.block
        last = np.minimum(last, self.array.shape[0] - 1)  # an empty slice at the very end
        longest = int((last - first).max(initial=0))
        needed = np.unique(np.concatenate([np.minimum(first + i, last) for i in range(longest + 1)]))
        future = self.array[needed].read() if len(needed) else None

        def result() -> list[np.ndarray]:
            if future is None:
                return [np.empty(0, self.array.dtype.numpy_dtype)] * len(starts)
            try:
                blocks = future.result().reshape(-1)  # a slice's blocks stand next to each other
            except FAILURES as error:
                raise corrupt(error, self.path) from error
            begin = np.searchsorted(needed, first) * self.block + starts % self.block
            end = begin + (stops - starts)
            return [blocks[i:j] for i, j in zip(begin.tolist(), end.tolist())]

        return result

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return the numbers ``[start, stop)``."""
        return self.request(np.array([start]), np.array([self.size if stop is None else stop]))()[0]


class Ragged:
    """One feature of a stream's split: a sequence of numbers for each document.

    Attributes:
      offsets: ``Flat`` of ``documents + 1`` int64; document i is ``[offsets[i], offsets[i + 1])`` of the values.
      values: ``Flat`` as stored; the first token of each document is complemented.
      per_token: whether there is a value for each token; labels may be one for each document.
      longest: number of values of the longest document.
    """

    def __init__(self, values: Flat, offsets: Flat, facts: Mapping[str, Any]):
        self.values, self.offsets = values, offsets
        self.longest: int = facts["longest"]
        self.per_token: bool = facts["per_token"]
        self.complemented: bool = facts["complemented"]
        self._mean_lengths: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return the values ``[start, stop)`` of the whole sequence, document after document, as int32."""
        return self.decode(self.values.read(start, stop))

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """Return stored numbers as int32 values: tokens lose the complement that marks a document's start."""
        values = stored.astype(np.int32)
        return np.where(values < 0, ~values, values) if self.complemented else values

    def count_longer(self, length: int) -> tuple[int, int]:
        """Return (documents with more values than ``length``, documents looked at), which are the first ``LOOKED_AT`` at most."""
        looked_at = min(len(self), LOOKED_AT)
        return int((np.diff(self.offsets.read(0, looked_at + 1)) > length).sum()), looked_at

    def mean_length(self, most: int) -> float:
        """Return the mean number of values of the first ``LOOKED_AT`` documents, each cut to ``most``."""
        if self.longest <= most:
            return len(self.values) / max(len(self), 1)
        if most not in self._mean_lengths:
            offsets = self.offsets.read(0, min(len(self), LOOKED_AT) + 1)
            self._mean_lengths[most] = float(np.minimum(np.diff(offsets), most).mean())
        return self._mean_lengths[most]

    def documents(self, indices: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Return the documents of these indices, each an int32 array."""
        indices = np.asarray(indices, np.int64)
        bounds = self.offsets.request(indices, indices + 2)()
        stored = self.values.request(np.array([b[0] for b in bounds]), np.array([b[1] for b in bounds]))()
        return [self.decode(document) for document in stored]


def open_flat(keys: ts.KvStore, size: int, path: str, context: ts.Context, checksum: str = "") -> Flat:
    """Open an array.

    Args:
      keys: where the array is stored.
      size: number of values that it must hold.
      path: path, for messages.
      context: TensorStore's context, with the cache.
      checksum: checksum of its description, from :func:`description_checksum`; "" for a store of an older version.

    Raises:
      UserError: it is missing, corrupt or of another size.
    """
    spec = {
        "driver": "zarr3",
        "kvstore": keys.spec().to_json(),
        "recheck_cached_data": False,
        "recheck_cached_metadata": False,
        "fill_missing_data_reads": False,  # a file that is gone is an error, not zeros
    }
    try:
        if checksum and description_checksum(keys) != checksum:
            raise ValueError(f"{DESCRIPTION} has changed since it was written: its checksum differs")
        array = ts.open(spec, open=True, read=True, context=context).result()
    except FAILURES as error:
        raise corrupt(error, path) from error
    if array.rank == 2 and not _has_small_parts(array):
        raise corrupt(ValueError("its blocks are far larger than those of any store"), path)
    if array.rank != 2 or array.shape[0] != -(-size // array.shape[1]):
        raise corrupt(ValueError(f"shape {array.shape} cannot hold the {size} values of the manifest"), path)
    return Flat(array, size, path)


def _has_small_parts(array: ts.TensorStore) -> bool:
    """Return whether a block and a file of an array fit into memory; their sizes are those of the array's description."""
    block, layout = array.shape[1], array.chunk_layout
    in_file = math.prod(size or 1 for size in layout.write_chunk.shape or ())
    return 1 <= block <= FILE_VALUES and in_file <= MOST_IN_FILE and layout.read_chunk.shape == (1, block)


def description_checksum(keys: ts.KvStore) -> str:
    """Return the checksum of an array's description; its values have a checksum for each block."""
    return hashlib.sha256(keys.read(DESCRIPTION).result().value).hexdigest()


@dataclass
class Growing:
    """An array that is appended to; values wait in memory until they fill a file.

    Attributes:
      array: TensorStore of shape ``[UNBOUNDED, block]``.
      block: values of a block.
      written: values on disk, a multiple of FILE_VALUES until the end.
    """

    array: ts.TensorStore
    block: int
    written: int = 0
    waiting: list[np.ndarray] = field(default_factory=list)
    waiting_values: int = 0
    writes: list[Any] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Number of values that were appended."""
        return self.written + self.waiting_values

    def append(self, values: np.ndarray) -> None:
        """Append numbers of the array's dtype."""
        self.waiting.append(values)
        self.waiting_values += len(values)
        if self.waiting_values >= FILE_VALUES:
            buffer = np.concatenate(self.waiting)
            whole = len(buffer) // FILE_VALUES * FILE_VALUES
            self._write(buffer[:whole])
            self.waiting, self.waiting_values = [buffer[whole:].copy()], len(buffer) - whole

    def finish(self) -> None:
        """Write the waiting values, wait for all writes, and cut the shape to the number of values."""
        buffer = np.concatenate(self.waiting)
        size = self.size
        if len(buffer):
            self._write(np.pad(buffer, (0, -len(buffer) % self.block)))
        for write in self.writes:
            write.result()
        blocks = -(-size // self.block)
        self.array.resize(exclusive_max=[blocks, self.block], resize_metadata_only=True).result()
        self.written, self.waiting, self.waiting_values = size, [], 0

    def abandon(self) -> None:
        """Wait until all writes have ended or failed, since the folder will be removed."""
        for write in self.writes:
            write.exception()

    def _write(self, values: np.ndarray) -> None:
        for write in self.writes:  # earlier writes end before a new one begins, so that memory is bounded
            write.result()
        rows = values.reshape(-1, self.block)
        start, step = self.written // self.block, FILE_VALUES // self.block
        # Each write is one file: if it fails, it has ended. A larger write might go on with its other files.
        files = [(i, rows[i : i + step]) for i in range(0, len(rows), step)]
        self.writes = [self.array[start + i : start + i + len(part)].write(part) for i, part in files]
        self.written += len(values)


def create(keys: ts.KvStore, dtype: np.dtype, block: int, context: ts.Context) -> Growing:
    """Begin an array of ``dtype`` numbers at ``keys``, in blocks of ``block``."""
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    fast = {"name": "zstd", "configuration": {"level": 1, "checksum": True}}
    sharding = {"chunk_shape": [1, block], "codecs": [little, fast], "index_codecs": [little, {"name": "crc32c"}]}
    grid = {"name": "regular", "configuration": {"chunk_shape": [FILE_VALUES // block, block]}}
    spec = {
        "driver": "zarr3",
        "kvstore": keys.spec().to_json(),
        "store_data_equal_to_fill_value": True,  # so that a block that is missing at reading time was lost
        "metadata": {
            "shape": [UNBOUNDED, block],
            "data_type": dtype.name,
            "fill_value": 0,
            "chunk_grid": grid,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        },
    }
    return Growing(ts.open(spec, create=True, context=context).result(), block)


def corrupt(error: Exception, path: str) -> UserError:
    """Return the error for values at ``path`` that cannot be read."""
    return UserError(f"the token store is corrupt or incomplete: {one_line(error)}", file=path, remedy=MAKE_ANEW)


def unwritten(error: Exception, path: str) -> UserError:
    """Return the error for a failed write at ``path``."""
    problem = disk_problem(error)
    remedy = "free some space, or name another folder in data.store; nothing half-written was left" if problem else ""
    return UserError(problem or f"cannot write the token store: {one_line(error)}", file=path, remedy=remedy)
