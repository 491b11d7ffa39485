"""Sweeps: a config file's ``sweep()`` lists trials; each is a run of its own, resumed, skipped when done, compared at the end.

Beside ``get_config`` in the same file::

    from mlm_jax.run.sweep import product

    def sweep():
        return product({"mixing.alpha": (0.3, 0.5, 0.7), "seed": (0, 1)})
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import itertools
import json
import os
import queue
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from mlm_jax.checkpoints.workdir import check_workdir
from mlm_jax.common.addresses import local_path
from mlm_jax.common.console import table_console
from mlm_jax.common.errors import UserError, one_line
from mlm_jax.common.files import append_to, write_whole
from mlm_jax.config import default_config, file_and_argument, import_config, load_config, set_key
from mlm_jax.report.history import read_events, read_history, thin
from mlm_jax.report.page import write_page

Trial = dict[str, Any]  # config key → value
COMPARISON, PLOT, LOG = "comparison.json", "comparison.html", "log.txt"
METRICS = ("loss", "bits_per_byte", "accuracy", "f1", "retrieval_at_1")  # what trials are compared by, of every task
INTERRUPTED = 130  # exit code after Ctrl-C
LONGEST_NAME = 200  # bytes; file systems take 255


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
    """Return the trial's folder: "alpha=0.3,seed=1"; a long name ends in a hash of what does not fit."""
    short = {key: key.rpartition(".")[2] for key in trial}
    doubled = {name for name in short.values() if [*short.values()].count(name) > 1}
    parts = (f"{key if short[key] in doubled else short[key]}={value}" for key, value in trial.items())
    name = ",".join(parts).replace("/", "_").replace(" ", "")
    if len(name.encode()) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name.encode()[:LONGEST_NAME].decode(errors='ignore')}…{digest}"


def read_trials(file: str) -> list[Trial]:
    """Return the trials of a config file; an argument behind its name is for ``get_config`` only.

    Raises:
      UserError: there is no ``sweep()``, it fails, lists nothing or a trial twice, or a trial names an unknown key.
    """
    module = import_config(file_and_argument(file)[0])
    if not hasattr(module, "sweep"):
        raise UserError("this config file has no sweep()", file=file, remedy="see configs/sweeps/alpha.py")
    try:
        trials = [{key: _plain(value) for key, value in dict(trial).items()} for trial in module.sweep()]
    except UserError as error:
        raise UserError(error.problem, file=error.file or file, line=error.line, remedy=error.remedy) from error
    except Exception as error:  # it is the user's code
        problem = f"sweep() fails with {type(error).__name__}: {one_line(error)}"
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


def _plain(value: Any) -> Any:
    """Return a value as Python writes it: NumPy's numbers, as of ``np.logspace``, become Python's."""
    return value.item() if isinstance(value, np.generic) else value


def trial_settings(trial: Trial, overrides: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the ``key=value`` settings of a trial, behind those of all trials."""
    return (*overrides, *(f"{key}={value!r}" for key, value in trial.items()))


def command(verb: str, file: str, workdir: Path, settings: Sequence[str]) -> list[str]:
    """Return the command of a verb of mlm-jax for a trial."""
    pairs = itertools.chain.from_iterable(("--set", setting) for setting in settings)
    return [sys.executable, "-m", "mlm_jax.cli", verb, "--config", file, "--workdir", str(workdir), *pairs]


def is_finished(workdir: Path, steps: int) -> bool:
    """Return whether a trial's last step has been evaluated."""
    return any(event["step"] == steps and any(key.startswith("eval/") for key in event) for event in read_events(workdir))


def devices(parallel: int) -> list[dict[str, str]]:
    """Return environment variables that let a process see one accelerator, for ``parallel`` processes.

    Raises:
      UserError: ``CUDA_VISIBLE_DEVICES`` names fewer.
    """
    if parallel == 1:
        return [{}]
    given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if given and len(given) < parallel:
        raise UserError(f"CUDA_VISIBLE_DEVICES names {len(given)} devices, too few for {parallel} trials at a time",
                        remedy=f"give --parallel {len(given)}")  # fmt: skip
    gpus = given or [str(number) for number in range(parallel)]
    one_chip = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
    return [{"CUDA_VISIBLE_DEVICES": gpus[slot], "TPU_VISIBLE_CHIPS": str(slot), **one_chip} for slot in range(parallel)]


def run_sweep(file: str, workdir: str | Path, *, parallel: int = 1, overrides: Sequence[str] = (), dry_run: bool = False) -> int:
    """Run the trials that are not finished, ``parallel`` at a time, and compare all of them.

    Trials that were interrupted go on from their last checkpoint. Of several at a time each sees a device of its own. A
    token store that trials share is prepared before the first of them begins.

    Args:
      file: config file with ``get_config`` and ``sweep``.
      workdir: each trial has a folder in it.
      parallel: trials at a time.
      overrides: ``key=value`` settings of all trials.
      dry_run: print each trial's command instead of running it.

    Returns:
      0, or 1 if a trial failed, or 130 after Ctrl-C or where a signal stopped a trial: those under way have saved, and the
      same command continues.

    Raises:
      UserError: the file or a trial cannot work, or a trial's folder belongs to another config.
    """
    if parallel < 1:
        raise UserError(f"there cannot be {parallel} trials at a time", remedy="give --parallel a number from 1")
    console, workdir, slots = table_console(), local_path(workdir), devices(parallel)
    say = functools.partial(console.print, soft_wrap=True)
    listed = read_trials(file)
    trials = {trial_name(trial): trial_settings(trial, overrides) for trial in listed}
    configs = {name: load_config(file, settings) for name, settings in trials.items()}
    for name, config in configs.items():
        check_workdir(workdir / name, config)
    waiting = [name for name, config in configs.items() if not is_finished(workdir / name, config.steps)]
    say(f"{len(trials)} trials, {len(trials) - len(waiting)} finished before")
    commands = {name: command("train", file, workdir / name, trials[name]) for name in waiting}
    if dry_run:
        for train in commands.values():
            say(shlex.join(train))
        return 0
    shared = {configs[name].data.store: name for name in reversed(waiting) if configs[name].data.store}
    for store, name in shared.items() if parallel > 1 else ():
        say(f"preparing {store}")
        if subprocess.run(command("prepare", file, workdir / name, trials[name]), check=False).returncode:
            return 1  # it has said why
    code = _run_trials(commands, workdir, {name: config.steps for name, config in configs.items()}, slots, say)
    if code == INTERRUPTED:
        say("interrupted; the same command continues")
        return code
    results = compare(workdir, listed)
    if results:
        say(f"curves of all trials: {plot(workdir, [result['name'] for result in results])}")
    for metric in compared_metrics(key for result in results for key in result["metrics"]):
        console.print(comparison_table(results, metric))
    return code


def _run_trials(commands: Mapping[str, Sequence[str]], workdir: Path, steps: Mapping[str, int], slots: Sequence[dict[str, str]],
                say: Callable[[str], None]) -> int:  # fmt: skip
    """Run trials, as many at a time as there are slots, and return 0, 1 if one failed, or 130 where a signal stopped one.

    Args:
      commands: {trial: command}.
      workdir: of the sweep; what a trial prints goes into its folder's log.txt.
      steps: {trial: steps}.
      slots: environment variables that give a process its device.
      say: prints a line.
    """
    free: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
    for slot in slots:
        free.put(slot)
    stopped = threading.Event()  # a signal that has reached a trial is meant for the sweep

    def run(name: str) -> tuple[str, int | None]:
        if stopped.is_set():
            return name, None
        folder, one_device = workdir / name, free.get()
        folder.mkdir(parents=True, exist_ok=True)
        say(f"{name}: begins, see {folder / LOG}")
        with append_to(folder / LOG) as log:
            environment = os.environ | one_device
            code = subprocess.run(commands[name], stdout=log, stderr=log, env=environment, check=False).returncode
        free.put(one_device)
        if code in (0, INTERRUPTED) and not is_finished(folder, steps[name]):
            stopped.set()
        return name, code

    failed = False
    with concurrent.futures.ThreadPoolExecutor(len(slots)) as pool:
        try:
            for done in concurrent.futures.as_completed([pool.submit(run, name) for name in commands]):
                name, code = done.result()
                if code is not None and not stopped.is_set():
                    failed |= code != 0
                    say(f"{name}: {f'failed: {last_line(workdir / name / LOG)}' if code else 'finished'}")
        except KeyboardInterrupt:  # the trials got it too: they save and end
            stopped.set()
            pool.shutdown(cancel_futures=True)
    return INTERRUPTED if stopped.is_set() else int(failed)


def last_line(file: Path) -> str:
    """Return the last line of a trial's log, which says why it failed."""
    return next((line for line in reversed(file.read_text(errors="replace").splitlines()) if line.strip()), "without a word")


def compared_metrics(keys: Iterable[str]) -> list[str]:
    """Return what trials are compared by, ``eval/loss`` or ``eval/genre/accuracy``, of keys with a language behind it."""
    metrics = dict.fromkeys(key.rpartition("/")[0] for key in keys)
    return [metric for metric in metrics if metric.rpartition("/")[2] in METRICS]


def compare(workdir: Path, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Write and return the last evaluation of every trial: [{"trial", "step", "metrics"}]."""
    results = []
    for trial in trials:
        evaluations = [event for event in read_events(workdir / trial_name(trial)) if any(key.startswith("eval/") for key in event)]
        if evaluations:
            last = evaluations[-1]
            metrics = {key: value for key, value in last.items() if key.startswith("eval/")}
            results.append({"trial": trial, "name": trial_name(trial), "step": last["step"], "metrics": metrics})
    write_whole(workdir / COMPARISON, json.dumps(results, indent=1, default=str))
    return results


def plot(workdir: Path, names: Sequence[str]) -> Path:
    """Write and return a page with a chart a language and metric, in which every trial is a curve.

    Args:
      workdir: of the sweep.
      names: of the trials, each with a ``metrics.jsonl`` in its folder.
    """
    histories = {name: read_history(workdir / name) for name in names}
    metrics = compared_metrics(key for history in histories.values() for key in history if key.startswith("eval/"))
    keys = {key for history in histories.values() for key in history if key.rpartition("/")[0] in metrics}
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
    for result in results:
        values = (result["metrics"].get(f"{metric}/{column}") for column in columns)
        table.add_row(result["name"], str(result["step"]), *("" if value is None else f"{value:.3f}" for value in values))
    return table
