"""Digests of a user's code: of a module, and of modules in the same folder that it imports."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

INSTALLED = ("site-packages", "dist-packages")  # folders of libraries


def code_digest(module: str) -> list[str]:
    """Return the SHA-256 of a module's file, and of each file that its code imports from the same folder; [] if it has none.

    Import statements are read, not run, so ``import_module`` is not followed. In an installed library, only imports of its own
    modules are followed. Modules of this package have no digest, since a new version of it reads the same text.
    """
    if module.partition(".")[0] == "mlm_jax":
        return []
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):  # the package of the module is missing, or is not a package
        return []
    if found is None or not found.origin or not Path(found.origin).is_file():
        return []
    file = Path(found.origin)
    # The folder from which the module is imported.
    root = file.parents[module.count(".") + (file.name == "__init__.py")]
    files = {file: None}
    waiting = [(module, file)]
    while waiting:
        for name in _imported(*waiting.pop()):
            neighbour = _file_of(name, root)
            same_library = root.name not in INSTALLED or name.partition(".")[0] == module.partition(".")[0]
            if neighbour and same_library and neighbour not in files:
                files[neighbour] = None
                waiting.append((name, neighbour))
    first, *others = files
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in (first, *sorted(others))]


def _imported(module: str, file: Path) -> Iterator[str]:
    """Yield the full names of the modules that a module's code imports, and of their packages."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # importing the module raises this error too
        return
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def _file_of(name: str, root: Path) -> Path | None:
    """Return the file of a module below a folder."""
    path = root.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
