"""The contents of a checkpoint's folder: its facts and its arrays, whose checksums are verified."""

from __future__ import annotations

import base64
import gc
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from mlm_jax.checkpoints.checksum import checksums
from mlm_jax.common.bucket import bring
from mlm_jax.common.disk import causes
from mlm_jax.common.errors import UserError, one_line
from mlm_jax.common.foreign_files import MOST_JSON, MOST_TOKENIZER, check_file, read_json
from mlm_jax.common.seal import unsealed
from mlm_jax.data.vocabulary.folder import read_vocabulary
from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.training.paths import by_path

ANOTHER_RUN = "use a new workdir, with checkpoint.init to start from these weights"
FACTS: dict[str, Callable[[Any], bool]] = {  # {a checkpoint's fact: whether a value is possible}
    "config": lambda value: isinstance(value, dict),
    "languages": lambda value: _texts(value),
    "labels": lambda value: isinstance(value, dict) and all(_texts(names) for names in value.values()),
    "vocabulary": lambda value: isinstance(value, dict) and _texts([*value.values()]),
    "checksums": lambda value: isinstance(value, dict),
}
BLOCK = re.compile(r"\d+(\.\d+)*")  # names of the files of an array's blocks, if they are not in OCDBT's files
MOST_FACTS = MOST_TOKENIZER  # bytes; the facts contain a vocabulary in base64


class Damaged(Exception):
    """A checkpoint's files are missing or have changed since they were written."""


def load_facts(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's facts: config, languages, labels, vocabulary, checksums.

    Raises:
      Damaged: the file is missing or damaged.
    """
    try:
        facts = unsealed(read_json(folder / "facts" / "metadata", most=MOST_FACTS))
        for key, fits in FACTS.items():
            if not fits(facts[key]):
                raise ValueError(f"the value of {key!r} is not valid in a checkpoint")
    except (UserError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"its facts cannot be read: {brief(error)}") from error
    return {key: facts[key] for key in FACTS}


def read_arrays(folder: Path, abstract: Any) -> Any:
    """Return the arrays of ``abstract`` (a whole state, or {"params": …}) from one checkpoint.

    Args:
      folder: folder of the checkpoint.
      abstract: shapes with shardings.

    Raises:
      Damaged: the arrays cannot be read.
      UserError: the checkpoint has other arrays than ``abstract``.
    """
    wanted = by_path(abstract)
    try:
        there = by_path(array_shapes(folder))
    except Exception as error:  # Orbax raises many kinds for damaged files
        raise Damaged(brief(error)) from error
    rooms = {name.partition("/")[0] for name in wanted}
    different = [
        name
        for name in sorted({*wanted, *(name for name in there if name.partition("/")[0] in rooms)})
        if name not in wanted or name not in there or wanted[name].shape != there[name].shape
    ]
    if different:
        raise UserError(
            f"this checkpoint has other arrays than the run; the first is {different[0]!r}",
            file=folder,
            remedy=ANOTHER_RUN,
        )
    try:
        # A Checkpointer would wait for the other processes, and forever if one of them fails.
        return ocp.PyTreeCheckpointHandler().restore(
            folder / "state",
            args=ocp.args.PyTreeRestore(
                item=abstract,
                restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
                partial_restore=True,
            ),
        )
    except Exception as error:
        if any("RESOURCE_EXHAUSTED" in str(reason) or isinstance(reason, MemoryError) for reason in causes(error)):
            raise  # the devices' memory is full: nothing is wrong with the checkpoint
        problem = brief(error)
    gc.collect()  # here, where logging is quiet: Orbax's unfinished reads warn that they were never awaited
    raise Damaged(problem)


def damage(arrays: Any, expected: Mapping[str, int]) -> str:
    """Return the problem of arrays that were read; "" if their checksums are right.

    Args:
      arrays: from :func:`read_arrays`; if they are split over processes, all processes must call this.
      expected: checksums by path.
    """
    wrong = [name for name, number in checksums(arrays).items() if expected.get(name) != number]
    return f"{wrong[0]!r} has changed since it was written" if wrong else ""


def array_shapes(folder: Path) -> Any:
    """Return the shapes of a checkpoint's arrays, as a tree. The arrays of a checkpoint in a bucket are downloaded first."""
    bring(folder)
    for file in (folder / "state").rglob("*"):
        if file.is_symlink() or not file.is_dir():  # a device or a pipe would never end; only arrays may be large
            is_array = file.parent.name == "d" or BLOCK.fullmatch(file.name)
            check_file(file, math.inf if is_array else MOST_JSON)
    shapes = ocp.PyTreeCheckpointHandler().metadata(folder / "state").tree
    for name, leaf in by_path(shapes).items():
        storage = getattr(leaf, "storage", None)
        block = storage.chunk_shape if storage else None
        if block and any(part > max(size, 1) for part, size in zip(block, leaf.shape)):  # it would be allocated
            raise Damaged(f"a block of {name!r} would be larger than the array")
    return shapes


def everyone(fine: bool) -> bool:
    """Return whether all processes are fine; each waits for all."""
    return fine if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(fine)).all())


def pack(vocabulary: Vocabulary) -> dict[str, str]:
    """Return {name: content in base64} of a vocabulary's files."""
    return {name: base64.b64encode(content).decode() for name, content in sorted(vocabulary.files().items())}


def unpack(files: Mapping[str, str], path: Path) -> Vocabulary:
    """Return the vocabulary that :func:`pack` packed.

    Args:
      files: {name: content in base64}.
      path: the path in messages.

    Raises:
      UserError: the files are damaged.
    """
    return read_vocabulary(lambda name: base64.b64decode(files[name], validate=True), path)


def brief(error: BaseException) -> str:
    """Return the message of an exception in one line, without TensorStore's advice."""
    return one_line(str(error).partition("See full TensorStore")[0]) or type(error).__name__


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)
