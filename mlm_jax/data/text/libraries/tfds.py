"""``"tfds:name"``: a data set of TensorFlow Datasets with text, which was prepared on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mlm_jax.common.errors import UserError, one_line
from mlm_jax.common.files import sizes_and_times
from mlm_jax.data.text.libraries.example import from_columns
from mlm_jax.data.text.reading import Wanted


def read(name: str, wanted: Wanted) -> Iterator[Any]:
    """Yield the texts or pairs of a split, in any file format of the library.

    Raises:
      UserError: the set or the split is not on this machine, or an example has no text.
    """
    for number, entry in enumerate(_entries(name, wanted.split), 1):
        yield from_columns(entry, number, f"tfds:{name}", wanted)


def _entries(name: str, split: str) -> Iterable[dict[str, Any]]:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name)
        try:
            return builder.as_data_source(split=split)
        except NotImplementedError:  # TFRecord, the library's default, has no random access
            return tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False))
    except Exception as error:  # the library raises many kinds, all about the name that the user gave
        remedy = "prepare the set with tfds first, and check its splits"
        raise UserError(f"tfds:{name}: {one_line(error)}", remedy=remedy) from error


def fingerprint(rest: str, source: str) -> list:
    """Return the name, and (path, size, modification time) of each file of all versions of the set that are on this machine.

    The folder is found without the library, which imports TensorFlow: a machine that only trains may lack it.
    """
    top = os.environ.get("TFDS_DATA_DIR", os.path.join("~", "tensorflow_datasets"))  # as the library has it
    return [source, *sizes_and_times(Path(top).expanduser() / re.split("[/:]", rest)[0])]
