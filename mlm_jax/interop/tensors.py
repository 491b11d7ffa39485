"""Reading and writing safetensors folders tensor by tensor, in one file or in shards with an index.

Only the current tensor is held in memory (reading maps a small part of the files, writing holds one shard). So peak memory
is the model plus about one shard.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mlm_jax.common.errors import UserError, nearest, one_line
from mlm_jax.common.foreign_files import MOST_JSON, parse_json, read_json, without_repeats

log = logging.getLogger(__name__)

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9
MAPPED_BYTES = 2 * 10**8  # bytes of a file that may stay in memory after they were read
READ = ("F64", "F32", "F16", "BF16")  # types as a header names them
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


class TensorReader:
    """The tensors of a folder: names, types and shapes are read at once, values one tensor at a time.

    Args:
      folder: holds ``model.safetensors``, or else ``model.safetensors.index.json`` and the shards that it names.

    Attributes:
      shapes: {tensor: shape}.
      file_of: {tensor: name of the file that holds it}.

    Raises:
      UserError: there are no such files, a shard that the index names is missing, a file is cut short or damaged, or a name
        occurs twice.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, str] = {}
        self.file_of: dict[str, str] = {}
        self.open: tuple[str, safe_open] | None = None
        self.mapped = 0  # bytes of the open file that were read, which are in memory
        for name in self._files():
            header = self._header(name)
            self._opened(name)  # the library checks that the header fits the file
            for tensor, entry in header.items():
                if tensor in self.file_of:
                    raise UserError(f"tensor {tensor!r} is in {self.file_of[tensor]} and in {name}", file=self.folder)
                self.file_of[tensor] = name
                self.shapes[tensor], self.types[tensor] = tuple(entry["shape"]), entry["dtype"]

    @property
    def elements(self) -> int:
        """Total number of elements of all tensors."""
        return sum(map(math.prod, self.shapes.values()))

    def _files(self) -> list[str]:
        """Return the names of the files: the single file if it exists, as in transformers, or else the shards."""
        index = self.folder / INDEX
        files = [SINGLE]
        if not (self.folder / SINGLE).is_file() and index.is_file():
            try:
                files = sorted(set(map(os.fspath, read_json(index)["weight_map"].values())))
            except (KeyError, AttributeError, TypeError) as error:
                raise UserError("not an index of safetensors files", file=index, remedy="download it again") from error
            for name in files:
                if Path(name).name != name:
                    raise UserError(f"it names a file in another folder: {name!r}", file=index)
        for name in files:
            if not (self.folder / name).is_file():
                pickled = sorted(path.name for path in self.folder.glob("*.bin"))
                raise UserError(
                    f"{name} is missing" + (f"; {pickled[0]} is a pickle, which is not read" if pickled else ""),
                    file=self.folder,
                    remedy="save the model as safetensors (transformers: model.save_pretrained)",
                )
        return files

    def _header(self, name: str) -> dict[str, Any]:
        """Return {tensor: {"dtype": …, "shape": …}} of a file, without reading tensors."""
        file = self.folder / name
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            if size > MOST_JSON:
                raise UserError(
                    f"the file is cut short or not in the safetensors format (its header would have {size:,} bytes)",
                    file=file,
                    remedy="download it again",
                )
            text = opened.read(size)
        try:
            header = parse_json(text, file, object_pairs_hook=without_repeats)
            tensors = {key: entry for key, entry in header.items() if key != "__metadata__"}
            if all({"dtype", "shape"} <= entry.keys() for entry in tensors.values()):
                return tensors
            reason = "a tensor has no type or no shape"
        except UserError as error:
            reason = error.problem
        except AttributeError:
            reason = "its header is not a table of tensors"
        raise UserError(
            f"the file is cut short or not in the safetensors format ({reason})", file=file, remedy="download it again"
        )

    def _opened(self, name: str) -> Any:
        if self.open is None or self.open[0] != name:
            self.mapped = 0
            try:
                self.open = (name, safe_open(self.folder / name, framework="np"))
            except SafetensorError as error:
                raise UserError(
                    f"the file is cut short or not in the safetensors format ({one_line(error)})",
                    file=self.folder / name,
                    remedy="download it again",
                ) from error
        return self.open[1]

    def __iter__(self) -> Iterator[str]:
        """Yield the tensors' names in the order of files, so that each file is opened once."""
        return iter(self.file_of)

    def __contains__(self, name: str) -> bool:
        return name in self.file_of

    def read(self, name: str) -> np.ndarray:
        """Return a tensor in the file's own dtype (bfloat16 as ``ml_dtypes.bfloat16``).

        Raises:
          UserError: there is no such tensor, or its type is not floating-point with 16 bits or more.
        """
        if name not in self.file_of:
            raise UserError(f"tensor {name!r} is missing{nearest(name, self.file_of)}", file=self.folder)
        if self.types[name] not in READ:
            raise UserError(
                f"tensor {name!r} is of type {self.types[name]}, but only {', '.join(READ)} are read",
                file=self.folder / self.file_of[name],
                remedy="quantised weights must be turned back into floating-point numbers first",
            )
        tensor = self._opened(self.file_of[name]).get_tensor(name)
        self.mapped += tensor.nbytes
        if self.mapped > MAPPED_BYTES:  # opening the file again for the next tensor frees the memory
            self.open = None
        return tensor


class TensorWriter:
    """Writes tensors into shards of at most ``shard_bytes`` (one tensor at least), and their index.

    The files have the names that Hugging Face gives them: ``model.safetensors``, or
    ``model-00001-of-00003.safetensors`` … and ``model.safetensors.index.json``.

    Args:
      folder: an existing folder; the caller renames it when all files are written.
      dtype: ``float32``, ``bfloat16`` or ``float16``.
      shard_bytes: largest size of one file.
    """

    def __init__(self, folder: str | Path, *, dtype: str = "float32", shard_bytes: int = SHARD_BYTES):
        if dtype not in DTYPES:
            raise UserError(
                f"weights cannot be written as {dtype!r}{nearest(dtype, DTYPES)}", remedy=f"use {', '.join(DTYPES)}"
            )
        self.folder, self.dtype, self.shard_bytes = Path(folder), DTYPES[dtype], shard_bytes
        self.pending: dict[str, np.ndarray] = {}
        self.pending_bytes = self.total_bytes = 0
        self.shards: list[list[str]] = []

    def add(self, name: str, value: np.ndarray) -> None:
        """Add one tensor; a full shard is written. NaN and infinite values are written with a warning.

        Raises:
          UserError: a value is too large for the type.
        """
        with np.errstate(over="ignore"):
            written = np.ascontiguousarray(value, self.dtype)
        finite = np.isfinite(value)
        if (finite & ~np.isfinite(written)).any():
            raise UserError(
                f"tensor {name!r} holds {np.abs(value[finite]).max():g}, which is too large for {written.dtype}",
                remedy="write it as bfloat16 or float32",
            )
        if not finite.all():
            log.warning("tensor %r holds NaN or infinite numbers, which are written as they are", name)
        value = written
        if self.pending and self.pending_bytes + value.nbytes > self.shard_bytes:
            self._flush()
        self.pending[name] = value
        self.pending_bytes += value.nbytes
        self.total_bytes += value.nbytes

    def close(self) -> None:
        """Write the last shard, give the files their final names, and write the index if there are several."""
        self._flush()
        count = len(self.shards)
        if count == 1:
            self._temporary(0).rename(self.folder / SINGLE)
            return
        names = [f"model-{number + 1:05d}-of-{count:05d}.safetensors" for number in range(count)]
        for number, name in enumerate(names):
            self._temporary(number).rename(self.folder / name)
        weight_map = {tensor: name for name, shard in zip(names, self.shards) for tensor in shard}
        index = {"metadata": {"total_size": self.total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
        (self.folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")

    def _flush(self) -> None:
        if self.pending or not self.shards:
            file = self._temporary(len(self.shards))
            save_file(self.pending, file, metadata={"format": "pt"})
            os.umask(mask := os.umask(0))
            file.chmod(0o666 & ~mask)  # safetensors makes its files unreadable for other users
            self.shards.append(list(self.pending))
            self.pending, self.pending_bytes = {}, 0

    def _temporary(self, number: int) -> Path:
        return self.folder / f"shard-{number}.safetensors"
