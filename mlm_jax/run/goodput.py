"""Goodput: the shares of a run's wall time, kept across restarts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlm_jax.common.files import write_whole
from mlm_jax.report.page import GOODPUT, read_goodput

SPANS = ("step", "compile", "data", "checkpoint", "evaluation")
SETTLED = 300.0  # seconds of a run before its shares are meaningful


class Goodput:
    """Seconds spent in steps, compilation, waiting for data, checkpoints and evaluation; the rest is "other".

    Args:
      workdir: the workdir of the run; times of its earlier starts are added.
      writes: whether this process writes the file.

    Raises:
      UserError: the file is damaged.
    """

    def __init__(self, workdir: str | Path, writes: bool = True):
        self.file, self.writes = Path(workdir) / GOODPUT, writes
        self.seconds = dict.fromkeys((*SPANS, "other"), 0.0)
        self.seconds |= read_goodput(Path(workdir))
        self.begun = time.perf_counter()
        self.accounted = 0.0
        self.advised = False

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Count the time of a block."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - begun)

    def add(self, name: str, seconds: float) -> None:
        """Count seconds."""
        self.seconds[name] += seconds
        self.accounted += seconds

    def shares(self) -> dict[str, float]:
        """Return each span's share of the wall time of all starts of the run."""
        seconds = self.totals()
        whole = sum(seconds.values()) or 1.0
        return {name: value / whole for name, value in seconds.items()}

    def totals(self) -> dict[str, float]:
        """Return seconds by span."""
        other = self.seconds["other"] + time.perf_counter() - self.begun - self.accounted
        return {**self.seconds, "other": max(other, 0.0)}

    def advice(self) -> str:
        """Return advice if evaluation takes more than half of the time; "" if it does not, or if the advice was given before."""
        seconds, shares = self.totals(), self.shares()
        if self.advised or sum(seconds.values()) < SETTLED or shares["evaluation"] <= 0.5:
            return ""
        self.advised = True
        return (
            f"evaluation takes {shares['evaluation']:.0%} of the time and steps {shares['step']:.0%}: raise evaluation.every, "
            "or lower evaluation.rows, evaluation.examples and evaluation.pairs"
        )

    def write(self) -> None:
        """Keep the totals for the next start of the run."""
        if self.writes:
            write_whole(self.file, json.dumps(self.totals(), indent=1))

    def summary(self) -> str:
        """Return a line such as "goodput: step 91.2 %, compile 4.0 %, …"."""
        shares = (f"{name} {share:.1%}" for name, share in self.shares().items() if share >= 0.0005)
        return f"goodput: {', '.join(shares)}"
