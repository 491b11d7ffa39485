"""New folders that appear whole or not at all, and local folders of models on the Hub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlm_jax.common.addresses import refuse_to_read
from mlm_jax.common.disk import disk_errors
from mlm_jax.common.errors import UserError
from mlm_jax.common.files import whole_folder

# Files to download from a Hub repository; weights in other formats can be many times as large.
TOKENIZER_FILES = ("*.json", "*.model", "vocab.txt", "merges.txt")
HUB_FILES = (*TOKENIZER_FILES, "*.safetensors")


@contextlib.contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """Yield a scratch folder that is renamed to ``out`` when the block succeeds, and removed if it fails.

    Raises:
      UserError: ``out`` exists and is not an empty folder, or cannot be written.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            "this already exists and is not an empty folder", file=out, remedy="name another folder, or remove it"
        )
    with disk_errors(out, left="nothing was written"), whole_folder(out) as scratch:
        yield scratch


def local_folder(source: str | Path, patterns: Sequence[str] = HUB_FILES) -> Path:
    """Return the local folder of a model, downloaded if ``source`` is a name on the Hugging Face Hub.

    Args:
      source: the folder, or the name.
      patterns: the patterns of the files to download from the Hub.

    Raises:
      UserError: there is neither such a folder nor such a model, or the Hub cannot be reached.
    """
    refuse_to_read(source)
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
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(f"{name!r} is neither a folder nor a model on the Hugging Face Hub") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"{name!r} is not a folder, and the Hugging Face Hub cannot be reached",
            remedy="download the model elsewhere and give its folder",
        ) from error
