"""Train, measure and adapt multilingual Transformers on TPU and GPU meshes."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from mlm_jax.common.log_lines import plain_warnings

if TYPE_CHECKING:
    from mlm_jax.adaptation.grow_model import grow
    from mlm_jax.adaptation.trim_model import trim
    from mlm_jax.inference.classifier import load_classifier
    from mlm_jax.inference.encoder import load
    from mlm_jax.inference.translator import load_translator

__version__ = "0.1.0"
__all__ = ["__version__", "grow", "load", "load_classifier", "load_translator", "trim"]

_HOMES = {
    "grow": "mlm_jax.adaptation.grow_model",
    "load": "mlm_jax.inference.encoder",
    "load_classifier": "mlm_jax.inference.classifier",
    "load_translator": "mlm_jax.inference.translator",
    "trim": "mlm_jax.adaptation.trim_model",
}


if "ipykernel" in sys.modules:  # a notebook, which would show warnings in red, with the names of modules
    plain_warnings(sys.stdout)


def __getattr__(name: str) -> Any:
    """Import functions that need JAX only when they are used."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
