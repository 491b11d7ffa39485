"""Traces of some steps, for TensorBoard and Perfetto."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from mlm_jax.training.state import TrainState


class Profiler:
    """Traces the steps ``first`` … ``last`` of ``training.profile`` (both included, from 0) into WORKDIR/profile.

    A run that resumes after ``first`` traces the remaining steps. An open trace is closed when the run ends or is stopped.

    Args:
      steps: the first and the last step; () turns tracing off.
      workdir: the workdir of the run.
    """

    def __init__(self, steps: tuple[int, int] | tuple[()], workdir: Path):
        self.first, self.last = steps if steps else (0, -1)
        self.folder = workdir / "profile"
        self.is_tracing = False

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stop()

    def before(self, step: int) -> None:
        """Begin the trace at its first step."""
        if self.first <= step <= self.last and not self.is_tracing:
            jax.profiler.start_trace(str(self.folder))
            self.is_tracing = True

    def after(self, step: int, state: TrainState) -> None:
        """End the trace after its last step."""
        if step == self.last:
            jax.block_until_ready(state.step)
            self._stop()

    def _stop(self) -> None:
        if self.is_tracing:
            self.is_tracing = False
            jax.profiler.stop_trace()
