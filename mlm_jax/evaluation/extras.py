"""Libraries that only the ``metrics`` extra installs."""

from __future__ import annotations

import importlib
from types import ModuleType

from mlm_jax.common.errors import UserError
from mlm_jax.common.extras import install_command


def metric_library(name: str) -> ModuleType:
    """Import a library of the ``metrics`` extra.

    Raises:
      UserError: the library is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"{name} is not installed", remedy=install_command("metrics")) from error
