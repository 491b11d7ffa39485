"""Lower rooms never import higher ones."""

import ast
from pathlib import Path

import mlm_jax

ROOMS = (
    "__version__", "errors", "files", "batch", "config_check", "config", "console", "processes", "lines", "data", "parallel",
    "model", "objectives", "evaluation", "report", "training", "use", "classify", "generation", "interop", "planning", "grow",
    "mine", "align", "measure", "sweep", "cli",
)  # fmt: skip


def imports(tree):
    """The modules of ours that a file imports, but for those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and node.module == "mlm_jax":
            yield from (f"mlm_jax.{name.name}" for name in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlm_jax."):
            yield node.module
        yield from imports(node)


def test_lower_rooms_never_import_higher_ones():
    folder = Path(mlm_jax.__file__).parent
    files = [file for file in folder.rglob("*.py") if file.parent != folder or file.name != "__init__.py"]
    assert len(files) > 100
    for file in files:
        here = file.relative_to(folder).with_suffix("").parts[0]
        for module in imports(ast.parse(file.read_text(encoding="utf-8"))):
            there = module.split(".")[1]
            assert ROOMS.index(there) <= ROOMS.index(here), f"{file.relative_to(folder)} imports {module}"
