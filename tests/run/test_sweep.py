import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from rich.console import Console

from mlm_jax import cli
from mlm_jax.checkpoints.workdir import claim_workdir
from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.run.sweep import Range, chain, product, read_trials, run_sweep, search, trial_name, zipped
from mlm_jax.run.sweep.pruning import curve_of, median_rule, successive_halving
from mlm_jax.run.sweep.runner import devices, environment, shared_store, write_results
from mlm_jax.run.sweep.trials import Trial, is_finished, last_event, run_trials, signals, state_after
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
    assert trial_name({"optimizer.betas": [0.9, 0.98], "x": "a*?/b"}) == "betas=(0.9,0.98),x=a___b"
    long = trial_name({"tasks.mlm": {"objective": "mlm" * 100}, "seed": 1})
    assert len(long.encode()) < 255 and long != trial_name({"tasks.mlm": {"objective": "mlm" * 100}, "seed": 2})
    with pytest.raises(UserError, match="not equally long: 1 of a, 2 of b"):
        zipped({"a": (1,), "b": (1, 2)})


@pytest.mark.parametrize(
    "body, message",
    [
        ("", "no sweep"),
        ("def sweep(): return []", "lists no trial"),
        ("def sweep(): return [{'seed': 1}, {'seed': 1}]", "'seed=1' twice"),
        ("def sweep(): return [{'model.widht': 1}]", "did you mean 'width'"),
        (
            "from mlm_jax.run.sweep import zipped\ndef sweep(): return zipped({'seed': (1,), 'steps': ()})",
            "c.py: zipped .* 0 of steps",
        ),
        ("def sweep(): return [1]", "c.py: sweep.. fails with TypeError: 'int' object is not iterable"),
    ],
)
def test_invalid_sweeps_are_refused(tmp_path, body, message):
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
    assert "--parallel must be at least 1, not 0" in capsys.readouterr().err and not (tmp_path / "out").exists()


def sweep_file(tmp_path, request, trials='{"mixing.alpha": (0.3, 1.0)}'):
    text = CONFIG.format(root=str(request.config.rootpath), store=str(tmp_path / "the store"))
    (tmp_path / "c.py").write_text(text.replace('{"mixing.alpha": (0.3, 1.0)}', trials))
    return str(tmp_path / "c.py")


def test_commands_of_a_dry_run_can_be_pasted_and_values_may_be_numpys(tmp_path, request, capsys):
    file = sweep_file(tmp_path, request, '{"optimizer.learning_rate": __import__("numpy").logspace(-4, -2, 3)}')
    settings = ("data.modules=('a [b] c',)",)
    assert run_sweep(file, tmp_path / "out (1)", overrides=settings, dry_run=True) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    for line, rate in zip(lines, (1e-4, 1e-3, 1e-2), strict=True):
        words = shlex.split(line)
        assert words[-4:] == ["--set", *settings, "--set", f"optimizer.learning_rate={np.float64(rate).item()!r}"]
        assert words[words.index("--workdir") + 1].startswith(f"{tmp_path}/out (1)/learning_rate=")


def test_trials_of_another_config_are_not_taken_for_finished(tmp_path, request):
    from mlm_jax.config import load_config

    file = sweep_file(tmp_path, request)
    claim_workdir(tmp_path / "out" / "alpha=0.3", load_config(file, ("mixing.alpha=0.3", "model.width=8")))
    with pytest.raises(UserError, match="belongs to another config; these keys differ: model.width"):
        run_sweep(file, tmp_path / "out", dry_run=True)


def test_each_trial_sees_a_device_of_those_given(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7")
    assert devices(1) == [{}]
    assert [(slot["CUDA_VISIBLE_DEVICES"], slot["TPU_VISIBLE_CHIPS"]) for slot in devices(2)] == [
        ("4", "0"),
        ("GPU-7", "1"),
    ]
    with pytest.raises(UserError, match="names 2 devices, too few for 3"):
        devices(3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in devices(3)] == ["0", "1", "2"]


WAIT = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); print('ready', flush=True); signal.pause()"


@pytest.mark.parametrize(
    "number, to_group, code",
    [
        (signal.SIGINT, True, 130),
        (signal.SIGTERM, False, 75),
        (signal.SIGHUP, False, 75),
    ],
)
def test_a_signal_ends_the_trials_and_begins_no_further_one(tmp_path, request, number, to_group, code):
    """The first trial is a program that waits for the signal, and takes one only; the second one must never be."""
    file = sweep_file(tmp_path, request)
    program = f"""
import sys
from mlm_jax.run.sweep import runner
runner.command = lambda verb, file, workdir, settings: [sys.executable, "-c", {WAIT!r}]
sys.exit(runner.run_sweep({file!r}, {str(tmp_path / "out")!r}))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    log = tmp_path / "out" / "alpha=0.3" / "log.txt"
    while not (log.exists() and log.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    (os.killpg if to_group else os.kill)(process.pid, number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == code and "the same command continues" in printed and "alpha=0.3: stopped" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"alpha=0.3", "comparison.json", "comparison.html"}


def test_a_sweep_under_nohup_goes_on_after_a_hangup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals() as received:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
            assert not received
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal")
def test_trials_end_with_a_sweep_that_is_killed(tmp_path, request):
    file = sweep_file(tmp_path, request)
    wait = f"import os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); {WAIT}"
    program = f"""
import sys
from mlm_jax.run.sweep import runner
runner.command = lambda verb, file, workdir, settings: [sys.executable, "-c", {wait!r}]
sys.exit(runner.run_sweep({file!r}, {str(tmp_path / "out")!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL)
    log = tmp_path / "out" / "alpha=0.3" / "log.txt"
    while not (log.exists() and log.read_text()):
        time.sleep(0.05)
    process.kill()
    process.wait()
    pid = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 30
    while is_running(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(pid)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    "fail, said",
    [
        (
            "print('much'); print('mlm-jax: error: it cannot work'); print(); raise SystemExit(2)",
            "mlm-jax: error: it cannot work",
        ),
        ("import os; print('measuring', flush=True); os.kill(os.getpid(), 9)", "killed by signal 9 (SIGKILL)"),
        ("raise SystemExit(3)", "without a message"),
    ],
)
def test_each_trial_says_where_its_log_is_and_why_it_failed(tmp_path, request, capsys, monkeypatch, fail, said):
    file = sweep_file(tmp_path, request)
    monkeypatch.setattr("mlm_jax.run.sweep.runner.command", lambda *_: [sys.executable, "-c", fail])
    assert run_sweep(file, tmp_path / "out") == 1
    printed = capsys.readouterr().out.splitlines()
    assert f"alpha=1.0: begins (0 of 2 finished, 1 failed), see {tmp_path}/out/alpha=1.0/log.txt" in printed
    assert f"alpha=1.0: failed: {said} (0 of 2 finished, 2 failed)" in printed
    results = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [result["state"] for result in results] == [f"failed: {said}"] * 2


def test_running_trials_log_their_progress(tmp_path, monkeypatch):
    monkeypatch.setattr("mlm_jax.run.sweep.trials.PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr("mlm_jax.run.sweep.trials.LOOK_SECONDS", 0.05)
    event = {"step": 3, "time": 0, "train/loss/mean": 2.5, "train/seconds_left": 90.0}
    code = f"import json, time; open('metrics.jsonl', 'w').write('[]\\n' + json.dumps({event}) + '\\n' + '{{\"st'); time.sleep(0.5)"
    folder = tmp_path / "one"
    trial = Trial("one", [sys.executable, "-c", f"import os; os.chdir({str(folder)!r}); {code}"], folder, 10, {})
    said = []
    monkeypatch.setattr("mlm_jax.run.sweep.trials.is_finished", lambda *_: True)
    assert run_trials([trial], [{}], said.append) == ({"one": "finished"}, 0)
    assert "one: step 3 of 10, loss 2.500, 1.5 min left" in said and said[-1] == "one: finished (1 of 1 finished)"
    assert last_event(tmp_path / "one") == event and last_event(tmp_path) is None


def test_on_a_terminal_a_table_shows_where_the_trials_are(tmp_path, monkeypatch):
    monkeypatch.setattr("mlm_jax.run.sweep.trials.is_finished", lambda *_: True)
    console = Console(force_terminal=True, width=90, file=io.StringIO())
    wait = [sys.executable, "-c", "import time; time.sleep(1)"]
    trials = [Trial(name, wait, tmp_path / name, 10, {}) for name in ("one", "two")]
    run_trials(trials, [{}], console.print, console=console)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    assert re.search(r"one +starting\s+1 waiting", shown) and re.search(r"two +starting\s+0 waiting", shown)
    console = Console(force_terminal=True, width=90, file=io.StringIO())
    run_trials(trials, [{"CUDA_VISIBLE_DEVICES": "4"}, {"CUDA_VISIBLE_DEVICES": "6"}], console.print, console=console)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    assert re.search(r"device 4 +one +starting\s+device 6 +two +starting\s+0 waiting", shown)


LOGS = """
import json, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
losses = {losses}
with open("metrics.jsonl", "a") as file:
    for step, loss in enumerate(losses):
        file.write(json.dumps({{"step": step, "time": 0, "eval/loss/mean": loss}}) + "\\n")
        file.flush()
        time.sleep({seconds})
time.sleep({wait})
"""


def scripted(tmp_path, losses, wait):
    """Return a trial of four steps that logs these losses, the first one before its first step."""
    name = f"{losses[-1]}"
    (tmp_path / name).mkdir()
    code = f"import os; os.chdir({str(tmp_path / name)!r})\n" + LOGS.format(losses=losses, seconds=0.02, wait=wait)
    return Trial(name, [sys.executable, "-c", code], tmp_path / name, 4, {})


def test_a_rule_ends_weak_trials_early_and_the_strong_ones_finish(tmp_path):
    good = [scripted(tmp_path, [9, *(start - step for step in range(4))], 0) for start in (5.0, 5.1, 5.2)]
    bad = scripted(tmp_path, [9, 8.0, 8.1], 60)
    names = [trial.name for trial in (*good, bad)]

    def judge(trial):
        return median_rule(trial, {name: curve_of(tmp_path / name, "eval/loss/mean") for name in names})

    states, stopped_by = run_trials([*good, bad], [{}], print, judge=judge)
    assert stopped_by == 0 and [*states.values()][:3] == ["finished"] * 3
    assert (
        states[bad.name].startswith("ended early at step") and "worse than the median of 3 others" in states[bad.name]
    )


def test_successive_halving_lets_the_best_third_pass_each_rung():
    curves = {str(value): [(1, float(value))] for value in range(9)}
    passed = {name for name in curves if not successive_halving(name, curves)}
    assert passed == {"6", "7", "8"}
    assert successive_halving("0", curves) == "at step 1: not among the best 3 of 9"
    assert not successive_halving("0", {"0": [(1, 0.0)], "1": [(1, 9.0)]})  # too few trials
    assert not successive_halving("0", {**curves, "0": [(1, 0.0), (2, 0.0)]})  # between two rungs
    second = {str(value): [(1, 9.0), (2, 9.0), (3, float(value))] for value in range(3)}
    assert [bool(successive_halving(name, second)) for name in "012"] == [True, True, False]


def test_the_median_rule_compares_the_best_with_running_averages():
    curves = {name: [(1, value), (2, value)] for name, value in zip("abc", (1.0, 2.0, 3.0))}
    assert median_rule("d", curves | {"d": [(1, 1.9)]}) == "at step 1: worse than the median of 3 others"
    assert not median_rule("d", curves | {"d": [(1, 2.0)]})
    assert not median_rule("d", curves | {"d": [(3, 0.0)]})  # no other has come so far
    assert not median_rule("e", curves)


def test_a_trial_that_was_ended_early_is_not_run_again_unless_the_rule_is_left_out(tmp_path, request, capsys):
    file = sweep_file(tmp_path, request)
    out = tmp_path / "out"
    out.mkdir()
    write_results(out, {"alpha=0.3": {}, "alpha=1.0": {}}, {"alpha=0.3": "ended early at step 1: …"})
    overrides = ("evaluation.every=1",)
    assert run_sweep(file, out, dry_run=True, stop="halving", overrides=overrides) == 0
    printed = capsys.readouterr().out
    assert "2 trials, 0 finished before, 1 ended early" in printed and printed.count(" train --config") == 1
    assert run_sweep(file, out, dry_run=True, overrides=overrides) == 0
    assert capsys.readouterr().out.count(" train --config") == 2
    with pytest.raises(UserError, match="'alpha=0.3' is evaluated at its end only"):
        run_sweep(file, out, dry_run=True, stop="median")


def test_a_random_search_is_the_same_each_time_and_fewer_trials_are_the_first_of_more():
    axes = {
        "optimizer.learning_rate": Range(1e-4, 1e-2, log=True),
        "seed": Range(1, 9, whole=True),
        "mixing.alpha": (0.3, 1),
    }
    trials = search(axes, 12)
    assert trials == search(axes, 12) and trials[:5] == search(axes, 5) and trials != search(axes, 12, seed=1)
    assert all(
        1e-4 <= trial["optimizer.learning_rate"] <= 1e-2 and trial["mixing.alpha"] in (0.3, 1) for trial in trials
    )
    assert all(isinstance(trial["seed"], int) and 1 <= trial["seed"] <= 9 for trial in trials)
    # About half of them, on a logarithmic scale.
    assert sum(trial["optimizer.learning_rate"] < 1e-3 for trial in trials) in range(3, 10)
    with pytest.raises(UserError, match="fewer than 5 different combinations"):
        search({"seed": (1, 2)}, 5)


def test_a_trial_that_fails_gives_its_device_back(tmp_path):
    trials = [Trial(name, [sys.executable, "-c", "raise SystemExit(1)"], tmp_path / name, 1, {}) for name in "abc"]
    seen = []
    states, stopped_by = run_trials(trials, [{}], lambda line: None, lambda states: seen.append(len(states)))
    assert len(states) == 3 and stopped_by == 0 and seen == [1, 2, 3]


def write_trial(folder, events, steps=4, select=""):
    config = default_config()
    config.steps, config.evaluation.select = steps, select
    claim_workdir(folder, config)
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"time": 0, **event}) + "\n" for event in events))


def test_comparison_takes_the_last_evaluation_or_the_one_that_the_config_selects(tmp_path):
    events = [
        {"step": 2, "eval/loss/de": 1.0, "eval/loss/mean": 1.0},
        {"step": 4, "train/loss/de": 1.0},
        {"step": 4, "eval/loss/de": 2.0, "eval/loss/mean": 2.0},
    ]
    write_trial(tmp_path / "seed=1", events)
    write_trial(tmp_path / "seed=3", events, select="eval/loss/mean")
    one, two, three = write_results(tmp_path, {f"seed={seed}": {"seed": seed} for seed in (1, 2, 3)}, {})
    assert (one.step, one.metrics["eval/loss/de"], one.state) == (4, 2.0, "finished")
    assert (two.step, two.metrics, two.state) == (None, {}, "not begun")
    assert (three.step, three.metrics["eval/loss/de"], three.state) == (2, 1.0, "finished")
    assert is_finished(tmp_path / "seed=1", 4) and not is_finished(tmp_path / "seed=1", 5)
    assert not is_finished(tmp_path / "seed=2", 4)


def test_a_failure_is_remembered_until_the_trial_is_finished(tmp_path):
    write_trial(tmp_path / "seed=1", [{"step": 2, "eval/loss/de": 1.0}])
    trials = {"seed=1": {"seed": 1}}
    write_results(tmp_path, trials, {"seed=1": "failed: killed by signal 9 (SIGKILL)"})
    assert write_results(tmp_path, trials, {})[0].state == "failed: killed by signal 9 (SIGKILL)"
    assert write_results(tmp_path, trials, {"seed=1": "stopped"})[0].state == "stopped"
    assert write_results(tmp_path, trials, {})[0].state == "at step 2 of 4"


def test_trials_with_the_same_text_share_a_store_and_all_share_compiled_programs(tmp_path, monkeypatch):
    one, other, third = default_config(), default_config(), default_config()
    one.data.corpora = other.data.corpora = {"de": "m:f"}
    third.data.corpora = {"de": "m:g"}
    other.mixing.alpha, other.model.width = 0.9, 8
    assert shared_store(tmp_path, one) == shared_store(tmp_path, other) != shared_store(tmp_path, third)
    other.vocabulary.size = 300
    assert shared_store(tmp_path, one) != shared_store(tmp_path, other)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")
    found = environment(tmp_path / "sweep", "alpha=0.3,seed=1")
    assert found == {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "sweep" / "compiled"),
        "WANDB_TAGS": "alpha=0.3,seed=1",
    }


@pytest.mark.slow
def test_a_sweep_runs_once_and_compares(tmp_path, request, capsys):
    store = write_store(tmp_path / "store")
    file = tmp_path / "c.py"
    file.write_text(CONFIG.format(root=str(request.config.rootpath), store=str(store)))
    assert run_sweep(str(file), tmp_path / "out", parallel=2) == 0
    results = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [(result["name"], result["state"]) for result in results] == [
        ("alpha=0.3", "finished"),
        ("alpha=1.0", "finished"),
    ]
    assert all("eval/loss/de" in result["metrics"] for result in results)
    assert (tmp_path / "out" / "comparison.html").exists() and any((tmp_path / "out" / "compiled").iterdir())
    printed = capsys.readouterr().out
    assert "runs by eval/loss/mean" in printed and "best" in printed
    assert run_sweep(str(file), tmp_path / "out") == 0
    assert "2 finished before" in capsys.readouterr().out


def test_a_trial_that_a_signal_reaches_after_its_end_is_finished(tmp_path, monkeypatch):
    trial = Trial("one", [], tmp_path, 10, {})
    (tmp_path / "log.txt").write_text("the last line\n")
    states = {}
    for done in (True, False):
        monkeypatch.setattr("mlm_jax.run.sweep.trials.is_finished", lambda *_, done=done: done)
        states[done] = [state_after(trial, code) for code in (0, 75, -signal.SIGTERM, -signal.SIGKILL, 1)]
    assert states[True][:3] == ["finished"] * 3 and "exit code -9" in states[True][3] and "code 1" in states[True][4]
    killed, told = "failed: killed by signal 9 (SIGKILL)", "failed: the last line"
    assert states[False] == ["stopped"] * 3 + [killed, told]


def test_trials_share_an_adapted_model(tmp_path, capsys):
    """A model that config.adapt names is adapted once, unless the trials adapt it in different ways."""
    body = (
        "from mlm_jax.config import default_config\nfrom mlm_jax.run.sweep import product\n"
        "def get_config():\n    config = default_config()\n    config.data.corpora = {'en': 'en.txt'}\n"
        "    config.adapt.model = 'runs/model'\n    return config\n"
        "def sweep(): return product({'seed': (1, 2), 'adapt.trim': ({}, {'en': 'en.txt'})})\n"
    )
    (tmp_path / "c.py").write_text(body)
    command = ["sweep", "--config", str(tmp_path / "c.py"), "--workdir", str(tmp_path / "sweep"), "--dry-run"]
    assert cli.main(command) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "seed=" in line]
    for key in ("adapt.folder", "data.store"):
        found = [re.search(rf"{key}=(\S+)", line)[1] for line in lines]
        assert len(found) == 4 and found[:2] == found[2:] and found[0] != found[1]
