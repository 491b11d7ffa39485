"""Where stores stand: folders of this machine, and addresses such as ``gs://…`` that TensorStore knows."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import quote

import tensorstore as ts

from mlm_jax.common.addresses import is_local
from mlm_jax.common.errors import UserError, one_line
from mlm_jax.data.store.ragged import FAILURES


def open_keys(folder: str | Path) -> ts.KvStore:
    """Open a place as keys and values.

    Raises:
      UserError: it is an address of no known kind.
    """
    address = Path(folder).absolute().as_uri() if is_local(folder) else str(folder)
    try:
        return ts.KvStore.open(address.rstrip("/") + "/").result()
    except FAILURES as error:
        raise UserError(f"cannot open it: {one_line(error)}", file=folder) from error


def remove(folder: str | Path) -> None:
    """Remove everything at a place, if there is anything."""
    if is_local(folder):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        open_keys(folder).delete_range(ts.KvStore.KeyRange()).result()


def quoted(name: str) -> str:
    """Return a name as one step of a path."""
    return quote(name, safe="").replace(".", "%2E")  # no name becomes "..", none leaves the folder
