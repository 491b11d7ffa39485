"""The steps of a run, and what is due between them: evaluations, checkpoints and log lines."""

from __future__ import annotations

import time
from pathlib import Path

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from mlm_jax.checkpoints.metrics import score
from mlm_jax.checkpoints.saving import Checkpoints
from mlm_jax.common.bucket import LocalWorkdir
from mlm_jax.data.loading.batch import Batch
from mlm_jax.parallel.batches import to_devices
from mlm_jax.parallel.multihost import same_everywhere
from mlm_jax.report.history import evaluation_at, is_patience_over, read_evaluations
from mlm_jax.report.sections import FILE as REPORT_DATA
from mlm_jax.run.compiled import CompiledPrograms
from mlm_jax.run.memory import must_fit
from mlm_jax.run.phase_steps import CompiledPhases
from mlm_jax.run.profiler import Profiler
from mlm_jax.run.reporter import Reporter, check_finite
from mlm_jax.run.stop import Stopped, StopSignal
from mlm_jax.training.state import TrainState
from mlm_jax.training.step import empty_window


class Steps:
    """Takes the steps of a run. The host prepares and starts a step while the device works on the one before.

    Metrics add up on the device; the host reads them after it has started the next step.

    Args:
      reporter: the reporter of the run.
      checkpoints: the checkpoints of the run.
      stop: the signals that end the run early.
      profiler: traces some of the steps.
      local: the folder of the run.
      programs: the compiled programs of the run.
      labels: {classification task: number of labels}.
    """

    def __init__(
        self,
        reporter: Reporter,
        checkpoints: Checkpoints,
        stop: StopSignal,
        profiler: Profiler,
        *,
        local: LocalWorkdir,
        programs: CompiledPrograms,
        labels: dict[str, int],
    ):
        self.reporter, self.checkpoints, self.stop, self.profiler = reporter, checkpoints, stop, profiler
        self.local, self.programs, self.labels = local, programs, labels
        self.program, self.loader, self.config = reporter.program, reporter.loader, reporter.program.config
        self.goodput, self.progress = reporter.goodput, reporter.progress
        self.compiled = CompiledPhases(self.program, self.loader)

    def run(self, state: TrainState) -> None:
        """Continue from a state until the last step, or until ``evaluation.patience`` is over.

        Raises:
          Stopped: a signal arrived; the state is saved.
          UserError: a gradient is not finite, or a step does not fit into memory.
        """
        start, steps = int(state.step), self.config.steps
        if start < steps:
            self.compiled.begin(start)
        self.progress.print(beginning(start, steps))
        self.scores = earlier_scores(self.reporter.workdir, self.config, start)
        # Batches are copied to the devices while a step is running.
        batches = self.loader.iterate(start, send=lambda batch: to_devices(batch, self.program.mesh))
        for done in range(start, steps + 1):
            if self._between(done, state, resumed=done == start) or done == steps:
                break
            begun = time.perf_counter()
            _, batch = next(batches)
            # The host runs ahead of the device. As long as the device has a step to do, it does not wait for data.
            device_waits = state.step.is_ready()  # type: ignore[attr-defined]
            self.goodput.add("data" if device_waits else "step", time.perf_counter() - begun)
            state = self._step(done, state, batch)
        with self.goodput.span("checkpoint"):
            self._deliver()
        self.goodput.write()
        self.programs.record()

    def end(self) -> None:
        """Wait for the compilation that may be running."""
        self.compiled.end()

    def _between(self, done: int, state: TrainState, *, resumed: bool) -> bool:
        """Evaluate and save as is due after ``done`` steps, and return whether the run ends here by its patience.

        Raises:
          Stopped: a signal arrived; the state is saved.
        """
        config = self.config
        stopping = stop_agreed(self.stop, done) and done < config.steps
        evaluating = is_due(done, config.evaluation.every, config.steps) and not stopping
        saving = is_due(done, config.checkpoint.every, config.steps) or stopping
        evaluated, is_better, ending = None, False, False
        if evaluating or saving:
            self.reporter.flush()  # log lines of steps up to a checkpoint must be on disk before the checkpoint
            with self.goodput.span("step"):  # waits for the running steps
                check_finite(config, int(state.first_skipped), self.reporter.workdir)
        if evaluating:
            try:
                evaluated = evaluate_once(self.reporter, done, state, resumed=resumed)
            except Stopped:  # the weights are saved without this evaluation; the next start of the run makes it
                stopping = True
            else:
                is_better = self.checkpoints.improves(evaluated)
                if advice := self.goodput.advice():
                    self.progress.print(advice)
                self.scores.append(score(config.evaluation.select, evaluated))
                ending = is_patience_over(self.scores, config.evaluation.patience)
        if done > 0 and (saving or stopping or is_better or ending or resumed):
            self._save(done, state, evaluated)
        if stopping:
            self._deliver()
            self.stop.step = done
            raise Stopped
        if ending and done < config.steps:
            select, patience = config.evaluation.select, config.evaluation.patience
            self.progress.print(f"ended after step {done:,}: {select} has not improved in {patience} evaluations")
        return ending

    def _save(self, done: int, state: TrainState, evaluated: dict[str, float] | None) -> None:
        with self.goodput.span("checkpoint"):
            if not self.local.is_shared:
                self._deliver()  # so that every process has sent its blocks of the last checkpoint
            self.local.settle()  # so that no checkpoint is removed while it is being sent
            self.checkpoints.save(done, state, evaluated)
            self.goodput.write()
            self.programs.record()

    def _deliver(self) -> None:
        """Wait until the last checkpoint is written and, if the workdir is in an object store, sent."""
        self.checkpoints.wait()
        self.local.deliver()

    def _step(self, done: int, state: TrainState, batch: Batch) -> TrainState:
        """Start the step after ``done`` steps, write the log line of an earlier one, and return the next state."""
        self.profiler.before(done)
        run, is_new = self.compiled.step_of(done)
        with self.goodput.span("compile" if is_new else "step"), must_fit(self.program, self.labels, run, batch):
            self.compiled.wait()
            state = run(state, batch)
            if is_new:
                jax.block_until_ready(state.step)
        self.profiler.after(done, state)
        self.reporter.flush()  # the device is already busy with this step
        if is_due(done + 1, self.config.training.log_every, self.config.steps):
            with self.goodput.span("step"):  # on the CPU, copies wait for the device
                self.reporter.take(done + 1, state)
                state = state._replace(window=empty_window(self.program))
        return state


def beginning(start: int, steps: int) -> str:
    """Return the line with which the steps begin."""
    if start == 0:
        return "measuring held-out data before the first step"
    return f"continuing from step {start:,} of {steps:,}" if start < steps else "all steps are done"


def earlier_scores(workdir: Path, config: ConfigDict, start: int) -> list[float]:
    """Return the scores (more is better) of the evaluations before a step; [] if ``evaluation.patience`` is off."""
    if not config.evaluation.patience:
        return []
    found: list[float] = []
    if jax.process_index() == 0:
        scores = read_evaluations(workdir, config.evaluation.select).scores
        found = [value for step, value in scores if step < start]
    return same_everywhere({"scores": found})["scores"]


def is_due(done: int, every: int, steps: int) -> bool:
    """Return whether work that is done every ``every`` steps is due after ``done`` of ``steps`` steps.

    It is also due before the first step and after the last one.
    """
    return done % every == 0 or done == steps


def evaluate_once(reporter: Reporter, done: int, state: TrainState, *, resumed: bool) -> dict[str, float]:
    """Evaluate a state and log the metrics; if an earlier start of the run has logged them, read them instead.

    Args:
      reporter: the reporter of the run.
      done: number of steps of the state.
      state: the state to evaluate.
      resumed: whether the run has just restored this state.

    Raises:
      Stopped: a signal arrived during the evaluation.
    """
    logged = logged_evaluation(reporter.workdir, done) if resumed else {}
    if logged and same_everywhere({"report": (reporter.workdir / REPORT_DATA).exists()})["report"]:
        reporter.recall(done, logged)
        return logged
    return reporter.evaluate(done, state, is_logged=bool(logged))


def logged_evaluation(workdir: Path, step: int) -> dict[str, float]:
    """Return the metrics that an earlier start of the run logged after evaluating a step; {} if it logged none."""
    return same_everywhere(evaluation_at(workdir, step) if jax.process_index() == 0 else {})


def stop_agreed(stop: StopSignal, step: int) -> bool:
    """Return whether the run should stop after ``step``; every process gets the same answer."""
    if jax.process_count() == 1:
        return stop.received
    return multihost_utils.reached_preemption_sync_point(step)
