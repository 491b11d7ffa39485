"""Uploads a folder to the Hugging Face Hub."""

from __future__ import annotations

import os
from pathlib import Path

from mlm_jax.common.errors import UserError, one_line


def push(folder: str | Path, name: str) -> str:
    """Upload a folder to a repository of the Hub, which is created if it does not exist.

    huggingface_hub reads the token itself (``hf auth login`` or HF_TOKEN); no message contains it.

    Args:
      folder: a folder written by export-hf.
      name: the name of the repository, such as "me/my-encoder".

    Returns:
      the address of the commit.

    Raises:
      UserError: there is no token, it has no write access, the name is not that of a repository, or the Hub cannot be
        reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
    from huggingface_hub.utils import get_token

    if not get_token():
        raise UserError("there is no token of the Hugging Face Hub", remedy="run hf auth login, or set HF_TOKEN")
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    try:
        api.create_repo(name, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=str(folder), commit_message="mlm-jax export-hf"))
    except HFValidationError as error:
        raise UserError(
            f"{name!r} is not the name of a repository", remedy="give a name such as me/my-encoder"
        ) from error
    except LocalTokenNotFoundError as error:
        raise UserError(
            "there is no token of the Hugging Face Hub", remedy="run hf auth login, or set HF_TOKEN"
        ) from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "?")
        raise UserError(
            f"the Hugging Face Hub refuses {name!r} (HTTP {status}); {folder} is written",
            remedy="check that the token may write there",
        ) from error
    except Exception as error:  # httpx and requests raise exceptions of their own if there is no network
        if type(error).__module__.partition(".")[0] not in (
            "httpx",
            "httpx2",
            "httpcore",
            "httpcore2",
            "requests",
            "urllib3",
        ):
            raise
        raise UserError(
            f"the Hugging Face Hub cannot be reached ({one_line(type(error).__name__)}); {folder} is written",
            remedy="upload the folder later: hf upload",
        ) from error
