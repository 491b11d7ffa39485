"""The processes of a sweep's trials: one on each device, watched, and ended with the sweep."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live

from mlm_jax.common.errors import UNFINISHED
from mlm_jax.common.files import append_to
from mlm_jax.common.processes import end_with_parent
from mlm_jax.common.tables import Table
from mlm_jax.report.comparison import FINISHED, run_config
from mlm_jax.report.history import METRICS_FILE, is_number, is_patience_over, read_evaluations
from mlm_jax.run.metrics import LOSS
from mlm_jax.run.sweep.pruning import ENDED_EARLY

LOG = "log.txt"
INTERRUPTED = 130  # exit code after Ctrl-C
ENDED = 128  # exit code of a verb that a signal ended, minus the signal's number
STOPPED = "stopped"  # state of a trial that was ended by a signal; the same command continues it
LOOK_SECONDS, PROGRESS_SECONDS = 0.2, 60.0  # between two checks of the processes, and two lines about running trials
TAIL_BYTES = 200_000  # bytes at the end of a file in which its last line is searched


@dataclasses.dataclass
class Trial:
    """A trial that will be run.

    Attributes:
      name: the name of its folder below the workdir of the sweep.
      command: the command that trains it.
      folder: its workdir.
      steps: the number of steps of the whole run.
      environment: variables in addition to those of this process.
    """

    name: str
    command: Sequence[str]
    folder: Path
    steps: int
    environment: Mapping[str, str]


class Running:
    """A trial's process, with its log and its device."""

    def __init__(self, trial: Trial, device: Mapping[str, str]):
        self.trial, self.device = trial, device
        self.ended_early = ""  # the reason, if a rule ended the trial
        self.logged = 0  # bytes of its metrics file at the last check
        trial.folder.mkdir(parents=True, exist_ok=True)
        self.log: TextIO = append_to(trial.folder / LOG)
        environment = {**os.environ, **trial.environment, **device}
        # A session of its own: a terminal's Ctrl-C reaches the sweep only, which passes on one signal, not two.
        with_sweep = functools.partial(end_with_parent, os.getpid(), signal.SIGTERM)
        self.process = subprocess.Popen(
            trial.command,
            stdout=self.log,
            stderr=self.log,
            env=environment,
            start_new_session=True,
            preexec_fn=with_sweep,
        )

    @property
    def device_name(self) -> str:
        """The device that the trial has to itself, such as "device 2"; "" if trials run one at a time."""
        device = self.device.get("CUDA_VISIBLE_DEVICES")
        return "" if device is None else f"device {device}"

    def end(self) -> str:
        """Close the log of a process that has ended, and return the trial's state."""
        self.log.close()
        state = state_after(self.trial, self.process.returncode)
        return f"{ENDED_EARLY} {self.ended_early}" if state == STOPPED and self.ended_early else state

    def has_logged(self) -> bool:
        """Return whether the trial has logged an event since the last call."""
        try:
            size = (self.trial.folder / METRICS_FILE).stat().st_size
        except FileNotFoundError:
            size = 0
        before, self.logged = self.logged, size
        return size != before

    def progress(self) -> str:
        """Return the trial's progress, such as "step 120 of 300, loss 3.21, 4.0 min left"."""
        event = last_event(self.trial.folder)
        if event is None:
            return "starting"
        found = [f"step {event['step']:,} of {self.trial.steps:,}"]
        if is_number(loss := event.get(f"{LOSS}mean", event.get("eval/loss/mean"))):
            found.append(f"loss {loss:.3f}")
        if is_number(left := event.get("train/seconds_left")):
            found.append(f"{left / 60:.1f} min left")
        return ", ".join(found)


def run_trials(
    trials: Sequence[Trial],
    devices: Sequence[Mapping[str, str]],
    print_line: Callable[[str], None],
    ended: Callable[[Mapping[str, str]], Any] | None = None,
    judge: Callable[[str], str] | None = None,
    console: Console | None = None,
) -> tuple[dict[str, str], int]:
    """Run trials, one at a time on each device.

    Ctrl-C, SIGTERM and SIGHUP (unless it is ignored) are passed on to the trials as SIGTERM: the trials save and end, and no
    further trial begins. A second signal is passed on as well, and ends the trials at once.

    Args:
      trials: in the order in which they begin.
      devices: environment variables that give a process its device, one entry for each trial that runs at a time.
      print_line: prints a line.
      ended: called with the states so far when a trial has ended.
      console: a terminal, on which a table shows the progress of the trials. Otherwise a line shows it once a minute.
      judge: returns the reason to end a trial early, given its name; "" if it continues. Called after each event of a trial.

    Returns:
      {trial: state} of the trials that have begun, and the number of the signal that stopped them, or 0.
    """
    waiting, free = list(trials), list(devices)
    running: list[Running] = []
    states: dict[str, str] = {}
    last_lines = time.monotonic()
    live = console is not None and console.is_terminal
    picture = Live(get_renderable=lambda: progress_table(running, len(waiting)), console=console, refresh_per_second=1)
    with signals() as received, picture if live else contextlib.nullcontext():
        forwarded = 0
        while running or (waiting and not received):
            while waiting and free and not received:
                trial = waiting.pop(0)
                running.append(Running(trial, free.pop(0)))
                print_line(f"{trial.name}: begins ({count(states, trials)}), see {trial.folder / LOG}")
            if len(received) > forwarded:
                forwarded += 1
                for one in running:
                    one.process.send_signal(signal.SIGTERM)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                free.append(one.device)
                states[one.trial.name] = state = one.end()
                if state == STOPPED and not received:
                    received.append(signal.SIGTERM)  # a signal to a trial is taken as one to the sweep
                print_line(f"{one.trial.name}: {state} ({count(states, trials)})")
                if ended is not None:
                    ended(states)
            for one in running:
                if judge is not None and not one.ended_early and one.has_logged() and (reason := judge(one.trial.name)):
                    one.ended_early = reason
                    one.process.send_signal(signal.SIGTERM)
            if running and not live and time.monotonic() - last_lines > PROGRESS_SECONDS:
                last_lines = time.monotonic()
                for one in running:
                    print_line(f"{one.device_name} {one.trial.name}: {one.progress()}".lstrip())
            time.sleep(LOOK_SECONDS if running else 0)
    return states, received[0] if received else 0


def progress_table(running: Sequence[Running], waiting: int) -> Table:
    """Return a table of the running trials: device (if each has its own), name and progress."""
    table = Table("device", "trial", "progress", box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for one in running:
        table.add_row(one.device_name, one.trial.name, one.progress())
    table.add_row("", f"{waiting} waiting", style="dim")
    return table


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """Yield a list to which signals that end the sweep are added when they arrive.

    Python handles signals in the main thread only: in another thread the list stays empty. SIGHUP stays ignored under
    ``nohup``.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, lambda number, frame: received.append(number)) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def state_after(trial: Trial, code: int) -> str:
    """Return a trial's state by its exit code and its metrics."""
    by_stop = code in (0, UNFINISHED, INTERRUPTED, -signal.SIGINT, -signal.SIGTERM, ENDED + signal.SIGTERM)
    if is_finished(trial.folder, trial.steps):  # a signal may have come after all was done
        return FINISHED if by_stop else f"failed: finished, but ended with exit code {code}"
    if by_stop:
        return STOPPED
    if code < 0:
        return f"failed: killed by signal {-code} ({signal.Signals(-code).name})"
    return f"failed: {last_line(trial.folder / LOG)}"


def count(states: Mapping[str, str], trials: Sequence[Trial]) -> str:
    """Return a text such as "3 of 40 finished, 1 failed"."""
    failed = sum(state.startswith("failed") for state in states.values())
    early = sum(state.startswith(ENDED_EARLY) for state in states.values())
    finished = sum(state == FINISHED for state in states.values())
    more = "".join(f", {number} {what}" for number, what in ((early, ENDED_EARLY), (failed, "failed")) if number)
    return f"{finished} of {len(trials)} finished{more}"


def is_finished(workdir: Path, steps: int) -> bool:
    """Return whether a trial's last step has been evaluated, or its run has ended early (``evaluation.patience``)."""
    evaluation = run_config(workdir).get("evaluation", {})
    found = read_evaluations(workdir, evaluation.get("select", ""))
    scores = [value for _, value in found.scores]
    return steps in found.steps or is_patience_over(scores, evaluation.get("patience", 0))


def last_event(workdir: Path) -> dict[str, Any] | None:
    """Return the last event of a metrics file that another process appends to; None if there is none."""
    lines = tail(workdir / METRICS_FILE).split(b"\n")[:-1]  # text after the last line end is incomplete
    for line in reversed(lines):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):  # the first line of the tail may be cut
            continue
        if isinstance(event, dict) and isinstance(event.get("step"), int):
            return event
    return None


def last_line(file: Path) -> str:
    """Return the last line of a trial's log, which has the reason if the trial failed."""
    lines = tail(file).decode(errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.strip()), "without a message")


def tail(file: Path) -> bytes:
    """Return the end of a file that another process appends to; b"" if the file does not exist."""
    try:
        with file.open("rb") as opened:
            opened.seek(max(os.fstat(opened.fileno()).st_size - TAIL_BYTES, 0))
            return opened.read()
    except FileNotFoundError:
        return b""
