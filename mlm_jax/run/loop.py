"""A training run from start to end: data, program, state, steps, report."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from mlm_jax.adaptation.adapted import adapted
from mlm_jax.checkpoints.initialise import check_init, initialise_from
from mlm_jax.checkpoints.provenance import record
from mlm_jax.checkpoints.saving import Checkpoints
from mlm_jax.checkpoints.transplant import ModelSpec
from mlm_jax.checkpoints.workdir import (
    check_store,
    check_workdir,
    claim_workdir,
    config_from_json,
    config_json,
    has_checkpoints,
)
from mlm_jax.common.addresses import is_local
from mlm_jax.common.bucket import LocalWorkdir, local_workdir, original
from mlm_jax.common.console import plain_console
from mlm_jax.common.disk import disk_errors
from mlm_jax.common.errors import UNFINISHED, UserError
from mlm_jax.common.lock import only_writer
from mlm_jax.common.processes import fresh_processes
from mlm_jax.common.quiet import quiet_orbax
from mlm_jax.config.check import check_values
from mlm_jax.config.paths import expand_home
from mlm_jax.data.loading import curriculum
from mlm_jax.data.loading.loader import Loader
from mlm_jax.data.store.freshness import is_fresh, what_it_lacks
from mlm_jax.data.store.manifest import WITH_LABELS
from mlm_jax.data.store.store import Store
from mlm_jax.data.store.writer import remove_leftovers
from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.evaluation.held_out import HeldOut
from mlm_jax.evaluation.labelled_sets import per_token
from mlm_jax.objectives import create_objectives, kinds
from mlm_jax.parallel.batches import check_rows, row_group
from mlm_jax.parallel.job import this_job
from mlm_jax.parallel.mesh import make_mesh
from mlm_jax.report import write_report
from mlm_jax.run.compiled import CompiledPrograms
from mlm_jax.run.goodput import Goodput
from mlm_jax.run.lift import lifts, warning
from mlm_jax.run.memory import must_fit
from mlm_jax.run.metrics import MetricsWriter, TrainingProgress
from mlm_jax.run.opening import opening_lines
from mlm_jax.run.profiler import Profiler
from mlm_jax.run.reporter import Reporter
from mlm_jax.run.steps import Steps
from mlm_jax.run.stop import Stopped, StopSignal
from mlm_jax.run.weights_and_biases import check_wandb
from mlm_jax.training.check import check_config, check_language_names
from mlm_jax.training.context import check_vocabulary, make_context
from mlm_jax.training.slow_attention import warn_of_slow_attention
from mlm_jax.training.state import TrainState
from mlm_jax.training.step import Program, build_program

log = logging.getLogger(__name__)

KEPT, SAME_COMMAND = "checkpoints are complete", "free some space and run the same command again"
LESS_MEMORY = "lower config.data.workers if memory ran out"


def train(config: ConfigDict, workdir: str | Path) -> Path | str:
    """Train with a config; continue from the last complete checkpoint of ``workdir`` if there is one.

    Args:
      config: the config of the run.
      workdir: folder of the checkpoints, the metrics and the report, or its address (``gs://…``, ``s3://…``).

    Returns:
      the path, or the address, of the report.

    Raises:
      UserError: the config, the data or the checkpoint is invalid, another process trains in this workdir, or the disk
        is full; no file is half-written.
      SystemExit: with code 75 (UNFINISHED), if a signal (Ctrl-C, a notebook's interrupt) stopped the run. The run is saved,
        and the same call continues it.
    """
    stop = StopSignal()
    try:
        with (
            quiet_orbax(),
            stop,
            local_workdir(workdir, this_job()) as local,
            disk_errors(local.folder),
            contextlib.ExitStack() as held,
        ):
            report = original(_train(config, local, stop, held))
            return Path(report) if is_local(report) else report
    except Stopped:
        if jax.process_index() == 0:
            where = "before the first step" if stop.step is None else f"after step {stop.step}"
            plain_console().print(f"stopped by a signal {where}; the same command continues from there", soft_wrap=True)
        raise SystemExit(UNFINISHED) from None


def _train(config: ConfigDict, local: LocalWorkdir, stop: StopSignal, held: contextlib.ExitStack) -> Path:
    """Train, with the arguments and errors of :func:`train`; raise Stopped after a signal. ``held`` keeps the workdir's lock."""
    first, workdir = jax.process_index() == 0, local.folder

    # 0. Checks that need no data come first, before anything is read or written, except the model of config.adapt.
    check_values(config)
    expand_home(config)
    config = adapted(config, workdir)
    check_config(config)
    check_workdir(workdir, config)
    if first and config.training.wandb:
        check_wandb()
    if config.checkpoint.init and not has_checkpoints(workdir):
        check_init(config.checkpoint.init)
    mesh = make_mesh(config.mesh)
    group, groups = row_group(mesh)
    if first:
        warn_of_slow_attention(config, mesh)
    task_kinds = kinds(config.tasks)
    for tasks in curriculum.tasks_by_phase(config, task_kinds):
        check_rows(tasks, mesh, config.training.microbatches, groups)
    held.enter_context(only_writer(workdir / "train") if first else contextlib.nullcontext())
    held.enter_context(disk_errors(workdir, left=KEPT, remedy=SAME_COMMAND, is_there=workdir.is_dir()))
    programs = CompiledPrograms(workdir, first)
    held.callback(programs.release)

    # 1. The data: a token store, and a loader that is a pure function of the step.
    store = Store.open(prepared(config, workdir))
    loader = Loader(store, config, task_kinds, process_index=group, process_count=groups)

    # 2. The program: model, objectives and optimizer on the mesh. No array is allocated yet.
    check_language_names(loader.languages)
    check_labels(loader, config)
    labels = loader.labels()
    context = make_context(store.vocabulary, loader.languages, config, labels)
    label_counts = {task: len(names) for task, names in labels.items()}
    program = build_program(config, context, loader.languages, mesh, labels=label_counts)
    held_out = HeldOut(program, loader, store)

    # 3. The state: restored from a checkpoint, initialised from other weights, or newly drawn.
    checkpoints = Checkpoints(workdir, config, store.vocabulary, loader.languages, labels, is_shared=local.is_shared)
    held.callback(checkpoints.end)
    with must_fit(program, label_counts):
        state = first_state(program, checkpoints, store.vocabulary)
    start = int(state.step)
    if first:
        claim_workdir(workdir, config)  # last: an invalid config must not claim the workdir
        record(workdir, start)

    # 4. The steps.
    goodput = Goodput(workdir, first)
    with (
        MetricsWriter(workdir, start, first, config.training.wandb, config_json(config), local.push) as metrics,
        TrainingProgress(config.steps, start, first) as progress,
        Profiler(config.training.profile, workdir) as profiler,
    ):
        stop.begin_steps(start)
        held_out.between = stop.check
        for line in opening_lines(program, loader):
            progress.print(line)
        if start == 0 and len(loader.phases) > 1:  # for the report
            metrics.write(0, {f"plan/phase/{phase.index}/start_step": phase.start_step for phase in loader.phases})
        log_lifts(config, loader, start, metrics, progress)
        reporter = Reporter(program, loader, held_out, workdir, metrics, progress, goodput)
        steps = Steps(reporter, checkpoints, stop, profiler, local=local, programs=programs, labels=label_counts)
        held.callback(steps.end)
        steps.run(state)

    # 5. The end: the report's page, and tables.
    report = write_report(workdir) if first else workdir / "report.html"
    reporter.farewell(report)
    return report


def prepared(config: ConfigDict, workdir: Path) -> str:
    """Return the folder of the token store, and make the store if it is missing or stale.

    A child process makes it, so that the training process never imports TensorFlow and seqio. A store on which a checkpoint
    was trained is not replaced.

    Raises:
      UserError: the data cannot be prepared, or has changed since a checkpoint of the workdir was trained on it.
    """
    folder = config.data.store or f"{original(workdir)}/store"
    if jax.process_index() == 0:
        try:
            if not is_fresh(config, folder):
                check_store(workdir, config, folder)
                check_vocabulary(config)
                with fresh_processes(1, remedy=LESS_MEMORY) as pool:
                    pool.submit(_prepare, config_json(config), folder).result()
            elif lacks := what_it_lacks(config, folder):
                log.warning(lacks)
        finally:
            remove_leftovers(folder)  # of a killed earlier start, or of a child process that ended with its parent
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("the token store is prepared")
    return folder


def _prepare(config: dict[str, Any], folder: str) -> None:
    from mlm_jax.data.store.prepare import prepare

    prepare(config_from_json(config), folder)


def check_labels(loader: Loader, config: ConfigDict) -> None:
    """Check that the objective of each task can learn from the labels that the task reads.

    Raises:
      UserError: from :meth:`Objective.check_labels`.
    """
    for task, objective in create_objectives(config.tasks).items():
        if objective.kind in WITH_LABELS:
            stream = loader.streams(task)[0]
            objective.check_labels(stream.name, stream.labels, per_token(stream))


def first_state(program: Program, checkpoints: Checkpoints, vocabulary: Vocabulary) -> TrainState:
    """Return the state of the last complete checkpoint, or else a new one, with the weights of ``checkpoint.init`` if it is set.

    Raises:
      UserError: the last checkpoint is later than the run's last step, or for the reasons of :meth:`Checkpoints.restore` and
        :func:`initialise_from`.
    """
    config = program.config
    state = checkpoints.restore(program.state)
    if state is None:
        state = program.initialise()
        if config.checkpoint.init:
            facts = ModelSpec(config, vocabulary, program.languages)
            params = initialise_from(state.params, config.checkpoint.init, facts)
            average = jax.tree.map(jnp.copy, params) if config.training.ema else {}
            state = state._replace(params=params, average=average)
    if int(state.step) > config.steps:
        raise UserError(
            f"the workdir is already at step {int(state.step):,}, but config.steps is {config.steps:,}",
            remedy="raise steps, or use a new workdir with checkpoint.init",
        )
    return state._replace(first_skipped=state.first_skipped * 0 - 1)  # −1: no skipped step since this start


def log_lifts(
    config: ConfigDict, loader: Loader, start: int, metrics: MetricsWriter, progress: TrainingProgress
) -> None:
    """Log the lift of each language by sampling and loss weights, and warn if both lift the same languages."""
    if not config.training.normalize.startswith("per_language"):
        return
    for task in (task for task, kind in kinds(config.tasks).items() if kind == "text"):
        found = lifts(loader, task, start)
        if start == 0:
            metrics.write(0, {f"plan/{task}/lift/{language}": a * b for language, (a, b) in found.items()})
        if line := warning(found):
            progress.print(f"{task}: {line}")
