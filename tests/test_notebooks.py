"""Every notebook runs from top to bottom."""

import importlib.util
import json
import re
import sys
import types
from pathlib import Path

import pytest

from tests.interop.published import published

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
FEWER = {  # the same, in seconds
    r"config\.steps = \d+": "config.evaluation.update(rows=4, examples=8, pairs=32); config.steps = 6",
    r"log_every, config\.evaluation\.every = .*": "log_every, config.evaluation.every = 6, 6",
    r"log_every = config\.evaluation\.every = \d+": "log_every = config.evaluation.every = 6",
    r"'rows': (32|64)": "'rows': 8",
    r"\('v5e:4x4', .*'H100:8'\)": "('v5e:4x4',)",
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
    assert run_first_cell(path, checkout / "notebooks", monkeypatch) == [[f"{checkout}[demo]", "matplotlib"]]
    with pytest.raises(SystemExit, match="set SOURCE"):
        run_first_cell(path, tmp_path, monkeypatch)
    wheel = "mlm_jax-1.0-py3-none-any.whl"
    # As on Colab.
    assert run_first_cell(path, tmp_path, monkeypatch, uploads=[wheel]) == [[f"{wheel}[demo]", "matplotlib"]]
    assert run_first_cell(path, tmp_path, monkeypatch, driver="570") == [
        [f"{wheel}[demo]", "matplotlib", "jax[cuda12]"]
    ]
    address = "https://example.org/mlm_jax.git"
    assert run_first_cell(path, tmp_path, monkeypatch, source=address, driver="580") == [
        [f"mlm_jax[demo] @ git+{address}", "matplotlib", "jax[cuda13]"]
    ]


def test_all_notebooks_begin_with_the_same_cell():
    assert len(NOTEBOOKS) == 6 and len({code(path)[0] for path in NOTEBOOKS}) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_saved_outputs_have_no_error_and_no_path_and_the_report_is_shown_in_a_frame(path):
    cells = json.loads(path.read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert not any(output["output_type"] == "error" for output in outputs)
    assert not re.search(r"/(tmp|root|home|work|Users)/", re.sub(r'"image/png": "[^"]*"', "", json.dumps(outputs)))
    framed = [source for source in code(path) if "report.read_text()" in source]
    assert all("<iframe srcdoc=" in source and "html.escape" in source for source in framed)
    assert bool(framed) == any("train(config" in source for source in code(path))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib").use("agg")
    monkeypatch.chdir(tmp_path)
    published(tmp_path / "tiny", "modernbert")
    scaled = FEWER | {r"PUBLISHED = '.*'": f"PUBLISHED = '{tmp_path / 'tiny'}'"}
    names: dict = {}
    for source in code(path):
        for whole, fewer in scaled.items():
            source = re.sub(whole, fewer, source)
        if "IPython" not in source:
            exec(compile(source, path.name, "exec"), names)
    if "train" in names:
        assert names["report"].stat().st_size > 10_000
