"""Checkpoints: asynchronous, sharded, self-contained, restored onto any mesh; one cut short is passed over."""

from __future__ import annotations

import base64
import gc
import json
import logging
import math
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

from mlm_jax.checkpoints.checksum import checksums
from mlm_jax.checkpoints.workdir import changed_keys, check_no_wildcards, config_from_json, config_json
from mlm_jax.common.bucket import bring, local_path, original
from mlm_jax.common.disk import BRING_BACK, GONE, REMEDIES, causes, disk_problem
from mlm_jax.common.errors import UserError, nearest, one_line
from mlm_jax.common.files import remove_abandoned, whole_folder
from mlm_jax.common.foreign_files import MOST_JSON, MOST_TOKENIZER, check_file, read_json
from mlm_jax.common.quiet import quiet_orbax
from mlm_jax.common.seal import sealed, unsealed
from mlm_jax.config.check import check_values
from mlm_jax.data.loading import curriculum
from mlm_jax.data.vocabulary.folder import read_vocabulary
from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.training.paths import by_path
from mlm_jax.training.state import TrainState

log = logging.getLogger(__name__)
ANOTHER_RUN = "use a new workdir, with checkpoint.init to start from these weights"
LESS_IS_BETTER = ("loss", "bits_per_byte", "perplexity")  # prefixes of the names of such metrics
FACTS: dict[str, Callable[[Any], bool]] = {  # {a checkpoint's fact: whether a value is possible}
    "config": lambda value: isinstance(value, dict),
    "languages": lambda value: _texts(value),
    "labels": lambda value: isinstance(value, dict) and all(_texts(names) for names in value.values()),
    "vocabulary": lambda value: isinstance(value, dict) and _texts([*value.values()]),
    "checksums": lambda value: isinstance(value, dict),
}
MOST_FACTS = 2 * MOST_TOKENIZER  # bytes: a vocabulary is among them in base64
MOST_SHRUNK = 100  # times that weights may be larger than their compressed files
CHECKSUM = "crc32"  # among the metrics of a checkpoint; older versions wrote none
METRICS = "metrics"  # Orbax's name of the folder and of the file in it that hold the metric of a checkpoint


class Described(NamedTuple):
    """A checkpoint's facts: :class:`Loaded` without the parameters."""

    step: int
    config: ConfigDict
    vocabulary: Vocabulary
    languages: tuple[str, ...]
    labels: dict[str, tuple[str, ...]]


class Loaded(NamedTuple):
    """A checkpoint's model, for inference.

    Attributes:
      step: of the run.
      config: the run's.
      vocabulary: that its tokens are of.
      languages: codes in index order.
      labels: {task: names of its classes}.
      params: nested dict of arrays.
    """

    step: int
    config: ConfigDict
    vocabulary: Vocabulary
    languages: tuple[str, ...]
    labels: dict[str, tuple[str, ...]]
    params: Any


class Checkpoints:
    """The checkpoints of a run, in WORKDIR/checkpoints/STEP: the last ones, every ``keep_every``-th step's, and the best.

    Args:
      workdir: of the run.
      config: of the run.
      vocabulary: kept in every checkpoint, as are the config and the languages.
      languages: codes in index order.
      labels: {task: names of its classes}.
      in_flight: most GB that are copied at once while a checkpoint is written, which then makes :meth:`save` wait; at
        least the largest array. None writes in the background, for which everything is copied.
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
        in_flight: float | None = None,
    ):
        self.select = config.evaluation.select
        self.facts: dict[str, Any] = {
            "config": config_json(config),
            "languages": list(languages),
            "vocabulary": _pack(vocabulary),
            "labels": {task: list(names) for task, names in labels.items()},
        }
        self.folder = Path(workdir).resolve() / "checkpoints"
        check_no_wildcards(workdir)
        if jax.process_index() == 0:
            for unfinished in sorted(self.folder.glob("*.orbax-checkpoint-tmp*")):
                log.warning("checkpoint %s was cut short: passing it over", unfinished.name.partition(".")[0])
            self._remove_damaged_metrics()
        everyone(True)
        policies = [policy.LatestN(n=config.checkpoint.keep_last)]
        if config.checkpoint.keep_every:
            policies.append(policy.EveryNSteps(config.checkpoint.keep_every))
        if self.select:
            policies.append(policy.BestN(get_metric_fn=self._score, n=1, keep_checkpoints_without_metrics=False))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy.AnyPreservationPolicy(policies),
            best_fn=self._score if self.select else None,
            enable_async_checkpointing=in_flight is None,
            cleanup_tmp_directories=True,
            create=True,
        )
        handlers = {
            "state": ocp.PyTreeCheckpointHandler(save_concurrent_gb=in_flight),
            "facts": ocp.JsonCheckpointHandler(),
            "metrics": ocp.JsonCheckpointHandler(),
        }
        self.manager = ocp.CheckpointManager(
            self.folder, options=options, item_handlers=handlers if in_flight else None
        )
        self.best = self._best_on_disk()  # kept here too, since a checkpoint that is being written cannot be read yet

    @quiet_orbax()
    def save(
        self, step: int, state: TrainState | Mapping[str, Any], metrics: Mapping[str, float] | None = None
    ) -> None:
        """Begin to write a checkpoint; training goes on meanwhile. If the step has one already, only add the metrics to it.

        Args:
          step: steps done.
          state: a whole training state, or {"params": …} for weights that only initialise other runs.
          metrics: of an evaluation at this step. They include the one that ``config.evaluation.select`` names.

        Raises:
          UserError: the disk is full (found now or by a later call), and earlier checkpoints are untouched; or their folder
            is gone.
        """
        if step in self.manager.all_steps():
            if metrics is not None:
                self.complete(step, metrics)
            return
        if not self.folder.is_dir():  # Orbax would make it anew, with nothing else of the run
            raise UserError(GONE, file=self.folder.parent, remedy=BRING_BACK)
        measured = self.select and metrics is not None
        facts = sealed(self.facts | {"checksums": checksums(state), "is_measured": bool(measured)})
        arguments = ocp.args.Composite(state=ocp.args.PyTreeSave(state), facts=ocp.args.JsonSave(facts))
        selected = self._measured(metrics) if metrics is not None and measured else None
        kept = None if selected is None else _with_checksum(selected)
        self._guarded(lambda: self.manager.save(step, args=arguments, metrics=kept, force=True))
        self._take(selected)

    def improves(self, metrics: Mapping[str, float]) -> bool:
        """Return whether an evaluation is better than that of every checkpoint, by ``config.evaluation.select``.

        Raises:
          UserError: the evaluation has no such metric; the message names the nearest one.
        """
        if not self.select:
            return False
        here = self._score(self._measured(metrics))
        return self.best is None or here > self.best

    @quiet_orbax()
    def complete(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the metrics of an evaluation to a checkpoint that was saved without; a checkpoint that has metrics keeps them.

        Args:
          step: of the checkpoint.
          metrics: as in :meth:`save`.

        Raises:
          UserError: the evaluation has no such metric.
        """
        if not self.select:
            return
        selected = self._measured(metrics)
        folder = self.folder / str(step)
        if jax.process_index() == 0:
            remove_abandoned(folder / METRICS)
        if jax.process_index() == 0 and self.select not in _metrics(folder):
            with whole_folder(folder / METRICS) as whole:
                (whole / METRICS).write_text(json.dumps(_with_checksum(selected)))
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
        """End writing, also after an error: what has not become whole by then is removed.

        In a job of several processes the next start removes it: here, one process would wait for the failed one.

        Raises:
          UserError: the disk is full.
        """
        if jax.process_count() > 1:
            return
        try:
            self.wait()
        finally:
            self._remove_unfinished()

    @quiet_orbax()
    def restore(self, abstract: TrainState) -> TrainState | None:
        """Return the state of the last whole checkpoint, with the layout of ``abstract``; None if there is none.

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
            if everyone(not problem):  # before the checksums, to which all processes add their part
                problem = damage(state, facts["checksums"])
                if not problem:
                    self._set_aside(damaged)
                    return state
            log.warning(
                "checkpoint %s is damaged: passing it over (%s)", step, problem or "another process cannot read it"
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
        facts = {**theirs, "config": config_json(config_from_json(theirs["config"]))}
        different = [key for key in ("languages", "vocabulary", "labels") if facts[key] != self.facts[key]]
        different += [f"config.{key}" for key in changed_keys(facts["config"], self.facts["config"])]
        if different:
            raise UserError(
                f"this checkpoint is of another run; these differ: {', '.join(different)}",
                file=self.folder / str(step),
                remedy=ANOTHER_RUN,
            )

    def _set_aside(self, damaged: list[int]) -> None:
        """Rename damaged checkpoints, so that their steps can be saved again."""
        if not damaged:
            return
        if jax.process_index() == 0:
            for step in damaged:
                (self.folder / str(step)).rename(self.folder / f"{step}.damaged")
        everyone(True)
        self.manager.reload()
        self.best = self._best_on_disk()

    def _remove_damaged_metrics(self) -> None:
        """Remove metrics that cannot be read, over which Orbax would stumble; their checkpoints count as not measured."""
        for metrics in self.folder.glob(f"*/{METRICS}"):
            if metrics.parent.name.isdigit() and not _metrics(metrics.parent):
                shutil.rmtree(metrics, ignore_errors=True)

    def _best_on_disk(self) -> float | None:
        """Return the best score of the checkpoints; None if none has the metric."""
        found = [_metrics(self.folder / str(step)) for step in self.manager.all_steps()] if self.select else []
        return max((self._score(metrics) for metrics in found if self.select in metrics), default=None)

    def _take(self, metrics: Mapping[str, float] | None) -> None:
        """Update the best score with the metrics of a checkpoint that was just saved."""
        if metrics is not None:
            here = self._score(metrics)
            self.best = here if self.best is None else max(self.best, here)

    def _measured(self, metrics: Mapping[str, float]) -> dict[str, float]:
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
            if not (problem := disk_problem(error)):
                raise
            if jax.process_index() == 0:
                self._remove_unfinished()
            raise UserError(
                f"{problem}; earlier checkpoints are whole",
                file=self.folder,
                remedy=f"{REMEDIES[problem]} and run the same command again",
            ) from error

    def _remove_unfinished(self) -> None:
        for unfinished in self.folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(unfinished, ignore_errors=True)


def score(select: str, metrics: Mapping[str, float]) -> float:
    """Return the value of a metric such as ``eval/loss/mean`` so that more is better; the worst if there is no such number."""
    value = metrics.get(select, math.nan)
    if math.isnan(value):
        return -math.inf
    name = select.split("/")[-2:][0]
    return -value if name.startswith(LESS_IS_BETTER) else value


class Damaged(Exception):
    """A checkpoint's files are missing or not as they were written."""


def read_arrays(folder: Path, abstract: Any) -> Any:
    """Return the arrays of ``abstract`` (a whole state, or {"params": …}) from one checkpoint.

    Args:
      folder: of the checkpoint.
      abstract: shapes with shardings.

    Raises:
      Damaged: they cannot be read.
      UserError: the checkpoint has other arrays than ``abstract``.
    """
    wanted = by_path(abstract)
    try:
        there = by_path(_described(folder))
    except Exception as error:  # Orbax raises many kinds for damaged files
        raise Damaged(_brief(error)) from error
    rooms = {name.partition("/")[0] for name in wanted}
    different = [
        name
        for name in sorted({*wanted, *(name for name in there if name.partition("/")[0] in rooms)})
        if name not in wanted or name not in there or wanted[name].shape != there[name].shape
    ]
    if different:
        raise UserError(
            f"this checkpoint has other arrays than the run; the first is {different[0]!r}",
            file=folder,
            remedy=ANOTHER_RUN,
        )
    try:
        # Not by a Checkpointer, which waits for the other processes: if one of them fails, it would wait forever.
        return ocp.PyTreeCheckpointHandler().restore(
            folder / "state",
            args=ocp.args.PyTreeRestore(
                item=abstract,
                restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
                partial_restore=True,
            ),
        )
    except Exception as error:
        if any("RESOURCE_EXHAUSTED" in str(reason) or isinstance(reason, MemoryError) for reason in causes(error)):
            raise  # the devices' memory is full: nothing is wrong with the checkpoint
        problem = _brief(error)
    gc.collect()  # here, where logging is quiet: Orbax's unfinished reads warn that they were never awaited
    raise Damaged(problem)


def damage(arrays: Any, expected: Mapping[str, int]) -> str:
    """Return the problem of arrays that were read; "" if their checksums are right.

    Args:
      arrays: from :func:`read_arrays`; if they are split over processes, all processes must call this.
      expected: checksums by path.
    """
    wrong = [name for name, number in checksums(arrays).items() if expected.get(name) != number]
    return f"{wrong[0]!r} is not as it was written" if wrong else ""


def _described(folder: Path) -> Any:
    """Return the tree of the shapes of a checkpoint's arrays, which are here then: those of a bucket are fetched now."""
    bring(folder)
    for file in (folder / "state").rglob("*"):
        if file.is_symlink() or not file.is_dir():  # a device or a pipe would never end; only arrays may be large
            check_file(file, math.inf if file.parent.name == "d" else MOST_JSON)
    return ocp.PyTreeCheckpointHandler().metadata(folder / "state").tree


def everyone(fine: bool) -> bool:
    """Return whether all processes are fine; each waits for all."""
    return fine if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(fine)).all())


def _brief(error: BaseException) -> str:
    return one_line(str(error).partition("See full TensorStore")[0]) or type(error).__name__


def find_checkpoint(place: str | Path) -> Path:
    """Return the folder of a checkpoint: ``place`` itself, or of a workdir the best if its run selects one, else the last.

    Raises:
      UserError: there is none.
    """
    return _candidates(place)[0]


def _candidates(place: str | Path) -> list[Path]:
    """Return the checkpoints that ``place`` may mean, the likeliest first."""
    here = local_path(place).resolve()
    for folder in (here, here / "checkpoints"):
        if (folder / "state").is_dir():
            return [folder]
        steps = [child for child in folder.glob("*") if child.name.isdigit() and (child / "state").is_dir()]
        if steps:
            steps.sort(key=lambda child: int(child.name), reverse=True)
            select = _select(steps)
            return sorted(steps, key=lambda child: score(select, _metrics(child)), reverse=True)  # stable
    raise UserError(
        "there is no checkpoint here", file=original(here), remedy="name a workdir or one of its checkpoints"
    )


def _select(folders: Sequence[Path]) -> str:
    """Return the metric by which a run selects its best checkpoint, from the first of these that can be read."""
    for folder in folders:
        try:
            return config_from_json(load_facts(folder)["config"]).evaluation.select
        except (Damaged, UserError):
            continue
    return ""


def _metrics(folder: Path) -> dict[str, float]:
    """Return the metrics that a checkpoint was measured by; {} if it has none that can be read."""
    file = folder / METRICS / METRICS
    if not file.exists():
        if _was_measured(folder):
            log.warning(
                "the metric of checkpoint %s is missing: it is damaged, and counts as not measured", folder.name
            )
        return {}
    try:
        found = {str(name): float(value) for name, value in read_json(file).items()}
        metrics = {name: value for name, value in found.items() if name != CHECKSUM}
        if CHECKSUM in found and found != _with_checksum(metrics):
            raise ValueError("it is not as it was written: its checksum differs")
        return metrics
    except (UserError, ValueError, TypeError, AttributeError) as error:
        log.warning("the metric of checkpoint %s cannot be read (%s)", folder.name, _brief(error))
        return {}


def _was_measured(folder: Path) -> bool:
    """Return whether a checkpoint was saved with metrics; False if its facts cannot be read (others warn of that)."""
    try:
        return read_json(folder / "facts" / "metadata", most=MOST_FACTS).get("is_measured") is True
    except (UserError, AttributeError):
        return False


def _with_checksum(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return metrics with a checksum among them, a number like them, as Orbax wants."""
    return {**metrics, CHECKSUM: float(zlib.crc32(json.dumps(sorted(metrics.items())).encode()))}


def load_facts(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's facts: config, languages, labels, vocabulary, checksums.

    Raises:
      Damaged: the file is missing or damaged.
    """
    try:
        facts = unsealed(read_json(folder / "facts" / "metadata", most=MOST_FACTS))
        for key, fits in FACTS.items():
            if not fits(facts[key]):
                raise ValueError(f"{key!r} is not what a checkpoint has there")
    except (UserError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"its facts cannot be read: {_brief(error)}") from error
    return {key: facts[key] for key in FACTS}


def host() -> jax.Device:
    """Return the host as a device: weights that are spread over several accelerators need not fit on the first one."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
        return jax.local_devices()[0]


@quiet_orbax()
def load_parameters(place: str | Path, *, device: jax.Device | None = None) -> Loaded:
    """Load a model for inference: its parameters (the average if the run kept one), config, vocabulary and languages.

    Args:
      place: a workdir (damaged checkpoints are skipped), or one of its checkpoints.
      device: of the parameters; by default this process's first one.

    Raises:
      UserError: there is no checkpoint, or it is damaged.
    """
    candidates = _candidates(place)
    for folder in candidates:
        try:
            return _load(folder, device or jax.local_devices()[0])
        except Damaged as error:
            if folder == candidates[-1]:
                raise UserError(
                    f"the checkpoint is damaged: {error}", file=folder, remedy="use another checkpoint of the run"
                ) from error
            log.warning("checkpoint %s is damaged: passing it over (%s)", folder.name, error)
    raise AssertionError("unreachable: the last candidate returns or raises")


def describe(place: str | Path) -> Described:
    """Return a checkpoint's facts, without its parameters.

    Args:
      place: as of :func:`load_parameters`.

    Raises:
      UserError: there is no checkpoint, or it is damaged.
    """
    folder = find_checkpoint(place)
    try:
        return _describe(folder, load_facts(folder))
    except Damaged as error:
        raise UserError(f"the checkpoint is damaged: {error}", file=folder, remedy="use another one") from error


def _describe(folder: Path, facts: Mapping[str, Any]) -> Described:
    try:
        config = config_from_json(facts["config"])
        check_values(config)
        vocabulary = _unpack(facts["vocabulary"], folder)
    except UserError as error:
        raise Damaged(error.problem) from error
    labels = {task: tuple(names) for task, names in facts["labels"].items()}
    step = int(folder.name) if folder.name.isdigit() else 0
    config.model.rope_theta, config.model.local_rope_theta = curriculum.rope_bases(
        config, step
    )  # the bases with which these weights were trained
    return Described(step, config, vocabulary, tuple(facts["languages"]), labels)


def _load(folder: Path, device: jax.Device) -> Loaded:
    facts = load_facts(folder)
    described = _describe(folder, facts)
    field = "average" if described.config.training.ema else "params"
    try:
        shapes = _described(folder)
        if field not in shapes:  # an import, which has the parameters alone
            field = "params"
        shapes = shapes[field]
    except Exception as error:  # Orbax raises many kinds for damaged files
        raise Damaged(_brief(error)) from error
    _check_sizes(folder, described.config, shapes)
    there = jax.sharding.SingleDeviceSharding(device)
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=there), shapes)
    arrays = read_arrays(folder, {field: wanted})
    if problem := damage(arrays, facts["checksums"]):
        raise Damaged(problem)
    return Loaded(*described, arrays[field])


def _check_sizes(folder: Path, config: ConfigDict, described: Any) -> None:
    """Check that the size in a checkpoint's metadata is possible, before memory is allocated for it.

    Raises:
      Damaged: its arrays would be far larger than its files, or its config has more layers than any array has rows.
    """
    arrays = jax.tree.leaves(described)
    claimed = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in arrays)
    there = sum(file.stat().st_size for file in (folder / "state").rglob("*") if file.is_file())
    if claimed > max(MOST_SHRUNK * there, 1 << 30):
        raise Damaged(f"its metadata tells of arrays with {claimed:,} bytes, but its files have {there:,}")
    longest = max((size for leaf in arrays for size in leaf.shape), default=0)
    for group in (*config.model.encoder, *config.model.decoder):
        layers = group.get("layers", 0) if isinstance(group, Mapping) else 0
        if not isinstance(layers, int) or layers > max(longest, len(arrays)):
            raise Damaged(f"its config asks for {layers!r} layers, which its arrays cannot be of")


def _pack(vocabulary: Vocabulary) -> dict[str, str]:
    return {name: base64.b64encode(content).decode() for name, content in sorted(vocabulary.files().items())}


def _unpack(files: Mapping[str, str], place: Path) -> Vocabulary:
    return read_vocabulary(lambda name: base64.b64decode(files[name], validate=True), place)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)
