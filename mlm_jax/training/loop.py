"""The story of a run, from top to bottom: data, program, state, steps, end."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from mlm_jax.batch import Batch
from mlm_jax.data import curriculum
from mlm_jax.data.loader import Loader
from mlm_jax.data.store import Store
from mlm_jax.errors import UserError
from mlm_jax.objectives import Objective, kinds
from mlm_jax.parallel.mesh import make_mesh
from mlm_jax.report import write_report
from mlm_jax.training.checkpoint import Checkpoints, StopSignal, initialise_from
from mlm_jax.training.context import make_context
from mlm_jax.training.goodput import Goodput
from mlm_jax.training.held_out import HeldOut
from mlm_jax.training.metrics import MetricsWriter, Progress
from mlm_jax.training.state import TrainState
from mlm_jax.training.step import Program, build_program, empty_window, make_train_step, to_devices

log = logging.getLogger(__name__)


def train(config: ConfigDict, workdir: str | Path) -> Path:
    """Train as the config says, resuming from the last whole checkpoint of ``workdir`` if there is one.

    Args:
      config: the run's config.
      workdir: folder of the checkpoints, metrics and the report.

    Returns:
      the path of the report.

    Raises:
      UserError: the config, the data or the checkpoint cannot work; nothing is half-written.
    """
    workdir = Path(workdir)
    compilation_cache(workdir)

    # 1. The data: a token store, and a loader that is a pure function of the step.
    store = Store.open(prepared(config, workdir))
    loader = Loader(store, config, kinds=kinds(config.tasks),
                    process_index=jax.process_index(), process_count=jax.process_count())  # fmt: skip

    # 2. The program: model, objectives and optimizer on a mesh. Nothing is allocated yet.
    mesh = make_mesh(config.mesh)
    context = make_context(store.vocabulary, loader.languages, config)
    program = build_program(config, context, loader.languages, mesh, labels=loader.labels)

    # 3. The state: resumed, begun from other weights, or fresh.
    goodput = Goodput(workdir)
    checkpoints = Checkpoints(workdir, config, store.vocabulary, loader.languages)
    state = checkpoints.restore(program.state)
    if state is None:
        state = program.initialise()
        if config.checkpoint.init:
            state = state._replace(params=initialise_from(state.params, config.checkpoint.init))
    start = int(state.step)
    held_out = HeldOut(program, loader, store)

    # 4. The steps. Metrics add up on the device; the host reads them after it has sent the next step on its way.
    with (
        MetricsWriter(workdir, start, jax.process_index(), config.training.wandb) as metrics,
        Progress(config.steps, start) as progress,
        StopSignal() as stop,
    ):
        reporter = Reporter(program, loader, metrics, progress, goodput)
        compiled = CompiledPhases(program, loader)
        batches = on_devices(loader.iterate(start), mesh)
        if start == 0:
            held_out.write(metrics, state, 0)
        for step in range(start, config.steps):
            with goodput.span("data"):
                batch = next(batches)
            with goodput.span("step"):
                state = compiled.step_of(step)(state, batch)
            done = step + 1
            reporter.flush()  # of an earlier step: the device is already busy with this one
            if done % config.training.log_every == 0 or done == config.steps:
                reporter.take(done, state)
                state = state._replace(window=empty_window(program))
            stopping = stop_agreed(stop, done) and done < config.steps
            evaluating = done % config.evaluation.every == 0 or done == config.steps
            saving = stopping or done % config.checkpoint.every == 0 or done == config.steps
            if evaluating or saving:
                reporter.flush()  # what a checkpoint has counted must be on disk before the checkpoint is
                check_finite(config, state)
            if evaluating and not stopping:
                with goodput.span("evaluation"):
                    held_out.write(metrics, state, done)
            if saving:
                with goodput.span("checkpoint"):
                    checkpoints.save(done, state)
            if stopping:
                checkpoints.wait()
                progress.say(f"stopped by a signal after step {done}; the same command continues from there")
                raise SystemExit(0)
        reporter.flush()
        checkpoints.wait()
        goodput.write()

    # 5. The end: a page to look at.
    return write_report(workdir)


def prepared(config: ConfigDict, workdir: Path) -> str:
    """Return the folder of the token store, made by one process if it is missing or stale.

    TensorFlow and seqio are imported by the process that prepares, which ends before training begins.
    """
    from mlm_jax.data.freshness import is_fresh

    folder = config.data.store or str(workdir / "store")
    if jax.process_index() == 0 and not is_fresh(config, folder):
        spawn = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
            pool.submit(_prepare, config.to_json_best_effort(), folder).result()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("token store is prepared")
    return folder


def compilation_cache(workdir: Path) -> None:
    """Keep compiled programs beside the run, unless the user chose a folder: a restart does not compile again."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(workdir.resolve() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def on_devices(batches: Iterator[Batch], mesh: Any) -> Iterator[Batch]:
    """Keep one batch on its way to the devices while the step works on the one before."""
    ahead = to_devices(next(batches), mesh)
    for batch in batches:
        following = to_devices(batch, mesh)
        yield ahead
        ahead = following
    yield ahead


def stop_agreed(stop: StopSignal, step: int) -> bool:
    """Return whether this run is to stop after ``step``; every process gives the same answer."""
    if jax.process_count() == 1:
        return stop.received
    return multihost_utils.reached_preemption_sync_point(step)


def check_finite(config: ConfigDict, state: TrainState) -> None:
    """Raise if a gradient was not finite and the config says to stop then.

    Raises:
      UserError: names the step.
    """
    step = int(state.first_skipped)
    if step >= 0 and config.training.nonfinite == "stop":
        raise UserError(
            f"the gradient of step {step} is not finite; nothing was changed by it, and the last checkpoint is from before",
            remedy="lower optimizer.learning_rate, or set training.nonfinite='skip' to leave such steps out",
        )


class CompiledPhases:
    """The compiled step of each curriculum phase: what a phase changes is compiled in."""

    def __init__(self, program: Program, loader: Loader):
        self.program, self.loader = program, loader
        self.compiled: dict[Any, Callable[[TrainState, Batch], TrainState]] = {}

    def step_of(self, step: int) -> Callable[[TrainState, Batch], TrainState]:
        """Return the step function in force at ``step``."""
        phase = curriculum.at(self.loader.phases, step)
        objectives = {task: in_phase(objective, phase) for task, objective in self.program.objectives.items()}
        key = (tuple(objectives.items()), phase.rope_theta)
        if key not in self.compiled:
            changes = {"rope_theta": phase.rope_theta} if phase.rope_theta != self.program.config.model.rope_theta else {}
            self.compiled[key] = make_train_step(self.program, objectives=objectives, model_overrides=changes)
        return self.compiled[key]


def in_phase(objective: Objective, phase: curriculum.Phase) -> Objective:
    """Return the objective with the phase's mask rate, if it masks."""
    if not hasattr(objective, "mask_rate"):
        return objective
    return dataclasses.replace(objective, mask_rate=phase.mask_rate(objective.task, objective.mask_rate))  # type: ignore[call-arg]


class Reporter:
    """Turns the device's sums into log lines, one step late so that the device never waits for it."""

    def __init__(self, program: Program, loader: Loader, metrics: MetricsWriter, progress: Progress, goodput: Goodput):
        self.program, self.loader, self.metrics, self.progress, self.goodput = program, loader, metrics, progress, goodput
        self.pending: tuple[int, Any] | None = None

    def take(self, step: int, state: TrainState) -> None:
        """Keep the sums up to ``step``; they are read by :meth:`flush`."""
        self.pending = (step, (state.window, state.gradient_norm + 0, state.skipped + 0, state.first_skipped + 0))

    def flush(self) -> None:
        """Write the log line that is waiting, if any."""
        if self.pending is None:
            return
        step, device_values = self.pending
        self.pending = None
        window, norm, skipped, first_skipped = jax.device_get(device_values)
        line = {"train/learning_rate": float(self.program.learning_rate(step - 1)), "train/gradient_norm": float(norm)}
        line |= window_metrics(window, self.program.languages)
        line |= self.goodput.throughput(step, self.loader)
        if skipped:
            line["train/skipped_steps"] = int(skipped)
        self.metrics.write(step, line)
        self.progress.update(step, line)


def window_metrics(window: dict, languages: tuple[str, ...], prefix: str = "train") -> dict[str, float]:
    """Return {"train/loss/de": …} of the first task and {"train/ranking/loss/de": …} of the others, with means."""
    line: dict[str, float] = {}
    for index, (task, metrics) in enumerate(window.items()):
        for name, (numerator, denominator) in metrics.items():
            base = f"{prefix}/{name}" if index == 0 else f"{prefix}/{task}/{name}"
            seen = np.asarray(denominator) > 0
            values = {languages[i]: float(numerator[i] / denominator[i]) for i in np.flatnonzero(seen)}
            line |= {f"{base}/{language}": value for language, value in values.items()}
            if values:
                line[f"{base}/mean"] = sum(values.values()) / len(values)
    return line


def _prepare(config_json: str, folder: str) -> None:
    raise NotImplementedError
