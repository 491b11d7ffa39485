"""``mlm-jax sweep``: each trial is a separate run, is resumed or skipped, and is compared with the others at the end."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from mlm_jax.checkpoints.workdir import check_workdir
from mlm_jax.common.addresses import is_local
from mlm_jax.common.console import table_console
from mlm_jax.common.errors import UNFINISHED, UserError, one_line
from mlm_jax.common.files import write_whole
from mlm_jax.common.foreign_files import read_json
from mlm_jax.config import default_config, file_and_argument, import_config, load_config, set_key
from mlm_jax.data.store.freshness import request
from mlm_jax.report.comparison import FINISHED, Run, read_run
from mlm_jax.report.comparison_page import write_comparison
from mlm_jax.report.comparison_tables import seeds_table, summary_table
from mlm_jax.report.history import is_number
from mlm_jax.run.sweep.axes import Settings, trial_name
from mlm_jax.run.sweep.optuna_search import OptunaSearch, in_rounds, read_proposals
from mlm_jax.run.sweep.pruning import ENDED_EARLY, RULES, curve_of
from mlm_jax.run.sweep.trials import INTERRUPTED, Trial, is_finished, run_trials

KEPT = ("failed", ENDED_EARLY)  # states of the last comparison that stay valid until the trial is run again
MEAN_LOSS = "eval/loss/mean"  # ranks trials if config.evaluation.select is not set
COMPARISON, PLOT = "comparison.json", "comparison.html"


def read_sweep(file: str) -> list[Settings] | OptunaSearch:
    """Return the trials of a config file, or the search that proposes them.

    An argument after the file's name is passed to ``get_config`` only.

    Raises:
      UserError: there is no ``sweep()``, it fails, it lists no trial or a trial twice, or a trial names an unknown key.
    """
    module = import_config(file_and_argument(file)[0])
    if not hasattr(module, "sweep"):
        raise UserError("this config file has no sweep()", file=file, remedy="see configs/sweeps/alpha.py")
    try:
        found = module.sweep()
        if isinstance(found, OptunaSearch):
            check_keys(found.propose([], 1))
            return found
        trials = [{key: _plain(value) for key, value in dict(trial).items()} for trial in found]
    except UserError as error:
        raise UserError(error.problem, file=error.file or file, line=error.line, remedy=error.remedy) from error
    except Exception as error:  # sweep() is the user's code
        problem = f"sweep() fails with {type(error).__name__}: {one_line(error)}"
        raise UserError(problem, file=file, remedy="let it return a list of {key: value}") from error
    if not trials:
        raise UserError("sweep() lists no trial", file=file)
    names = [trial_name(trial) for trial in trials]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"sweep() lists the trial {name!r} twice", file=file)
    check_keys(trials)
    return trials


def read_trials(file: str) -> list[Settings]:
    """Return the trials of a config file whose sweep lists them; errors are those of :func:`read_sweep`.

    Raises:
      UserError: the trials follow from the results of one another.
    """
    found = read_sweep(file)
    if isinstance(found, OptunaSearch):
        remedy = "list trials by product() or search(), or run mlm-jax sweep in one job"
        raise UserError(
            "optuna_search proposes trials by the results of others, so they cannot begin apart",
            file=file,
            remedy=remedy,
        )
    return found


def check_keys(trials: Sequence[Settings]) -> None:
    """Check the config keys and values of trials.

    Raises:
      UserError: a key is unknown, or a value cannot be its value.
    """
    for trial in trials:
        for key, value in trial.items():
            if not key.startswith("tasks."):  # the names of tasks are defined by the config
                set_key(default_config(), key, repr(value))


def _plain(value: Any) -> Any:
    """Return a value as plain Python: NumPy's numbers, as from ``np.logspace``, become Python's."""
    return value.item() if isinstance(value, np.generic) else value


def trial_settings(trial: Settings, overrides: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the ``key=value`` settings of a trial, after those of all trials."""
    return (*overrides, *(f"{key}={value!r}" for key, value in trial.items()))


def command(verb: str, file: str, workdir: Path, settings: Sequence[str]) -> list[str]:
    """Return the command of a verb of mlm-jax for a trial."""
    pairs = itertools.chain.from_iterable(("--set", setting) for setting in settings)
    return [sys.executable, "-m", "mlm_jax.cli", verb, "--config", file, "--workdir", str(workdir), *pairs]


def devices(parallel: int) -> list[dict[str, str]]:
    """Return environment variables that let a process see one accelerator, for ``parallel`` processes.

    Raises:
      UserError: ``CUDA_VISIBLE_DEVICES`` names fewer devices.
    """
    if parallel == 1:
        return [{}]
    given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if given and len(given) < parallel:
        raise UserError(
            f"CUDA_VISIBLE_DEVICES names {len(given)} devices, too few for {parallel} trials at a time",
            remedy=f"give --parallel {len(given)}",
        )
    gpus = given or [str(number) for number in range(parallel)]
    one_chip = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
    return [
        {"CUDA_VISIBLE_DEVICES": gpus[slot], "TPU_VISIBLE_CHIPS": str(slot), **one_chip} for slot in range(parallel)
    ]


def run_sweep(
    file: str,
    workdir: str | Path,
    *,
    parallel: int = 1,
    overrides: Sequence[str] = (),
    dry_run: bool = False,
    stop: str = "",
) -> int:
    """Run the trials that are not finished, ``parallel`` at a time, and compare all of them.

    Interrupted trials continue from their last checkpoint. If several trials run at a time, each sees only its own device.
    Trials with the same text and vocabulary share a token store, below WORKDIR/stores unless the config names one. If
    several trials run at a time, the store is prepared before the first of them begins. All trials share compiled programs.

    Args:
      file: config file with ``get_config`` and ``sweep``.
      workdir: each trial has a folder in it.
      parallel: trials at a time.
      overrides: ``key=value`` settings of all trials.
      dry_run: print each trial's command instead of running it.
      stop: name of the rule of :data:`mlm_jax.run.sweep.pruning.RULES` that ends weak trials early; "" means no rule, and then
        trials that a rule has ended before are continued.

    Returns:
      the exit code: 0; 1 if a trial failed; if a signal stopped the sweep, 130 after Ctrl-C and 75 otherwise. After a signal,
      running trials have saved, and the same command continues.

    Raises:
      UserError: the file or a trial is invalid, a trial is evaluated too late for ``stop``, or its folder belongs to another
        config.
    """
    if parallel < 1:
        raise UserError(f"--parallel must be at least 1, not {parallel}", remedy="give a number from 1")
    if not is_local(workdir):
        remedy = "name a folder, such as one where the bucket is mounted"
        raise UserError("the workdir of a sweep cannot be an address of an object store", file=workdir, remedy=remedy)
    found, folder = read_sweep(file), Path(workdir)
    prepared: set[str] = set()
    sweep = functools.partial(
        _run_listed, file, folder, parallel=parallel, overrides=overrides, stop=stop, prepared=prepared
    )
    if not isinstance(found, OptunaSearch):
        return sweep(found, dry_run=dry_run)
    if dry_run:
        return sweep(read_proposals(folder, found) or found.propose([], min(parallel, found.trials)), dry_run=True)

    def run_round(known: list[Settings], waiting: list[Settings]) -> tuple[int, list[tuple[float | None, str]]]:
        code = sweep(known, only=[trial_name(trial) for trial in waiting], in_all=found.trials)
        results = {entry["name"]: entry for entry in read_results(folder)}
        return code, [result_of(results.get(trial_name(trial), {})) for trial in known]

    return in_rounds(found, folder, parallel, run_round)


def result_of(entry: Mapping[str, Any]) -> tuple[float | None, str]:
    """Return (the metric that ranks trials, its key) of a trial's entry in comparison.json; None if the trial failed."""
    key = entry.get("select") or MEAN_LOSS
    failed = entry.get("state", "failed").startswith("failed")
    return (None if failed else entry.get("metrics", {}).get(key)), key


def _run_listed(
    file: str,
    workdir: Path,
    trials: Sequence[Settings],
    *,
    parallel: int,
    overrides: Sequence[str],
    stop: str,
    prepared: set[str],
    only: Sequence[str] | None = None,
    in_all: int | None = None,
    dry_run: bool = False,
) -> int:
    """Run listed trials; arguments, result and errors are those of :func:`run_sweep`.

    ``only`` names the trials that may run; the others are compared with them. None means all. ``in_all`` is the number of trials
    of a search, which lists them round by round. ``prepared`` are the token stores that earlier rounds have prepared.
    """
    console, slots = table_console(), devices(parallel)
    print_line = functools.partial(console.print, soft_wrap=True)
    listed = {trial_name(trial): trial for trial in trials}
    settings = {name: trial_settings(trial, overrides) for name, trial in listed.items()}
    configs = {name: load_config(file, given) for name, given in settings.items()}
    for name, config in configs.items():
        if config.adapt.model and not config.adapt.folder:
            adapt = config.adapt
            settings_of = [adapt.model, adapt.trim, adapt.grow]
            adapt.folder = str(shared_folder(workdir / "adapted", settings_of, config.data.corpora))
            settings[name] = (*settings[name], f"adapt.folder={config.adapt.folder}")
        if not config.data.store:
            store = shared_store(workdir, config)
            settings[name] = (*settings[name], f"data.store={store}")
            config.data.store = str(store)
        if not config.adapt.model:  # otherwise the trial checks the config of the adapted model
            check_workdir(workdir / name, config)
    if stop and (late := [name for name, config in configs.items() if config.evaluation.every >= config.steps]):
        remedy = "lower evaluation.every, or leave --stop out"
        raise UserError(f"trial {late[0]!r} is evaluated at its end only, so no rule can end it early", remedy=remedy)
    early = ended_early(workdir) if stop else {}
    unfinished = [
        name for name, config in configs.items() if name not in early and not is_finished(workdir / name, config.steps)
    ]
    waiting = [name for name in unfinished if only is None or name in only]
    before = f", {len(early)} {ENDED_EARLY}" if early else ""
    trials_now = f"{len(listed)}{f' of {in_all}' if in_all else ''} trials"
    print_line(f"{trials_now}, {len(listed) - len(unfinished) - len(early)} finished before{before}")
    commands = {name: command("train", file, workdir / name, settings[name]) for name in waiting}
    if dry_run:
        for train in commands.values():
            print_line(shlex.join(train))
        return 0
    shared = {configs[name].data.store: name for name in reversed(waiting)}
    for store, name in shared.items():
        if parallel == 1 or store in prepared:
            continue
        print_line(f"preparing {store}")
        if subprocess.run(command("prepare", file, workdir / name, settings[name]), check=False).returncode:
            return 1  # the child process has printed its error
        prepared.add(store)
    processes = [
        Trial(name, commands[name], workdir / name, configs[name].steps, environment(workdir, name)) for name in waiting
    ]
    judge = functools.partial(judged, stop, workdir, configs) if stop else None
    states, stopped_by = run_trials(
        processes,
        slots,
        print_line,
        lambda states: write_results(workdir, listed, early | dict(states)),
        judge,
        console,
    )
    runs = write_results(workdir, listed, early | states)
    if stopped_by:
        print_line("interrupted; the same command continues")
        return INTERRUPTED if stopped_by == signal.SIGINT else UNFINISHED
    if any(run.metrics for run in runs):
        show(runs, console)
        print_line(f"language by language, and curves: {workdir / PLOT}")
    return int(any(state.startswith("failed") for state in states.values()))


def ended_early(workdir: Path) -> dict[str, str]:
    """Return {trial: state} of the trials of a sweep that a rule has ended early."""
    states = {entry["name"]: entry.get("state", "") for entry in read_results(workdir)}
    return {name: state for name, state in states.items() if state.startswith(ENDED_EARLY)}


def judged(stop: str, workdir: Path, configs: Mapping[str, ConfigDict], trial: str) -> str:
    """Return a rule's reason to end a trial early; "" if the trial continues."""
    key = configs[trial].evaluation.select or MEAN_LOSS
    return RULES[stop](trial, {name: curve_of(workdir / name, key) for name in configs})


def shared_store(workdir: Path, config: ConfigDict) -> Path:
    """Return the folder of the token store that trials with the same text and vocabulary share."""
    asked = request(config)
    adapt = [config.adapt.folder] if config.adapt.model else []  # which has the vocabulary
    return shared_folder(workdir / "stores", *(asked[key] for key in ("data", "vocabulary", "languages")), *adapt)


def shared_folder(parent: Path, *settings: Any) -> Path:
    """Return a folder that trials with the same settings share."""
    return parent / hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def environment(workdir: Path, name: str) -> dict[str, str]:
    """Return environment variables of a trial: compiled programs are shared, W&B groups the trials.

    Variables that are set already are left as they are.
    """
    ours = {
        "JAX_COMPILATION_CACHE_DIR": str(workdir.resolve() / "compiled"),
        "WANDB_RUN_GROUP": workdir.resolve().name,
        "WANDB_TAGS": ",".join(part[:64] for part in name.split(",")),  # W&B's longest tag
    }
    return {variable: value for variable, value in ours.items() if variable not in os.environ}


def write_results(workdir: Path, trials: Mapping[str, Settings], states: Mapping[str, str]) -> list[Run]:
    """Write comparison.json and comparison.html, and return the trials as runs.

    Args:
      workdir: the workdir of the sweep.
      trials: {name: settings}.
      states: the states of the trials that were run now; states of others follow from their metrics and the last comparison.
    """
    before = {entry["name"]: entry.get("state", "") for entry in read_results(workdir)}
    runs = []
    for name, trial in trials.items():
        state = states.get(name) or (before.get(name, "") if before.get(name, "").startswith(KEPT) else "")
        runs.append(read_run(workdir / name, name, trial, "" if state == FINISHED else state))
    found = [
        {
            "trial": run.settings,
            "name": run.name,
            "state": run.state,
            "step": run.step,
            "select": run.select,
            "metrics": run.metrics,
        }
        for run in runs
    ]
    write_whole(workdir / COMPARISON, json.dumps(found, indent=1, default=str))
    write_comparison(workdir / PLOT, runs, title=workdir.resolve().name)
    return runs


def read_results(workdir: Path) -> list[dict[str, Any]]:
    """Return the results of an earlier comparison of a sweep; [] if there is none.

    Raises:
      UserError: the file is damaged.
    """
    file, remedy = workdir / COMPARISON, "delete it: it is written again"
    if not file.exists():
        return []
    try:
        entries = read_json(file)
    except UserError as error:
        raise UserError(error.problem, file=file, remedy=remedy) from error
    if not isinstance(entries, list) or not all(map(_is_result, entries)):
        raise UserError("these are not results of trials", file=file, remedy=remedy)
    return entries


def _is_result(entry: Any) -> bool:
    """Return whether a value is an entry of comparison.json."""
    metrics = entry.get("metrics", {}) if isinstance(entry, dict) else None
    if not isinstance(metrics, dict) or not all(map(is_number, metrics.values())):
        return False
    return isinstance(entry.get("name"), str) and all(
        isinstance(entry.get(key, ""), str) for key in ("state", "select")
    )


def show(runs: Sequence[Run], console: Console) -> None:
    """Print the tables of a comparison: a row for each run, and means over seeds if there are several."""
    console.print(summary_table(runs))
    seeds = seeds_table(runs)
    if seeds is not None:
        console.print(seeds)
