"""What users name as a place: folders of this machine, and addresses of object stores such as ``gs://…``."""

from __future__ import annotations

from pathlib import Path

from mlm_jax.common.errors import UserError


def is_local(place: str | Path) -> bool:
    """Return whether a place is a path of this machine and not an address."""
    return "://" not in str(place)


def local_path(place: str | Path) -> Path:
    """Return the path of a workdir or checkpoint, which must lie in a file system: files in it are appended to and renamed.

    Raises:
      UserError: it is an address of an object store.
    """
    if not is_local(place):
        mount = (
            "gcsfuse --implicit-dirs --rename-dir-limit=200000 BUCKET FOLDER"
            if str(place).startswith("gs://")
            else "s3fs"
        )
        raise UserError(
            "a workdir cannot be an address of an object store; only a token store (data.store) can",
            file=place,
            remedy=f"mount the bucket as a folder, for example with {mount}, and name that folder",
        )
    return Path(place)
