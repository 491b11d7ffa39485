"""``"datasets:folder"``: a Hugging Face data set that was saved to disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mlm_jax.common.errors import UserError, nearest, one_line
from mlm_jax.common.extras import install_command
from mlm_jax.common.files import sizes_and_times
from mlm_jax.data.text.libraries.example import from_columns
from mlm_jax.data.text.reading import Wanted


def read(folder: str, wanted: Wanted) -> Iterator[Any]:
    """Yield the texts or pairs of a split.

    Raises:
      UserError: the library is not installed, there is no such data set or split, or an example has no text.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError("Hugging Face datasets is not installed", remedy=install_command("datasets")) from error
    try:
        data = datasets.load_from_disk(folder)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(
            f"no data set saved here: {one_line(error)}", file=folder, remedy="save it with datasets' save_to_disk"
        ) from error
    if isinstance(data, datasets.DatasetDict):
        if wanted.split not in data:
            raise UserError(f"the data set has no split {wanted.split!r}{nearest(wanted.split, data)}", file=folder)
        data = data[wanted.split]
    for number, entry in enumerate(data, 1):
        yield from_columns(entry, number, folder, wanted)


def fingerprint(rest: str, source: str) -> list:
    """Return (path, size, modification time) of each file of the data set; [] if it is not on this machine."""
    del source
    return sizes_and_times(rest)
