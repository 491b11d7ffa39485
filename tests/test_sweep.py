import json

import pytest

from mlm_jax import cli
from mlm_jax.errors import UserError
from mlm_jax.sweep import chain, compare, is_finished, plot, product, read_trials, run_sweep, trial_name, zipped
from tests.training.conftest import write_store

CONFIG = """
import sys
sys.path.insert(0, {root!r})
from mlm_jax.sweep import product
from tests.training.conftest import tiny_config
def get_config():
    return tiny_config({store!r}, steps=4)
def sweep():
    return product({{"mixing.alpha": (0.3, 1.0)}})
"""


def test_trials():
    assert product({"a.b": (1, 2), "c": (3,)}) == [{"a.b": 1, "c": 3}, {"a.b": 2, "c": 3}]
    assert chain(zipped({"a": (1, 2), "b": (3, 4)}), [{"a": 5}]) == [{"a": 1, "b": 3}, {"a": 2, "b": 4}, {"a": 5}]
    assert trial_name({"mixing.alpha": 0.3, "seed": 1}) == "alpha=0.3,seed=1"
    assert trial_name({"a.x": 1, "b.x": 2}) == "a.x=1,b.x=2"
    with pytest.raises(UserError, match="not equally long: 1 of a, 2 of b"):
        zipped({"a": (1,), "b": (1, 2)})


@pytest.mark.parametrize("body, message", [
    ("", "no sweep"),
    ("def sweep(): return []", "lists no trial"),
    ("def sweep(): return [{'seed': 1}, {'seed': 1}]", "'seed=1' twice"),
    ("def sweep(): return [{'model.widht': 1}]", "did you mean 'width'"),
    ("from mlm_jax.sweep import zipped\ndef sweep(): return zipped({'seed': (1,), 'steps': ()})", "c.py: zipped .* 0 of steps"),
    ("def sweep(): return [1]", "c.py: sweep.. fails with TypeError: 'int' object is not iterable"),
])  # fmt: skip
def test_sweeps_that_cannot_be(tmp_path, body, message):
    (tmp_path / "c.py").write_text(body)
    with pytest.raises(UserError, match=message):
        read_trials(str(tmp_path / "c.py"))


def test_an_argument_goes_to_every_trial(tmp_path, request, capsys):
    config = CONFIG.replace("get_config()", "get_config(steps)").replace("steps=4", "steps=int(steps)")
    (tmp_path / "c.py").write_text(config.format(root=str(request.config.rootpath), store=str(tmp_path / "store")))
    file = f"{tmp_path / 'c.py'}:7"
    assert cli.main(["sweep", "--config", file, "--workdir", str(tmp_path / "out"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "2 trials, 0 finished" in printed and printed.count(f"train --config {file} --workdir") == 2
    assert cli.main(["sweep", "--config", file, "--workdir", str(tmp_path / "out"), "--parallel", "0"]) == 2
    assert "there cannot be 0 trials at a time" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_comparison_takes_the_last_evaluation(tmp_path):
    trial = {"seed": 1}
    (tmp_path / "seed=1").mkdir()
    events = [{"step": 2, "time": 0, "eval/loss/de": 3.0}, {"step": 4, "time": 0, "train/loss/de": 1.0},
              {"step": 4, "time": 0, "eval/loss/de": 2.0}]  # fmt: skip
    (tmp_path / "seed=1" / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (result,) = compare(tmp_path, [trial, {"seed": 2}])
    assert result["step"] == 4 and result["metrics"] == {"eval/loss/de": 2.0}
    assert is_finished(tmp_path / "seed=1", 4) and not is_finished(tmp_path / "seed=1", 5)
    assert not is_finished(tmp_path / "seed=2", 4)


def test_the_plot_has_a_chart_a_language_with_a_curve_a_trial(tmp_path):
    for name, start in (("alpha=0.3", 3.0), ("alpha=1.0", 4.0)):
        (tmp_path / name).mkdir()
        events = [{"step": step, "time": 0, "eval/loss/de": start - step, "eval/loss/sw": start, "train/loss/de": 9.0}
                  for step in (0, 1, 2)]  # fmt: skip
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    page = plot(tmp_path, ["alpha=0.3", "alpha=1.0"]).read_text()
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert list(data["curves"]) == ["de/loss", "sw/loss"]
    falling = {"alpha=0.3": [[0, 3.0], [1, 2.0], [2, 1.0]], "alpha=1.0": [[0, 4.0], [1, 3.0], [2, 2.0]]}
    assert data["curves"]["de/loss"]["eval"] == falling
    assert data["languages"] == ["alpha=0.3", "alpha=1.0"]


@pytest.mark.slow
def test_a_sweep_runs_once_and_compares(tmp_path, request, capsys):
    store = write_store(tmp_path / "store")
    file = tmp_path / "c.py"
    file.write_text(CONFIG.format(root=str(request.config.rootpath), store=str(store)))
    assert run_sweep(str(file), tmp_path / "out", parallel=2) == 0
    results = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [result["name"] for result in results] == ["alpha=0.3", "alpha=1.0"]
    assert all("eval/loss/de" in result["metrics"] for result in results)
    capsys.readouterr()
    assert run_sweep(str(file), tmp_path / "out") == 0
    assert "2 finished before" in capsys.readouterr().out
