"""Lower packages never import higher ones, and no two modules import each other."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import mlm_jax

ROOMS = (
    "__version__",
    "common",
    "config",
    "parallel",
    "data.text",
    "data.bible",
    "data.vocabulary",
    "data.store",
    "data.loading",
    "model",
    "objectives",
    "training",
    "checkpoints",
    "evaluation",
    "report",
    "inference",
    "interop",
    "adaptation",
    "planning",
    "run",
    "commands",
    "cli",
)
FOLDER = Path(mlm_jax.__file__).parent
FILES = {  # {module: file} of all files with code, except the package's own __init__, which is above the rooms
    ".".join(file.relative_to(FOLDER).with_suffix("").parts).removesuffix(".__init__"): file
    for file in FOLDER.rglob("*.py")
    if file != FOLDER / "__init__.py" and file.stat().st_size
}


def imports(file: Path) -> Iterator[str]:
    """The modules of ours that a file imports, wherever in it and for whomever."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mlm_jax":
            package = node.module.removeprefix("mlm_jax").removeprefix(".")
            for name in node.names:
                module = f"{package}.{name.name}".removeprefix(".")
                yield module if module in FILES or not package else package
        elif isinstance(node, ast.Import):
            yield from (name.name.removeprefix("mlm_jax.") for name in node.names if name.name.startswith("mlm_jax."))


def room(module: str) -> int:
    found = [index for index, name in enumerate(ROOMS) if module == name or module.startswith(f"{name}.")]
    assert len(found) == 1, f"{module} is in no room of ROOMS"
    return found[0]


def test_lower_rooms_never_import_higher_ones():
    assert len(FILES) > 100
    for module, file in FILES.items():
        for imported in imports(file):
            assert room(imported) <= room(module), f"{module} imports {imported}"


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: {name for name in imports(file) if name != module} for module, file in FILES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError("these import each other: " + " <- ".join(error.args[1])) from None
