"""A folder that appears whole or not at all, and the name of a model as a local folder."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from mlm_jax.common.errors import FULL, UserError

# What of a Hub repository is needed; weights in other formats can be many times the size.
HUB_FILES = ("*.json", "*.safetensors", "*.model", "vocab.txt", "merges.txt")


@contextlib.contextmanager
def whole_folder(out: str | Path) -> Iterator[Path]:
    """Yield a scratch folder beside ``out`` that becomes ``out`` when the block ends well, and is removed if not.

    Raises:
      UserError: ``out`` exists and is not an empty folder, or the disk is full.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            "this already exists and is not an empty folder", file=out, remedy="choose another --out, or remove it"
        )
    scratch = out.parent / f".{out.name}.incomplete-{os.getpid()}"
    try:
        scratch.mkdir(parents=True)
        yield scratch
        if out.exists():
            out.rmdir()
        scratch.rename(out)
    except (OSError, SafetensorError) as error:
        if is_disk_full(error):
            raise UserError(
                "no space left on the disk; nothing was written",
                file=out,
                remedy="free some space or choose another --out",
            ) from error
        if isinstance(error, PermissionError | NotADirectoryError | FileExistsError):
            raise UserError(f"cannot be written ({error.strerror})", file=out) from error
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # renamed already if all went well


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error, or what caused it, says that the disk or the quota is full."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    # Rust's errors come as text: "I/O error: No space left on device (os error 28)".
    return any(f"os error {code}" in str(error) for code in FULL)


def local_folder(source: str | Path) -> Path:
    """Return the folder of a model that is given as a local folder or by its name on the Hugging Face Hub.

    Raises:
      UserError: there is neither such a folder nor such a model, or no network to ask for it.
    """
    if Path(source).is_dir():
        return Path(source)
    name = str(source)
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or Path(source).exists():
        raise UserError(
            "there is no such folder", file=source, remedy="give a folder with config.json and model.safetensors"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(f"{name!r} is neither a folder nor a model on the Hugging Face Hub") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"{name!r} is not a folder, and the Hugging Face Hub cannot be reached",
            remedy="download the model elsewhere and give its folder",
        ) from error
