import json
import os
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mlm_jax import cli
from mlm_jax.checkpoints.workdir import claim_workdir
from mlm_jax.common.errors import UserError
from mlm_jax.run.sweep import (
    chain,
    compare,
    devices,
    is_finished,
    plot,
    product,
    read_trials,
    run_sweep,
    trial_name,
    zipped,
)
from tests.tiny import write_store

CONFIG = """
import sys
sys.path.insert(0, {root!r})
from mlm_jax.run.sweep import product
from tests.tiny import tiny_config
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
    long = trial_name({"tasks.mlm": {"objective": "mlm" * 100}, "seed": 1})
    assert len(long.encode()) < 255 and long != trial_name({"tasks.mlm": {"objective": "mlm" * 100}, "seed": 2})
    with pytest.raises(UserError, match="not equally long: 1 of a, 2 of b"):
        zipped({"a": (1,), "b": (1, 2)})


@pytest.mark.parametrize("body, message", [
    ("", "no sweep"),
    ("def sweep(): return []", "lists no trial"),
    ("def sweep(): return [{'seed': 1}, {'seed': 1}]", "'seed=1' twice"),
    ("def sweep(): return [{'model.widht': 1}]", "did you mean 'width'"),
    ("from mlm_jax.run.sweep import zipped\ndef sweep(): return zipped({'seed': (1,), 'steps': ()})", "c.py: zipped .* 0 of steps"),
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


def sweep_file(tmp_path, request, trials='{"mixing.alpha": (0.3, 1.0)}'):
    text = CONFIG.format(root=str(request.config.rootpath), store=str(tmp_path / "the store"))
    (tmp_path / "c.py").write_text(text.replace('{"mixing.alpha": (0.3, 1.0)}', trials))
    return str(tmp_path / "c.py")


def test_commands_of_a_dry_run_can_be_pasted_and_values_may_be_numpys(tmp_path, request, capsys):
    file = sweep_file(tmp_path, request, '{"optimizer.learning_rate": __import__("numpy").logspace(-4, -2, 3)}')
    settings = ("data.modules=('a [b] c',)",)
    assert run_sweep(file, tmp_path / "out [1]", overrides=settings, dry_run=True) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    for line, rate in zip(lines, (1e-4, 1e-3, 1e-2), strict=True):
        words = shlex.split(line)
        assert words[-4:] == ["--set", *settings, "--set", f"optimizer.learning_rate={np.float64(rate).item()!r}"]
        assert words[words.index("--workdir") + 1].startswith(f"{tmp_path}/out [1]/learning_rate=")


def test_trials_of_another_config_are_not_taken_for_finished(tmp_path, request):
    from mlm_jax.config import load_config

    file = sweep_file(tmp_path, request)
    claim_workdir(tmp_path / "out" / "alpha=0.3", load_config(file, ("mixing.alpha=0.3", "model.width=8")))
    with pytest.raises(UserError, match="belongs to another config; these keys differ: model.width"):
        run_sweep(file, tmp_path / "out", dry_run=True)


def test_each_trial_sees_a_device_of_those_given(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7")
    assert devices(1) == [{}]
    assert [(slot["CUDA_VISIBLE_DEVICES"], slot["TPU_VISIBLE_CHIPS"]) for slot in devices(2)] == [("4", "0"), ("GPU-7", "1")]
    with pytest.raises(UserError, match="names 2 devices, too few for 3"):
        devices(3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in devices(3)] == ["0", "1", "2"]


def test_an_interrupt_begins_no_further_trial(tmp_path, request):
    """The first trial is a program that waits for the interrupt; the second one must never be."""
    file = sweep_file(tmp_path, request)
    code = f"""
import subprocess, sys
from mlm_jax.run import sweep
wait = "import signal, sys; signal.signal(signal.SIGINT, lambda *_: sys.exit(0)); print('ready', flush=True); signal.pause()"
sweep.command = lambda verb, file, workdir, settings: [sys.executable, "-c", wait]
sys.exit(sweep.run_sweep({file!r}, {str(tmp_path / "out")!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # fmt: skip
    log = tmp_path / "out" / "alpha=0.3" / "log.txt"
    while not (log.exists() and log.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command continues" in printed
    assert os.listdir(tmp_path / "out") == ["alpha=0.3"]


def test_each_trial_says_where_its_log_is_and_why_it_failed(tmp_path, request, capsys, monkeypatch):
    file = sweep_file(tmp_path, request)
    fail = "print('much'); print('mlm-jax: error: it cannot work'); print(); raise SystemExit(2)"
    monkeypatch.setattr("mlm_jax.run.sweep.command", lambda *_: [sys.executable, "-c", fail])
    assert run_sweep(file, tmp_path / "out") == 1
    printed = capsys.readouterr().out.splitlines()
    assert f"alpha=1.0: begins, see {tmp_path}/out/alpha=1.0/log.txt" in printed
    assert "alpha=1.0: failed: mlm-jax: error: it cannot work" in printed


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
        events = [{"step": step, "time": 0, "eval/loss/de": start - step, "eval/loss/sw": start, "train/loss/de": 9.0,
                   "eval/tags/f1/de": 0.5, "eval/retrieval_csls_at_1/de-sw": 0.1}
                  for step in (0, 1, 2)]  # fmt: skip
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    page = plot(tmp_path, ["alpha=0.3", "alpha=1.0"]).read_text()
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert list(data["curves"]) == ["de/loss", "de/tags/f1", "sw/loss"]
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
