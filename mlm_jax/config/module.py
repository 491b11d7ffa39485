"""Import a config file as a module: once, and under one name.

A file in a package (a folder with ``__init__.py``) has the name that the package gives it, such as ``configs.demo``. Any
other file has its own name. Either way, the same name finds the same module in a source such as ``"configs.small:verses"``
and in an import of another config file.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from mlm_jax.common.addresses import refuse_to_read
from mlm_jax.common.errors import UserError

Version = tuple[int, int]  # of a file: time of its last change, and size
_loaded: dict[Path, tuple[Version, ModuleType]] = {}


EXAMPLES = Path(__file__).parents[1] / "configs"  # of a wheel; a checkout has them in configs/ beside the package


def config_file(path: str | Path) -> Path:
    """Return the path of a config file; a missing ``configs/…`` is searched for among the examples of the installed package.

    Raises:
      UserError: the path is an address.
    """
    refuse_to_read(path)
    file = Path(path)
    example = EXAMPLES.joinpath(*file.parts[1:])
    return example if not file.exists() and file.parts[:1] == ("configs",) and example.is_file() else file


def import_file(path: str | Path) -> ModuleType:
    """Return the module of a config file; it runs once, and again if the file has changed since.

    Raises:
      UserError: there is no such file, or another package has the name of its package.
      Exception: whatever the file raises.
    """
    file = config_file(path)
    if not file.is_file():
        raise UserError("there is no such config file", file=file, remedy="see the folder configs/ for examples")
    if file.suffix != ".py":
        raise UserError("a config file is Python, and ends in .py", file=file, remedy="see configs/demo.py")
    path, status = file.resolve(), file.stat()
    version = status.st_mtime_ns, status.st_size
    known = _loaded.get(path)
    if known and known[0] == version and sys.modules.get(known[1].__name__) is known[1]:
        return known[1]
    name, root = _name_and_root(path)
    # Modules that a config names ("module:function", imports) are searched for in the folder of its package, or else in its own
    # folder, and in the working directory.
    search(root, Path.cwd())
    module = _import_from_package(name, root, path, bool(known)) if "." in name else _import_alone(name, path)
    _loaded[path] = version, module
    return module


def search(*folders: Path) -> None:
    """Let modules be imported from these folders too."""
    sys.path += [str(folder) for folder in folders if str(folder) not in sys.path]


def _name_and_root(file: Path) -> tuple[str, Path]:
    """Return the full name of a file's module, and the folder from which it is found."""
    root, parts = file.parent, [file.stem]
    while (root / "__init__.py").is_file() and root.name.isidentifier():
        root, parts = root.parent, [root.name, *parts]
    return ".".join(parts), root


def _import_from_package(name: str, root: Path, file: Path, changed: bool) -> ModuleType:
    package = name.partition(".")[0]
    spec = importlib.util.find_spec(package)
    folders = [Path(folder).resolve() for folder in (spec.submodule_search_locations or ())] if spec else []
    if root / package not in folders:
        raise UserError(
            f"another package is called {package!r}: {', '.join(map(str, folders)) or package}",
            file=file,
            remedy=f"rename the folder {root / package}",
        )
    if changed:
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    return importlib.import_module(name)


def _import_alone(name: str, file: Path) -> ModuleType:
    there = sys.modules.get(name)
    ours = there is None or any(module is there for _, module in _loaded.values())
    same = getattr(there, "__file__", None) and Path(there.__file__).resolve() == file  # type: ignore[union-attr, arg-type]
    if same and not any(path == file for path in _loaded):  # a neighbour has imported it
        assert there is not None
        return there
    spec_there = importlib.util.find_spec(name) if there is None and name.isidentifier() else None
    if not ours or (spec_there and spec_there.origin and Path(spec_there.origin).resolve() != file):
        name = f"mlm_jax_config_{name}"  # a module of Python or of a library has the file's name
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # while it runs too: dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
