"""The commands that install optional dependencies (extras); remedies of errors name them."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]  # the folder of setup.py, if the package lies in one


def install_command(extra: str) -> str:
    """Return the pip command that installs an extra of setup.py: from the checkout, or the libraries by name.

    The package is not on PyPI, so ``pip install 'mlm_jax[extra]'`` would not find it.
    """
    if (CHECKOUT / "setup.py").is_file():
        return f"pip install -e '{'.' if Path.cwd() == CHECKOUT else CHECKOUT}[{extra}]'"
    found = importlib.metadata.requires("mlm_jax") or []
    of_extra = [name.strip() for name, _, marker in (entry.partition(";") for entry in found) if _names(marker, extra)]
    return f"pip install {' '.join(repr(requirement) for requirement in of_extra)}"


def _names(marker: str, extra: str) -> bool:
    return any(f"extra == {quote}{extra}{quote}" in marker for quote in "'\"")
