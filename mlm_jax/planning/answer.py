"""The answer of a plan: whether the step fits, speed, hours, tokens and epochs of each language, and what to change."""

from __future__ import annotations

import dataclasses
import math
import statistics
from pathlib import Path

import jax
from ml_collections import ConfigDict

from mlm_jax.common.addresses import is_local
from mlm_jax.common.errors import UserError
from mlm_jax.data.loading import curriculum
from mlm_jax.data.loading.loader import Loader
from mlm_jax.data.store.store import Store
from mlm_jax.objectives import kinds
from mlm_jax.planning.advice import changes, lines
from mlm_jax.planning.estimate import Estimate, Estimator, fits
from mlm_jax.planning.plan import Plan
from mlm_jax.planning.search import best, settings, warning
from mlm_jax.training.cost import batch_shapes, phase_flops, tokens_of

# Bytes/s that a host writes of a checkpoint: a local NVMe disk, or its share of a bucket. An assumption.
WRITE_RATE = 1e9
SHOWN = 8  # languages whose epochs are listed one by one
WORTH = 0.1  # how much faster another layout must be, by formula, to be named


@dataclasses.dataclass(frozen=True)
class Read:
    """The tokens of a language that a run reads, and its passes through the language's training text."""

    tokens: int
    epochs: float


@dataclasses.dataclass(frozen=True)
class Answer:
    """The end of a plan.

    Attributes:
      fits: whether the step fits.
      by: "compiler" | "formula", the source of the memory.
      peak, capacity: bytes on each device; the capacity is 0 if it is not known.
      expected, most: expected and largest possible tokens/s over all devices; None if the chip has no peak, or the step does not
        fit.
      steps, tokens: numbers of the whole run, including padding.
      hours, chip_hours: expected time of the steps alone.
      reads: {language: tokens and passes of its training text}; {} without a token store.
      reads_unknown: the reason, if ``reads`` is empty.
      checkpoint: bytes of one checkpoint.
      checkpoint_seconds: seconds to write a checkpoint at :data:`WRITE_RATE` for each host, while training continues.
      changes: settings with which the step fits, if it does not; otherwise settings that make it faster.
    """

    fits: bool
    by: str
    peak: float
    capacity: float
    expected: float | None
    most: float | None
    steps: int
    tokens: int
    hours: float | None
    chip_hours: float | None
    reads: dict[str, Read]
    reads_unknown: str
    checkpoint: float
    checkpoint_seconds: float
    changes: list[str]

    def lines(self) -> list[str]:
        """Return the answer in sentences."""
        room = (
            f"{self.peak / 1e9:,.3f} of {self.capacity / 1e9:,.3f} GB"
            if self.capacity
            else f"{self.peak / 1e9:,.3f} GB"
        )
        lines = [f"{'fits' if self.fits else 'does NOT fit'}: {room} on each device, by the {self.by}"]
        if self.expected is not None and self.hours is not None:
            lines.append(f"speed: {self.expected:,.0f} tokens/s expected, {self.most:,.0f} at most")
            lines.append(
                f"{self.steps:,} steps, {_large(self.tokens)} tokens: {_time(self.hours * 3600)} and "
                f"{_short(self.chip_hours or 0)} chip-hours expected, without evaluation and compilation"
            )
        else:
            lines.append(f"{self.steps:,} steps, {_large(self.tokens)} tokens")
        lines.append(f"tokens (epochs) read: {_reads(self.reads) or self.reads_unknown}")
        lines.append(
            f"checkpoint: {_size(self.checkpoint)}, written in {_time(self.checkpoint_seconds)} at "
            f"{WRITE_RATE / 1e9:g} GB/s a host, while training goes on"
        )
        lines += [f"change: {change}" for change in self.changes] or ["change: nothing"]
        return lines


def answer(estimator: Estimator, layout: Plan | Estimate) -> Answer:
    """Return the answer of a plan or an estimate.

    Args:
      estimator: the estimator of the config and the topology.
      layout: the plan or estimate of a layout of the step.
    """
    config, topology, program = estimator.config, estimator.topology, estimator.program
    compiled = isinstance(layout, Plan) and not (layout.simulated and topology.chip.platform == "gpu")
    peak = layout.memory.peak if isinstance(layout, Plan) else layout.peak
    fitting = layout.memory.fits if isinstance(layout, Plan) else fits(layout, topology)
    bounds = layout.roofline if fitting else None
    phases = curriculum.resolve(config, program.languages, tuple(config.data.parallel))
    costs = [phase_flops(program, phase, topology.chip.platform).model for phase in phases]
    counts = [phase.stop_step - phase.start_step for phase in phases]
    sizes = [tokens_of(batch_shapes(program, phase)) for phase in phases]
    hours = None
    # Bounds of the phase with the most FLOPs; the times of other phases are in proportion to their FLOPs.
    if bounds is not None:
        equal = sum(count * cost / max(costs) for count, cost in zip(counts, costs, strict=True))
        hours = equal * bounds.expected_seconds / 3600
    reads, unknown = reads_of(config)
    state = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(program.state))
    return Answer(
        fitting,
        "compiler" if compiled else "formula",
        peak,
        topology.capacity,
        bounds.expected_tokens_per_second if bounds else None,
        bounds.tokens_per_second if bounds else None,
        config.steps,
        sum(count * size for count, size in zip(counts, sizes, strict=True)),
        hours,
        hours * topology.chips if hours is not None else None,
        reads,
        unknown,
        state,
        state / WRITE_RATE / topology.hosts,
        _changes(estimator, layout, fitting),
    )


def _changes(estimator: Estimator, layout: Plan | Estimate, fitting: bool) -> list[str]:
    """Return changes with which the step fits, or is faster."""
    config, topology = estimator.config, estimator.topology
    if not fitting:
        temporaries = layout.memory.temporaries if isinstance(layout, Plan) else None
        return [lines(changes(config, topology, layout.mesh, temporaries=temporaries))]
    found = [text] if (text := warning(layout.mesh, topology)) else []
    now, other = estimator(layout.mesh, layout.remat, layout.microbatches), best(estimator)
    if other is not None and now.roofline is not None and other.roofline is not None:
        gain = now.roofline.expected_seconds / other.roofline.expected_seconds - 1
        if gain >= WORTH:
            found.append(f"{settings(other, topology)} should be {gain:.0%} faster by formula")
    return found


def reads_of(config: ConfigDict) -> tuple[dict[str, Read], str]:
    """Return ({language: tokens and passes of its training text}, ""), or ({}, the reason why they are not known)."""
    folder = config.data.store
    if not folder or (is_local(folder) and not Path(folder).exists()):
        where = f"there is nothing at data.store={folder}" if folder else "data.store names no token store"
        return {}, f"not known, for {where}. Remedy: mlm-jax prepare, then --set data.store=FOLDER"
    try:
        loader = Loader(Store.open(folder), config, kinds(config.tasks))
    except UserError as error:
        return {}, f"not known: {error}"
    seen = loader.tokens_seen(config.steps)
    held = dict.fromkeys(loader.languages, 0)
    read = {stream.name for task in config.tasks for stream in loader.streams(task)}
    for name in read:
        stream = loader.store.streams[name]
        split = stream.splits["train"]
        for language, feature in zip(stream.languages, ("inputs", "targets")):
            held[language] += split.values(feature) if feature in split.features else 0
    return {
        language: Read(int(seen[language]), seen[language] / held[language])
        for language in loader.languages
        if held[language]
    }, ""


def _reads(reads: dict[str, Read]) -> str:
    if len(reads) <= SHOWN:
        return ", ".join(f"{language} {_large(read.tokens)} ({read.epochs:,.2f})" for language, read in reads.items())
    epochs = {language: read.epochs for language, read in reads.items()}
    least, most = min(epochs, key=epochs.__getitem__), max(epochs, key=epochs.__getitem__)
    few, many = min(reads, key=lambda one: reads[one].tokens), max(reads, key=lambda one: reads[one].tokens)
    return (
        f"{_large(reads[few].tokens)} ({few}) to {_large(reads[many].tokens)} ({many}); epochs {epochs[least]:,.2f} ({least}) to "
        f"{epochs[most]:,.2f} ({most}), median {statistics.median(epochs.values()):,.2f}, of {len(epochs)} languages"
    )


def _large(count: float) -> str:
    for size, name in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if count >= size:
            return f"{count / size:,.1f} {name}"
    return f"{count:,.0f}"


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _short(number: float) -> str:
    """Return a number with one decimal, or with two digits if it is below 1."""
    return f"{number:,.1f}" if number >= 1 else f"{number:.2g}"


def _time(seconds: float) -> str:
    for size, name in ((3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:,.1f} {name}"
    return f"{_short(seconds)} seconds"
