"""Train, measure and adapt multilingual Transformers on TPU and GPU meshes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlm_jax.use import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import what needs JAX only when it is used."""
    if name == "load":
        from mlm_jax.use import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
