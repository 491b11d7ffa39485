"""Trials that Optuna proposes: they learn from results, are the same each time, and go on after an interruption."""

import json
import math
import subprocess
import sys

import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.run.sweep import Range, read_trials, trial_name
from mlm_jax.run.sweep import runner as runner_module
from mlm_jax.run.sweep.optuna_search import PROPOSALS, in_rounds, optuna_search, read_proposals
from mlm_jax.run.sweep.runner import read_sweep, result_of, run_sweep

optuna = pytest.importorskip("optuna")

RATES = {
    "optimizer.learning_rate": Range(1e-5, 1.0, log=True),
    "mixing.alpha": (0.3, 0.7),
    "seed": Range(0, 9, whole=True),
}


def loss(settings):
    return 3 + abs(math.log10(settings["optimizer.learning_rate"]) + 2.5) + (settings["mixing.alpha"] == 0.3)


def runner(log, failing=()):
    def run(known, waiting):
        log.append([trial_name(trial) for trial in waiting])
        values = [(None if trial_name(trial) in failing else loss(trial), "eval/loss/mean") for trial in known]
        return int(any(trial_name(trial) in failing for trial in waiting)), values  # of this round, as a sweep's

    return run


def test_trials_learn_from_those_before(tmp_path):
    log = []
    assert in_rounds(optuna_search(RATES, trials=40), tmp_path, 2, runner(log)) == 0
    trials = json.loads((tmp_path / PROPOSALS).read_text())
    assert len(trials) == 40 and [len(names) for names in log] == [2] * 20
    assert len({trial_name(trial) for trial in trials}) == 40
    first, last = (sum(map(loss, part)) / 10 for part in (trials[:10], trials[-10:]))
    assert last < first - 0.5 and min(map(loss, trials)) < 3.2
    assert all(isinstance(trial["seed"], int) and trial["mixing.alpha"] in (0.3, 0.7) for trial in trials)


def test_an_interrupted_search_goes_on_as_if_it_had_not_been(tmp_path):
    whole, parts = [], []
    search = optuna_search(RATES, trials=9, seed=3)
    in_rounds(search, tmp_path / "whole", 2, runner(whole))

    def interrupted(known, waiting):
        runner(parts)(known, waiting)
        return (75, []) if len(known) == 4 else runner([])(known, waiting)

    assert in_rounds(search, tmp_path / "parts", 2, interrupted) == 75
    assert in_rounds(search, tmp_path / "parts", 2, runner(parts)) == 0
    assert parts[2] == sum(whole[:2], [])  # earlier trials are listed again; the sweep skips finished ones
    assert parts[:2] + parts[3:] == whole
    assert read_proposals(tmp_path / "parts", search) == read_proposals(tmp_path / "whole", search)


def test_a_search_whose_config_is_invalid_leaves_no_workdir(tmp_path):
    def refused(known, waiting):
        raise UserError("unknown config key")

    search, folder = optuna_search(RATES, trials=6), tmp_path / "search"
    with pytest.raises(UserError, match="unknown config key"):
        in_rounds(search, folder, 2, refused)
    assert not folder.exists()
    in_rounds(search, folder, 2, lambda known, waiting: (75, []))
    with pytest.raises(UserError):  # trials have begun: they stay
        in_rounds(search, folder, 2, refused)
    assert len(read_proposals(folder, search)) == 2


def test_failed_trials_end_the_search_with_1_and_teach_it_nothing(tmp_path):
    search = optuna_search(RATES, trials=6)
    first = trial_name(search.propose([], 1)[0])
    assert in_rounds(search, tmp_path, 1, runner([], failing=(first,))) == 1
    assert len(read_proposals(tmp_path, search)) == 6
    assert result_of({"state": "failed: x", "metrics": {"eval/loss/mean": 1.0}}) == (None, "eval/loss/mean")
    assert result_of({"state": "finished", "select": "eval/f1/de", "metrics": {"eval/f1/de": 0.5}}) == (
        0.5,
        "eval/f1/de",
    )
    assert result_of({}) == (None, "eval/loss/mean")


def test_a_search_of_few_values_ends_with_them(tmp_path):
    log = []

    def run(known, waiting):
        log.extend(trial_name(trial) for trial in waiting)
        return 0, [(1.0, "eval/loss/mean") for _ in known]

    assert in_rounds(optuna_search({"seed": (0, 1, 2)}, trials=10), tmp_path, 2, run) == 0
    assert sorted(log) == ["seed=0", "seed=1", "seed=2"]


def test_trials_of_another_search_are_refused(tmp_path):
    (tmp_path / PROPOSALS).write_text('[{"seed": 1}]')
    with pytest.raises(UserError, match="trials of another search"):
        read_proposals(tmp_path, optuna_search(RATES, trials=2))


def test_without_optuna_the_remedy_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match="Optuna is not installed") as caught:
        optuna_search(RATES, trials=2)
    assert "[optuna]" in caught.value.remedy and "search()" in caught.value.remedy


def test_a_config_file_may_search(tmp_path):
    file = tmp_path / "c.py"
    text = "from mlm_jax.run.sweep import Range, optuna_search\ndef sweep(): return optuna_search({AXES}, trials=3)\n"
    file.write_text(text.replace("AXES", "'optimizer.learning_rate': Range(1e-4, 1e-2, log=True)"))
    assert read_sweep(str(file)).trials == 3
    with pytest.raises(UserError, match="by the results of others"):
        read_trials(str(file))  # as for a launch of every trial at once
    file.write_text(text.replace("AXES", "'optimizer.learning_rat': Range(1e-4, 1e-2)"))
    with pytest.raises(UserError, match="learning_rat"):
        read_sweep(str(file))


def test_the_rounds_of_a_search_prepare_a_shared_store_once(tmp_path, monkeypatch, capfd):
    file = tmp_path / "c.py"
    file.write_text(
        "from mlm_jax.config import default_config as get_config\n"
        "from mlm_jax.run.sweep import Range, optuna_search\n"
        "def sweep(): return optuna_search({'optimizer.learning_rate': Range(1e-4, 1e-2, log=True)}, trials=6)\n"
    )
    commands = []

    def prepared(command, **options):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(runner_module.subprocess, "run", prepared)
    monkeypatch.setattr(runner_module, "run_trials", lambda trials, *rest: ({one.name: "failed" for one in trials}, 0))
    assert run_sweep(str(file), tmp_path / "out", parallel=2) == 1
    assert len(commands) == 1 and "prepare" in commands[0]
    assert capfd.readouterr().out.count("preparing ") == 1
