"""Writers of a run's metrics: metrics.jsonl, TensorBoard, Weights & Biases, and the terminal."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from mlm_jax.checkpoints.workdir import config_json, differing_keys
from mlm_jax.common.console import plain_console
from mlm_jax.common.files import append_to, whole_file
from mlm_jax.config import default_config
from mlm_jax.report.comparison import value_of
from mlm_jax.report.history import METRICS_FILE, read_events
from mlm_jax.run.tensorboard import TensorBoard
from mlm_jax.run.weights_and_biases import wandb_run

OFTEN_VARIED = ("optimizer.learning_rate", "mixing.alpha", "seed", "steps")
LOSS = "train/loss/"  # prefix of the first task's losses
WORST = 5  # languages in a plain line, if there are more than MOST_IN_LINE losses
MOST_IN_LINE = 12
LOSS_LINES = 6  # the largest number of lines with losses on the terminal


class MetricsWriter:
    """Appends events to WORKDIR/metrics.jsonl, TensorBoard and, if a project is given, Weights & Biases.

    A resumed run removes the events after the step from which it resumes, so a killed and resumed run leaves the same losses
    as an uninterrupted one. Only process 0 writes.

    Args:
      workdir: the workdir of the run.
      start_step: the step at which this start of the run begins.
      writes: whether this process writes.
      wandb_project: the project of Weights & Biases; "" turns it off.
      config: the config of the run, as JSON values, for TensorBoard and the columns of Weights & Biases.
      push: called after every event, to send the written files if the workdir is in an object store.

    Raises:
      UserError: the file is damaged, or as :func:`wandb_run`.
    """

    def __init__(
        self,
        workdir: str | Path,
        start_step: int,
        writes: bool,
        wandb_project: str = "",
        config: Mapping[str, Any] | None = None,
        push: Callable[[], None] | None = None,
    ):
        self.push = push
        self.file: TextIO | None = None
        self.tensorboard: TensorBoard | None = None
        self.wandb: Any = None
        if not writes:
            return
        path = Path(workdir) / METRICS_FILE
        with whole_file(path) as kept:
            for event in read_events(workdir):
                if 0 < start_step >= event["step"]:
                    kept.write(json.dumps(event) + "\n")
        self.file = append_to(path)
        config = config or {}
        self.tensorboard = TensorBoard(workdir, read_events(workdir), config, settings_of(config) if config else {})
        if wandb_project:
            self.wandb = wandb_run(Path(workdir).resolve(), wandb_project, config)

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.file is not None and self.tensorboard is not None:
            self.file.close()
            self.tensorboard.close()
        if self.wandb is not None:
            self.wandb.finish()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write one event.

        Args:
          step: steps done.
          values: {"train/loss/de": 3.2, …}.
        """
        if self.file is None or self.tensorboard is None:
            if self.push is not None:  # a process that writes no metrics sends its blocks of checkpoints
                self.push()
            return
        now = time.time()
        numbers = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN
        self.file.write(json.dumps({"step": step, "time": round(now, 3), **numbers}) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())  # a mounted bucket is written to when a file is closed or synchronised
        self.tensorboard.write(step, values, now)
        self.tensorboard.flush()
        if self.push is not None:
            self.push()
        if self.wandb is not None:
            self.wandb.log(dict(values), step=step)


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return {key: value} of the keys that tell runs apart: the often varied ones, and those that are not at their defaults."""
    changed = differing_keys(config_json(default_config()), config)
    varied = {key: value for key in OFTEN_VARIED if (value := value_of(config, key)) is not None}
    others = {key: value for key, (_, value) in changed.items() if value is not None and not key.startswith("data.")}
    return varied | others


def shown_loss(key: str) -> str:
    """Return a loss's name on the terminal: "de" or "mean" for the first task, else the task's name; "" for other metrics."""
    if key.startswith(LOSS):
        return key.removeprefix(LOSS)
    return key.removeprefix("train/").removesuffix("/loss/mean") if key.endswith("/loss/mean") else ""


def line_losses(values: Mapping[str, float]) -> list[str]:
    """Return the losses of a plain log line: all of them, or of many languages the mean and the worst."""
    losses = {key: value for key, value in values.items() if shown_loss(key)}
    if len(losses) <= MOST_IN_LINE:
        return [_loss_text(key, value) for key, value in losses.items()]
    of_languages = [key for key in losses if key.startswith(LOSS) and key != f"{LOSS}mean"]
    worst = sorted(of_languages, key=lambda key: (not math.isnan(losses[key]), -losses[key]))[:WORST]
    others = [_loss_text(key, value) for key, value in losses.items() if key not in of_languages]
    return [
        *others,
        f" worst of {len(of_languages)} languages:",
        *(_loss_text(key, losses[key]) for key in worst),
    ]


def _loss_text(key: str, value: float) -> str:
    return f"{shown_loss(key)} {value:.2f}"


class TrainingProgress:
    """The terminal's display: step, speed, time left, loss of each language; plain lines if the output is not a terminal.

    Args:
      steps: the number of steps of the whole run.
      start_step: the step at which this start of the run begins.
      shown: whether this process shows anything.
    """

    def __init__(self, steps: int, start_step: int, shown: bool):
        self.console = plain_console(quiet=not shown)
        self.steps, self.is_live = steps, self.console.is_terminal and shown
        self.losses: list[str] = []
        columns = (
            TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, console=self.console, speed_estimate_period=120, expand=True)
        self.task = self.bar.add_task("train", total=steps, completed=start_step, speed="compiling")
        self.live = Live(get_renderable=self._picture, console=self.console, refresh_per_second=2)

    def __enter__(self) -> TrainingProgress:
        if self.is_live:
            self.live.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.is_live:
            self.live.stop()

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Show the numbers of a log line."""
        self.losses = [_loss_text(key, value) for key, value in values.items() if shown_loss(key)]
        speed, left = values.get("train/tokens_per_second"), values.get("train/seconds_left")
        shown = [] if speed is None else [f"{speed:,.0f} tokens/s"]  # unknown at the first log line
        self.bar.update(self.task, completed=step, speed=shown[0] if shown else "")
        if not self.is_live:
            shown += [] if left is None else [f"{left / 60:.1f} min left"]
            self.print("  ".join([f"step {step}/{self.steps}", *shown, " ".join(line_losses(values))]))

    def print(self, text: str) -> None:
        """Print a line above the live display."""
        self.console.print(text, soft_wrap=True)

    def _picture(self) -> RenderableType:
        """Return the progress bar, and below it the mean loss and as many losses of languages as fit in a few lines."""
        columns = max(self.console.width // (max(map(len, self.losses), default=0) + 2), 1)
        losses = sorted(self.losses, key=lambda loss: not loss.startswith("mean "))
        left_out = len(losses) - LOSS_LINES * columns
        if left_out > 0:
            losses = [*losses[: LOSS_LINES * columns - 1], f"+{left_out + 1}"]
        grid = Table.grid(*[""] * columns, padding=(0, 2, 0, 0))
        for start in range(0, len(losses), columns):
            grid.add_row(*losses[start : start + columns])
        return Group(self.bar.get_renderable(), grid)
