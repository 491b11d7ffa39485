"""Where a run's numbers go: metrics.jsonl, TensorBoard, Weights & Biases, and the terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from mlm_jax.errors import UserError

METRICS = "metrics.jsonl"


class MetricsWriter:
    """Appends events to WORKDIR/metrics.jsonl, and the same to TensorBoard and, if asked, Weights & Biases.

    A resumed run takes off the events after the step that it resumes from: a run that was killed leaves the same losses
    as one that was not. Only process 0 writes.

    Args:
      workdir: of the run.
      start_step: step that the run begins at.
      writes: whether this process writes.
      wandb_project: "" is off.

    Raises:
      UserError: the file is damaged, or Weights & Biases is asked for but not installed.
    """

    def __init__(self, workdir: str | Path, start_step: int, writes: bool, wandb_project: str = ""):
        self.file: TextIO | None = None
        self.tensorboard: Any = None
        self.wandb: Any = None
        if not writes:
            return
        path = Path(workdir) / METRICS
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= start_step and start_step > 0]
        temporary = path.with_suffix(".new")
        temporary.write_text("".join(line + "\n" for line in kept))
        temporary.replace(path)
        self.file = path.open("a")
        self.tensorboard = SummaryWriter(str(Path(workdir) / "tensorboard"))  # unlike TensorBoard's own, needs no TensorFlow
        if wandb_project:
            try:
                import wandb
            except ImportError as error:
                raise UserError("Weights & Biases is not installed", remedy="pip install 'mlm_jax[wandb]'") from error
            self.wandb = wandb.init(project=wandb_project, dir=str(workdir), resume="allow", id=Path(workdir).resolve().name)

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.file is not None:
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
        if self.file is None:
            return
        now = time.time()
        self.file.write(json.dumps({"step": step, "time": round(now, 3), **values}) + "\n")
        self.file.flush()
        for name, value in values.items():
            self.tensorboard.add_scalar(name, value, step, walltime=now)
        self.tensorboard.flush()
        if self.wandb is not None:
            self.wandb.log(dict(values), step=step)


def read_metrics(workdir: str | Path) -> list[dict[str, Any]]:
    """Return the events of a run, in order.

    Raises:
      UserError: a line is not JSON.
    """
    return [json.loads(line) for line in _whole_lines(Path(workdir) / METRICS)]


def _whole_lines(path: Path) -> list[str]:
    """Return the lines of metrics.jsonl; a last line that was cut short by a kill is dropped."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    lines.pop()  # what follows the last line end: nothing, or a line cut short
    for number, line in enumerate(lines, 1):
        try:
            json.loads(line)
        except ValueError as error:
            raise UserError("this line is not JSON", file=path, line=number, remedy="delete the line") from error
    return lines


class TrainingProgress:
    """The live line of a run: step, loss of each language, tokens per second, time left; plain lines where no one looks.

    Args:
      steps: of the whole run.
      start_step: that it begins at.
      shown: whether this process shows anything.
    """

    def __init__(self, steps: int, start_step: int, shown: bool):
        self.console = Console(quiet=not shown)
        self.steps, self.live = steps, self.console.is_terminal
        self.bar = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=24), TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"), console=self.console, disable=not self.live, speed_estimate_period=120,
        )  # fmt: skip
        self.task = self.bar.add_task("train", total=steps, completed=start_step, speed="compiling", losses="")

    def __enter__(self) -> TrainingProgress:
        self.bar.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.bar.stop()

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Show the numbers of a log line."""
        losses = {key.removeprefix("train/loss/"): value for key, value in values.items() if key.startswith("train/loss/")}
        shown = " ".join(f"{language} {loss:.2f}" for language, loss in losses.items())
        speed = f"{values.get('train/tokens_per_second', 0):,.0f} tokens/s"
        self.bar.update(self.task, completed=step, speed=speed, losses=shown)
        if not self.live:
            left = values.get("train/seconds_left", 0)
            self.say(f"step {step}/{self.steps}  {speed}  {left / 60:.1f} min left  {shown}")

    def say(self, text: str) -> None:
        """Print a line above the live one."""
        self.console.print(text, highlight=False, soft_wrap=True)
