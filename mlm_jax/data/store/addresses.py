"""Paths of stores: folders of this machine, and addresses such as ``gs://…``."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import quote

import tensorstore as ts

from mlm_jax.common.addresses import is_local
from mlm_jax.common.objects import open_keys


def remove(folder: str | Path) -> None:
    """Remove everything at a path, if there is anything."""
    if is_local(folder):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        open_keys(folder).delete_range(ts.KvStore.KeyRange()).result()


def quoted(name: str) -> str:
    """Return a name as one step of a path."""
    return quote(name, safe="").replace(".", "%2E")  # so that no name becomes ".." and leaves the folder
