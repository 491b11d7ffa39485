"""Paths that users name: folders of this machine, and addresses of object stores such as ``gs://…``."""

from __future__ import annotations

import re
from pathlib import Path

from mlm_jax.common.errors import UserError

STORES = re.compile(r"(gs|s3):/+")  # the beginning of an address in a Path, which drops one slash


def is_local(path: str | Path) -> bool:
    """Return whether a path is one of this machine, and not an address of an object store."""
    return "://" not in str(path)


def is_address(path: str | Path) -> bool:
    """Return whether a path is an address such as ``gs://…``, also if a Path has dropped one of its slashes."""
    return not is_local(path) or bool(STORES.match(str(path)))


def refuse_address(path: str | Path) -> None:
    """Refuse an address of an object store as the path of a file or folder that is written to this machine.

    Raises:
      UserError: ``path`` is an address of an object store.
    """
    if is_address(path):
        problem = (
            "this is an address of an object store; only a run's workdir and a token store (data.store) can be one"
        )
        remedy = (
            "name a folder, and copy it: gcloud storage cp -r FOLDER gs://…, or aws s3 cp --recursive FOLDER s3://…"
        )
        raise UserError(problem, file=path, remedy=remedy)


def refuse_to_read(path: str | Path) -> None:
    """Refuse an address as the path of a file or folder that is read from this machine.

    Raises:
      UserError: ``path`` is an address.
    """
    if is_address(path):
        problem = (
            "this is an address; only a run's workdir, its checkpoints and a token store (data.store) are read from "
            "object stores"
        )
        remedy = (
            "copy it to this machine, or mount the bucket; text can be piped: gcloud storage cat gs://… | mlm-jax …"
        )
        raise UserError(problem, file=path, remedy=remedy)
