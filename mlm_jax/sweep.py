"""Sweeps: a config file's ``sweep()`` lists trials; each is a run of its own, resumed, skipped when done, compared at the end.

Beside ``get_config`` in the same file::

    from mlm_jax.sweep import product

    def sweep():
        return product({"mixing.alpha": (0.3, 0.5, 0.7), "seed": (0, 1)})
"""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from mlm_jax.config import default_config, file_and_argument, import_config, load_config, set_key
from mlm_jax.console import table_console
from mlm_jax.errors import UserError

Trial = dict[str, Any]  # config key → value
COMPARISON, PLOT = "comparison.json", "comparison.html"
METRICS = ("eval/loss", "eval/bits_per_byte", "eval/accuracy", "eval/retrieval_at_1")  # what trials are compared by


def product(axes: Mapping[str, Iterable[Any]]) -> list[Trial]:
    """Return a trial for every combination of values."""
    return [dict(zip(axes, values)) for values in itertools.product(*axes.values())]


def zipped(axes: Mapping[str, Sequence[Any]]) -> list[Trial]:
    """Return a trial for every position in value lists of the same length.

    Raises:
      UserError: the lists are not equally long.
    """
    if len({len(values) for values in axes.values()}) > 1:
        lengths = ", ".join(f"{len(values)} of {key}" for key, values in axes.items())
        raise UserError(f"zipped value lists are not equally long: {lengths}", remedy="give each key as many values")
    return [dict(zip(axes, values)) for values in zip(*axes.values())]


def chain(*sweeps: Iterable[Trial]) -> list[Trial]:
    """Return the trials of several sweeps, one after another."""
    return [*itertools.chain(*sweeps)]


def trial_name(trial: Trial) -> str:
    """Return the trial's folder: "alpha=0.3,seed=1"."""
    short = {key: key.rpartition(".")[2] for key in trial}
    doubled = {name for name in short.values() if [*short.values()].count(name) > 1}
    parts = (f"{key if short[key] in doubled else short[key]}={value}" for key, value in trial.items())
    return ",".join(parts).replace("/", "_").replace(" ", "")


def read_trials(file: str) -> list[Trial]:
    """Return the trials of a config file; an argument behind its name is for ``get_config`` only.

    Raises:
      UserError: there is no ``sweep()``, it fails, lists nothing or a trial twice, or a trial names an unknown key.
    """
    module = import_config(file_and_argument(file)[0])
    if not hasattr(module, "sweep"):
        raise UserError("this config file has no sweep()", file=file, remedy="see configs/sweeps/alpha.py")
    try:
        trials = [dict(trial) for trial in module.sweep()]
    except UserError as error:
        raise UserError(error.problem, file=error.file or file, line=error.line, remedy=error.remedy) from error
    except Exception as error:  # it is the user's code
        problem = " ".join(f"sweep() fails with {type(error).__name__}: {error}".split())
        raise UserError(problem, file=file, remedy="let it return a list of {key: value}") from error
    if not trials:
        raise UserError("sweep() lists no trial", file=file)
    names = [trial_name(trial) for trial in trials]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"sweep() lists the trial {name!r} twice", file=file)
    for trial in trials:
        for key, value in trial.items():
            if not key.startswith("tasks."):  # tasks are the config's own
                set_key(default_config(), key, repr(value))
    return trials


def trial_command(file: str, trial: Trial, workdir: Path, overrides: Sequence[str] = ()) -> list[str]:
    """Return the command of a trial."""
    sets = [f"{key}={value!r}" for key, value in trial.items()]
    pairs = itertools.chain.from_iterable(("--set", setting) for setting in [*overrides, *sets])
    return [sys.executable, "-m", "mlm_jax.cli", "train", "--config", file, "--workdir", str(workdir), *pairs]


def is_finished(workdir: Path, steps: int) -> bool:
    """Return whether a trial's last step has been evaluated."""
    return any(event["step"] == steps and any(key.startswith("eval/") for key in event) for event in _events(workdir))


def run_sweep(file: str, workdir: str | Path, *, parallel: int = 1, overrides: Sequence[str] = (), dry_run: bool = False) -> int:
    """Run the trials that are not finished, ``parallel`` at a time, and compare all of them.

    Trials that were interrupted go on from their last checkpoint. Trial i of n at a time sees device i only.

    Args:
      file: config file with ``get_config`` and ``sweep``.
      workdir: each trial has a folder in it.
      parallel: trials at a time.
      overrides: ``key=value`` settings of all trials.
      dry_run: print each trial's command instead of running it.

    Returns:
      0, or 1 if a trial failed.

    Raises:
      UserError: the file or a trial cannot work.
    """
    if parallel < 1:
        raise UserError(f"there cannot be {parallel} trials at a time", remedy="give --parallel a number from 1")
    console, workdir = table_console(), Path(workdir)
    trials = read_trials(file)
    settings = {trial_name(trial): [*overrides, *(f"{key}={value!r}" for key, value in trial.items())] for trial in trials}
    configs = {name: load_config(file, tuple(sets)) for name, sets in settings.items()}
    waiting = [trial for trial in trials if not is_finished(workdir / trial_name(trial), configs[trial_name(trial)].steps)]
    console.print(f"{len(trials)} trials, {len(trials) - len(waiting)} finished before", highlight=False)
    if dry_run:
        for trial in waiting:
            command = trial_command(file, trial, workdir / trial_name(trial), overrides)
            console.print(" ".join(command), soft_wrap=True, highlight=False)
        return 0
    free = list(range(parallel))

    def run(trial: Trial) -> tuple[str, int]:
        folder, slot = workdir / trial_name(trial), free.pop()
        folder.mkdir(parents=True, exist_ok=True)
        one_device = {"CUDA_VISIBLE_DEVICES": str(slot), "TPU_VISIBLE_CHIPS": str(slot)} if parallel > 1 else {}
        with (folder / "log.txt").open("a") as log:
            code = subprocess.run(trial_command(file, trial, folder, overrides), stdout=log, stderr=log,
                                  env=os.environ | one_device, check=False).returncode  # fmt: skip
        free.append(slot)
        return folder.name, code

    failed = []
    with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
        for done in concurrent.futures.as_completed([pool.submit(run, trial) for trial in waiting]):
            name, code = done.result()
            console.print(f"{name}: {'finished' if code == 0 else f'failed, see {workdir / name}/log.txt'}", highlight=False)
            failed += [name] if code else []
    results = compare(workdir, trials)
    if results:
        console.print(f"curves of all trials: {plot(workdir, [result['name'] for result in results])}", highlight=False)
    for metric in METRICS:
        table = comparison_table(results, metric)
        if table.row_count:
            console.print(table)
    return 1 if failed else 0


def compare(workdir: Path, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Write and return the last evaluation of every trial: [{"trial", "step", "metrics"}]."""
    results = []
    for trial in trials:
        evaluations = [event for event in _events(workdir / trial_name(trial)) if any(key.startswith("eval/") for key in event)]
        if evaluations:
            last = evaluations[-1]
            metrics = {key: value for key, value in last.items() if key.startswith("eval/")}
            results.append({"trial": trial, "name": trial_name(trial), "step": last["step"], "metrics": metrics})
    (workdir / COMPARISON).write_text(json.dumps(results, indent=1, default=str))
    return results


def plot(workdir: Path, names: Sequence[str]) -> Path:
    """Write and return a page with a chart a language and metric, in which every trial is a curve.

    Args:
      workdir: of the sweep.
      names: of the trials, each with a ``metrics.jsonl`` in its folder.
    """
    from mlm_jax.report.history import read_history, thin
    from mlm_jax.report.page import write_page

    histories = {name: read_history(workdir / name) for name in names}
    keys = sorted({key for history in histories.values() for key in history if key.rpartition("/")[0] in METRICS})
    curves = {}
    for key in sorted(keys, key=lambda key: key.rpartition("/")[::-2]):  # by language, then by metric
        metric, _, language = key.removeprefix("eval/").rpartition("/")
        lines = {name: thin(history[key]) for name, history in histories.items() if key in history}
        curves[f"{language}/{metric}"] = {"eval": lines}
    return write_page(workdir / PLOT, title=f"{workdir.name}: {len(names)} trials", lines=names, curves=curves)


def comparison_table(results: Sequence[Mapping[str, Any]], metric: str) -> Table:
    """Return trials × languages (or pairs) of one metric."""
    found = (key for result in results for key in result["metrics"] if key.rpartition("/")[0] == metric)
    columns = list(dict.fromkeys(key.rpartition("/")[2] for key in found))
    table = Table("trial", "step", title=metric)
    for column in columns:
        table.add_column(column, justify="right")
    for result in results if columns else ():
        values = (result["metrics"].get(f"{metric}/{column}") for column in columns)
        table.add_row(result["name"], str(result["step"]), *("" if value is None else f"{value:.3f}" for value in values))
    return table


def _events(workdir: Path) -> list[dict[str, Any]]:
    from mlm_jax.training.metrics import read_metrics

    return read_metrics(workdir)
