"""A run's metrics for Weights & Biases: one of its runs for each workdir, however often the workdir's run is started."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlm_jax.common.bucket import original
from mlm_jax.common.errors import UserError, one_line
from mlm_jax.common.extras import install_command

WITHOUT_ACCOUNT = ("offline", "dryrun", "disabled", "shared")  # values of WANDB_MODE with which no login is wanted


def check_wandb() -> None:
    """Check that Weights & Biases is installed, and logged in unless ``WANDB_MODE`` makes that unnecessary.

    A run calls this before it reads or writes anything.

    Raises:
      UserError: it is not installed, or has no API key.
    """
    wandb = _library()
    if os.environ.get("WANDB_MODE") not in WITHOUT_ACCOUNT:
        try:
            wandb.login()
        except wandb.errors.Error as error:
            raise _problem(error) from error


def wandb_run(workdir: Path, project: str, config: Mapping[str, Any]) -> Any:
    """Return the Weights & Biases run of a workdir, the same one at each start.

    Its config has the keys of the run's config. Its tags are the objectives of the tasks, unless WANDB_TAGS names others. A sweep
    sets group and tags of its trials by WANDB_RUN_GROUP and WANDB_TAGS, which W&B reads itself.

    Args:
      workdir: the absolute path of the workdir.
      project: the project of the run.
      config: the config of the run, as JSON values.

    Raises:
      UserError: Weights & Biases is not installed, has no API key, or cannot be reached.
    """
    wandb = _library()
    identity = hashlib.sha256(original(workdir).encode()).hexdigest()[:12]
    objectives = sorted({task["objective"] for task in config.get("tasks", {}).values()})
    tags = {} if os.environ.get("WANDB_TAGS") else {"tags": objectives}
    try:
        return wandb.init(
            project=project,
            name=workdir.name,
            id=identity,
            resume="allow",
            dir=str(workdir),
            config=dict(config),
            **tags,
        )
    except wandb.errors.Error as error:
        raise _problem(error) from error


def _library() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError("Weights & Biases is not installed", remedy=install_command("wandb")) from error
    return wandb


def _problem(error: Exception) -> UserError:
    remedy = "run wandb login, or set WANDB_API_KEY; or set WANDB_MODE=offline, and run wandb sync later"
    return UserError(f"Weights & Biases cannot be used: {one_line(error).rstrip('.')}", remedy=remedy)
