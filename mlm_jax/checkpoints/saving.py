"""The checkpoints of a run: saved asynchronously and sharded, restored onto any mesh; incomplete ones are skipped."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

from mlm_jax.checkpoints.checksum import checksums
from mlm_jax.checkpoints.contents import (
    ANOTHER_RUN,
    Damaged,
    damage,
    everyone,
    load_facts,
    pack,
    read_arrays,
    unpack,
)
from mlm_jax.checkpoints.metrics import ORBAX_METRICS, read_metrics, score, with_checksum
from mlm_jax.checkpoints.workdir import changed_keys, check_no_wildcards, config_from_json, config_json
from mlm_jax.common.disk import BRING_BACK, GONE, REMEDIES, causes, disk_problem
from mlm_jax.common.errors import UserError, nearest
from mlm_jax.common.files import remove_abandoned, whole_folder
from mlm_jax.common.quiet import quiet_orbax
from mlm_jax.common.seal import sealed
from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.training.state import TrainState

log = logging.getLogger(__name__)
TOO_SLOW = "saving took longer than Orbax waits: the storage is too slow, or the clock has jumped"
YEAR = 365 * 24 * 3600  # seconds; Orbax measures how long a save takes by a clock that may jump


class Checkpoints:
    """The checkpoints of a run, in WORKDIR/checkpoints/STEP: the last ones, those of every ``keep_every`` steps, and the best.

    Args:
      workdir: the workdir of the run.
      config: the config of the run.
      vocabulary: the vocabulary; every checkpoint contains it, as well as the config and the languages.
      languages: language codes in index order.
      labels: {task: names of its classes}.
      is_shared: whether all processes of the job work in this workdir. Otherwise each has a folder of its own, in which it writes
        its blocks of the arrays; the files of all processes together are the checkpoint.
      in_flight: the largest number of GB that are copied at once, at least the largest array; :meth:`save` then waits until the
        checkpoint is written. None: everything is copied, and written in the background.
    """

    @quiet_orbax()
    def __init__(
        self,
        workdir: str | Path,
        config: ConfigDict,
        vocabulary: Vocabulary,
        languages: tuple[str, ...],
        labels: Mapping[str, tuple[str, ...]],
        *,
        is_shared: bool = True,
        in_flight: float | None = None,
    ):
        self.select, self.fingerprint = config.evaluation.select, vocabulary.fingerprint
        self.facts: dict[str, Any] = {
            "config": config_json(config, workdir),
            "languages": list(languages),
            "vocabulary": pack(vocabulary),
            "labels": {task: list(names) for task, names in labels.items()},
        }
        self.workdir = Path(workdir).resolve()
        self.folder = self.workdir / "checkpoints"
        check_no_wildcards(workdir)
        self.is_writer = jax.process_index() == 0 or not is_shared  # of files that are no part of an array
        if self.is_writer:
            for unfinished in sorted(self.folder.glob("*.orbax-checkpoint-tmp*")):
                log.warning("checkpoint %s is incomplete and is skipped", unfinished.name.partition(".")[0])
            self._remove_damaged_metrics()
            self.folder.mkdir(parents=True, exist_ok=True)
        everyone(True)
        policies = [policy.LatestN(n=config.checkpoint.keep_last)]
        if config.checkpoint.keep_every:
            policies.append(policy.EveryNSteps(config.checkpoint.keep_every))
        if self.select:
            policies.append(policy.BestN(get_metric_fn=self._score, n=1, keep_checkpoints_without_metrics=False))
        processes = ocp.options.MultiprocessingOptions() if is_shared else _alone()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy.AnyPreservationPolicy(policies),
            best_fn=self._score if self.select else None,
            enable_async_checkpointing=in_flight is None,
            # The signal that a folder has been made is the same for all processes, even if each makes its own.
            async_options=ocp.AsyncOptions(timeout_secs=YEAR, create_directories_asynchronously=is_shared),
            multiprocessing_options=processes,
            cleanup_tmp_directories=True,
            create=False,
        )
        arrays = ocp.PyTreeCheckpointHandler(save_concurrent_gb=in_flight) if is_shared else _own_blocks(processes)
        handlers = {
            "state": arrays,
            "facts": ocp.JsonCheckpointHandler(multiprocessing_options=processes),
            "metrics": ocp.JsonCheckpointHandler(multiprocessing_options=processes),
        }
        self.manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)
        self.best = self._best_on_disk()  # kept here too, since a checkpoint that is being written cannot be read yet

    @quiet_orbax()
    def save(
        self, step: int, state: TrainState | Mapping[str, Any], metrics: Mapping[str, float] | None = None
    ) -> None:
        """Begin to write a checkpoint while training continues. If the step already has one, only add the metrics to it.

        Args:
          step: number of steps done.
          state: a complete training state, or {"params": …} for weights that only initialise other runs.
          metrics: the metrics of an evaluation at this step. They include the one that ``config.evaluation.select`` names.

        Raises:
          UserError: the disk is full (found now or by a later call), and earlier checkpoints are untouched; or their folder
            is gone.
        """
        if step in self.manager.all_steps():
            if metrics is not None:
                self.complete(step, metrics)
            return
        if not self.folder.is_dir():  # Orbax would create it again, without the other files of the run
            raise UserError(GONE, file=self.folder.parent, remedy=BRING_BACK)
        is_evaluated = bool(self.select) and metrics is not None
        facts = sealed(self.facts | {"checksums": checksums(state), "is_measured": is_evaluated})
        arguments = ocp.args.Composite(state=ocp.args.PyTreeSave(state), facts=ocp.args.JsonSave(facts))
        selected = self._selected(metrics) if metrics is not None and is_evaluated else None
        kept = None if selected is None else with_checksum(selected)
        self._guarded(lambda: self.manager.save(step, args=arguments, metrics=kept, force=True))
        self._take(selected)

    def improves(self, metrics: Mapping[str, float]) -> bool:
        """Return whether an evaluation is better than those of all checkpoints, by ``config.evaluation.select``.

        Raises:
          UserError: the evaluation has no such metric; the message names the nearest one.
        """
        if not self.select:
            return False
        here = self._score(self._selected(metrics))
        return self.best is None or here > self.best

    @quiet_orbax()
    def complete(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the metrics of an evaluation to a checkpoint without metrics; a checkpoint with metrics keeps its own.

        Args:
          step: the step of the checkpoint.
          metrics: as in :meth:`save`.

        Raises:
          UserError: the evaluation has no such metric.
        """
        if not self.select:
            return
        selected = self._selected(metrics)
        folder = self.folder / str(step)
        if self.is_writer:
            remove_abandoned(folder / ORBAX_METRICS)
        if self.is_writer and self.select not in read_metrics(folder):
            with whole_folder(folder / ORBAX_METRICS) as whole:
                (whole / ORBAX_METRICS).write_text(json.dumps(with_checksum(selected)))
        everyone(True)
        self.manager.reload()
        self._take(selected)

    @quiet_orbax()
    def wait(self) -> None:
        """Wait until everything is on disk.

        Raises:
          UserError: the disk is full.
        """
        self._guarded(self.manager.wait_until_finished)

    def end(self) -> None:
        """End writing, also after an error, and remove incomplete checkpoints, and the folder if there is no checkpoint.

        In a job of several processes the next start removes them: here, a process would wait for a failed one.

        Raises:
          UserError: the disk is full.
        """
        if jax.process_count() > 1:
            return
        try:
            self.wait()
        finally:
            self._remove_unfinished()
            with contextlib.suppress(OSError):  # there are checkpoints
                self.folder.rmdir()

    @quiet_orbax()
    def restore(self, abstract: TrainState) -> TrainState | None:
        """Return the state of the last complete checkpoint, with the layout of ``abstract``; None if there is none.

        A checkpoint that cannot be read, or whose checksums differ, is skipped with a warning, and renamed to STEP.damaged
        once an earlier one has been read.

        Args:
          abstract: shapes with shardings; the mesh need not be the one that wrote the checkpoint.

        Raises:
          UserError: a checkpoint is of another config, vocabulary, set of languages or model; or none can be read.
        """
        steps = sorted(self.manager.all_steps(), reverse=True)
        damaged: list[int] = []
        for step in steps:
            problem, facts, state = "", {}, None
            try:
                facts = load_facts(self.folder / str(step))
                self._check_facts(step, facts)
                state = read_arrays(self.folder / str(step), abstract)
            except Damaged as error:
                problem = str(error)
            if everyone(not problem):  # checked before the checksums, which all processes compute together
                problem = damage(state, facts["checksums"])
                if not problem:
                    self._set_aside(damaged)
                    return state
            log.warning(
                "checkpoint %s is damaged and is skipped (%s)", step, problem or "another process cannot read it"
            )
            damaged.append(step)
        if steps:
            raise UserError(
                "no checkpoint can be read",
                file=self.folder,
                remedy="see the warnings above; start again in another workdir",
            )
        return None

    def _check_facts(self, step: int, theirs: Mapping[str, Any]) -> None:
        """Check that a checkpoint is of this run."""
        config = config_from_json(theirs["config"], self.workdir)
        facts = {**theirs, "config": config_json(config, self.workdir)}
        folder = self.folder / str(step)
        if facts["vocabulary"] != self.facts["vocabulary"]:
            # An older version may have written other files of the same vocabulary.
            is_same = unpack(facts["vocabulary"], folder).fingerprint == self.fingerprint
            facts["vocabulary"] = self.facts["vocabulary"] if is_same else {}
        different = [key for key in ("languages", "vocabulary", "labels") if facts[key] != self.facts[key]]
        different += [f"config.{key}" for key in changed_keys(facts["config"], self.facts["config"])]
        if different:
            raise UserError(
                f"this checkpoint is of another run; these differ: {', '.join(different)}",
                file=folder,
                remedy=ANOTHER_RUN,
            )

    def _set_aside(self, damaged: list[int]) -> None:
        """Rename damaged checkpoints, so that their steps can be saved again."""
        if not damaged:
            return
        if self.is_writer:
            for step in damaged:
                (self.folder / str(step)).rename(self.folder / f"{step}.damaged")
        everyone(True)
        self.manager.reload()
        self.best = self._best_on_disk()

    def _remove_damaged_metrics(self) -> None:
        """Remove metrics that cannot be read, because Orbax would fail; their checkpoints count as not evaluated."""
        for metrics in self.folder.glob(f"*/{ORBAX_METRICS}"):
            if metrics.parent.name.isdigit() and not read_metrics(metrics.parent):
                shutil.rmtree(metrics, ignore_errors=True)

    def _best_on_disk(self) -> float | None:
        """Return the best score of the checkpoints; None if none has the metric."""
        found = [read_metrics(self.folder / str(step)) for step in self.manager.all_steps()] if self.select else []
        return max((self._score(metrics) for metrics in found if self.select in metrics), default=None)

    def _take(self, metrics: Mapping[str, float] | None) -> None:
        """Update the best score with the metrics of a checkpoint that was just saved."""
        if metrics is not None:
            here = self._score(metrics)
            self.best = here if self.best is None else max(self.best, here)

    def _selected(self, metrics: Mapping[str, float]) -> dict[str, float]:
        if self.select not in metrics:
            raise UserError(
                f"evaluation.select names {self.select!r}, which no evaluation gives{nearest(self.select, metrics)}",
                remedy="name one of those in the workdir's metrics.jsonl that begin with eval/",
            )
        return {self.select: float(metrics[self.select])}

    def _score(self, metrics: Mapping[str, float]) -> float:
        return score(self.select, metrics)

    def _guarded(self, action: Any) -> None:
        try:
            action()
        except Exception as error:
            problem = disk_problem(error)
            if any(isinstance(reason, TimeoutError) for reason in causes(error)):
                problem = TOO_SLOW
            if not problem:
                raise
            if self.is_writer:
                self._remove_unfinished()
            raise UserError(
                f"{problem}; earlier checkpoints are complete",
                file=self.folder,
                remedy=f"{REMEDIES.get(problem, 'set the clock')} and run the same command again",
            ) from error

    def _remove_unfinished(self) -> None:
        for unfinished in self.folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(unfinished, ignore_errors=True)


def _alone() -> ocp.options.MultiprocessingOptions:
    """Return options with which a process of a job saves into a folder of its own, and waits for no other process."""
    return ocp.options.MultiprocessingOptions(primary_host=None, active_processes={jax.process_index()})


def _own_blocks(processes: ocp.options.MultiprocessingOptions) -> ocp.PyTreeCheckpointHandler:
    """Return a handler that writes this process's blocks of arrays, each as a file, into a folder of its own.

    Orbax's OCDBT files could not be merged, as each process has only its own. The handler of arrays is not Orbax's global one:
    that one remembers which process makes folders, and every other handler of a tree, such as the one that restores, changes
    this to process 0. Then the others wait for process 0 to make a folder that they have to make themselves.
    """
    arrays = ocp.type_handlers.ArrayHandler(primary_host=None)
    return ocp.PyTreeCheckpointHandler(
        use_ocdbt=False,
        multiprocessing_options=processes,
        type_handler_registry=ocp.type_handlers.create_type_handler_registry((jax.Array, arrays)),
    )
