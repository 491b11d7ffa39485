"""Every notebook runs from top to bottom."""

import importlib.util
import json
import sys
import types
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
FEWER = {
    "config.steps = 300": "config.steps = 6",
    "log_every = config.evaluation.every = 100": "log_every = config.evaluation.every = 6",
}


def code(path):
    """The sources of a notebook's code cells."""
    cells = json.loads(path.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run_first_cell(path, folder, monkeypatch, *, source="", uploads=(), driver=""):
    """Run the installing cell in a folder, where nothing is installed: returns what pip was asked for."""
    asked, find = [], importlib.util.find_spec
    colab = types.SimpleNamespace(
        files=types.SimpleNamespace(upload=lambda: [(folder / name).touch() for name in uploads])
    )
    known = {"mlm_jax": None, "google.colab": True if uploads else None}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: known[name] if name in known else find(name))
    monkeypatch.setitem(sys.modules, "google.colab", colab)

    def run(command, **options):
        if command[0] == "nvidia-smi":
            return types.SimpleNamespace(stdout=f"{driver}.65.06\n")
        asked.append(command[command.index("-q") + 1 :])

    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setattr("shutil.which", lambda name: name if driver else None)
    monkeypatch.chdir(folder)
    exec(code(path)[0].replace("SOURCE = ''", f"SOURCE = {source!r}"), {})
    return asked


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_cell_installs_from_what_is_there(path, tmp_path, monkeypatch):
    checkout = path.parents[1]
    assert run_first_cell(path, checkout / "notebooks", monkeypatch) == [[f"{checkout}[demo]"]]
    with pytest.raises(SystemExit, match="set SOURCE"):
        run_first_cell(path, tmp_path, monkeypatch)
    wheel = "mlm_jax-1.0-py3-none-any.whl"
    assert run_first_cell(path, tmp_path, monkeypatch, uploads=[wheel]) == [[f"{wheel}[demo]"]]  # as on Colab
    assert run_first_cell(path, tmp_path, monkeypatch, driver="570") == [[f"{wheel}[demo]", "jax[cuda12]"]]
    address = "https://example.org/mlm_jax.git"
    assert run_first_cell(path, tmp_path, monkeypatch, source=address, driver="580") == [
        [f"mlm_jax[demo] @ git+{address}", "jax[cuda13]"]
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_report_is_shown_in_a_frame(path):
    shown = [source for source in code(path) if "IPython" in source]
    assert shown and all("<iframe srcdoc=" in source and "html.escape" in source for source in shown)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for cell in json.loads(path.read_text())["cells"]:
        source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
        for whole, fewer in FEWER.items():
            source = source.replace(whole, fewer)
        if cell["cell_type"] == "code" and "IPython" not in source:
            exec(compile(source, f"{path.name}", "exec"), names)
    assert (tmp_path / "runs" / "first" / "report.html").stat().st_size > 10_000
