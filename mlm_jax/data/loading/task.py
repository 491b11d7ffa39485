"""The data of a task: its streams, the order of its rows in every phase, and the share of rows of each stream."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError
from mlm_jax.config.sources import SEPARATOR, named_sources
from mlm_jax.config.values import several
from mlm_jax.data.loading.curriculum import Phase
from mlm_jax.data.loading.order import Order
from mlm_jax.data.store.manifest import FEATURES, TOKENS
from mlm_jax.data.store.ragged import Ragged
from mlm_jax.data.store.store import Split, Store, Stream

log = logging.getLogger(__name__)

DIRECTIONS = ("both", "forward")


@dataclass(frozen=True)
class Task:
    """The data of a task.

    Attributes:
      name: key of the task in ``config.tasks``.
      kind: kind of streams that it reads.
      rows: rows a step, over all hosts, unless the curriculum changes them.
      length: tokens a row, unless the curriculum changes it.
      packed: whether rows are slices of text; else each row is one document.
      alternate: ``[streams]`` bool: whether a stream holds pairs that are read in both directions.
      streams: streams that it reads.
      splits: the split of each stream that is read.
      languages: ``[streams, 1]``, or ``[streams, 2]`` for pairs: indices of the run's languages.
      order: the order of its rows.
    """

    name: str
    kind: str
    rows: int
    length: int
    packed: bool
    alternate: np.ndarray
    streams: tuple[Stream, ...]
    splits: tuple[Split, ...]
    languages: np.ndarray
    order: Order

    def features(self, feature: str) -> list[Ragged]:
        """Return a feature of every stream."""
        return [split[feature] for split in self.splits]


def open_task(
    store: Store, config: ConfigDict, phases: Sequence[Phase], name: str, kind: str, split: str, process_count: int
) -> Task:
    """Return a task with its streams and the order of its rows in every phase.

    Args:
      store: an open token store.
      config: the whole config.
      phases: the phases of the curriculum.
      name: the name of the task in ``config.tasks``.
      kind: kind of stream that its objective reads.
      split: the split of the streams.
      process_count: number of processes that share the rows of a step.

    Raises:
      UserError: its entry has impossible values, or names streams that the store does not have.
    """
    where, entry = f"task {name!r}", config.tasks[name]
    settings = {one.stream: one.settings for key in ("corpora", "parallel") for one in named_sources(config.data[key])}
    rows, length, run = entry["rows"], entry["length"], entry.get("same_language_rows", 1)
    for count in (rows, *(phase.rows(name, kind, rows) for phase in phases)):
        if count % (process_count * run) == 0:
            continue
        runs = f" in runs of {run} rows of the same language" if run > 1 else ""
        raise UserError(
            f"{where}: rows is {count!r}, which cannot be divided among {process_count} hosts{runs}",
            remedy=f"choose a multiple of {process_count * run}",
        )
    packed, directions = entry.get("packed", kind == "text"), entry.get("directions", "both")
    if packed not in (True, False) or (packed and kind != "text"):
        raise UserError(f"{where}: packed is {packed!r}; only tasks that read text may be packed")
    if directions not in DIRECTIONS:
        raise UserError(f"{where}: directions is {directions!r}, not one of {DIRECTIONS}")
    streams = _streams(store, where, entry.get("data", ()), kind, split)
    splits = tuple(stream.split(split) for stream in streams)
    limits = [settings.get(stream.name, {}).get("tokens") if split == "train" else None for stream in streams]
    sizes, stored = (
        [_size(part, packed, most) for part, most in zip(splits, most_tokens)]
        for most_tokens in (limits, [None] * len(streams))
    )
    order = Order([stream.name for stream in streams], sizes, rows, f"{config.seed}/{split}/{name}", run, stored)
    both = kind == "pairs" and directions == "both"
    # A pair within one language, such as question and answer, has a direction.
    alternate = np.array([both and len({*stream.languages}) == 2 for stream in streams])
    task = Task(name, kind, rows, length, packed, alternate, streams, splits, language_indices(store, streams), order)
    for phase in phases:
        units = phase.length(name, kind, length) if packed else 1
        count = phase.rows(name, kind, rows)
        order.begin(phase.start_step, units, _weights(task, phase, count * units, settings), count)
    _check(task)
    return task


def language_indices(store: Store, streams: Sequence[Stream]) -> np.ndarray:
    """Return the indices of the streams' languages: ``[streams, 1]``, or ``[streams, 2]`` for pairs."""
    return np.array([[store.languages.index(code) for code in stream.languages] for stream in streams], np.int32)


def token_features(kind: str) -> tuple[str, ...]:
    """Return the features of a kind of stream that hold tokens."""
    return tuple(feature for feature in FEATURES[kind] if feature in TOKENS)


def cuts(splits: Sequence[Split], length: int) -> str:
    """Describe the examples that are longer than a row, such as "3 of 40 texts, of up to 54 tokens, to 24"; "" if none is."""
    features = [split[name] for split in splits for name in split.features if name in TOKENS]
    longest = max(feature.longest for feature in features)
    if longest <= length:
        return ""
    counts = np.array([feature.count_longer(length) for feature in features])
    longer, looked_at = counts.sum(axis=0).tolist()
    first = "the first " if looked_at < sum(map(len, features)) else ""
    return f"{longer:,} of {first}{looked_at:,} texts, of up to {longest:,} tokens, to {length:,}"


def _streams(store: Store, where: str, names: str | tuple[str, ...], kind: str, split: str) -> tuple[Stream, ...]:
    """Return the streams of these names, or all streams of the kind that have examples in the split."""
    named = tuple(stream for name in several(names) for stream in _called(store, name))
    for name in named:
        stream = store.stream(name)
        if stream.kind != kind or not stream.split(split).documents:
            raise UserError(
                f"{where} reads {kind}, but stream {name!r} is of kind {stream.kind} or has no {split} examples"
            )
    fitting = (s for s in store.streams.values() if s.kind == kind and split in s.splits)
    streams = tuple(store.stream(name) for name in named) or tuple(
        stream for stream in fitting if stream.split(split).documents
    )
    if not streams:
        raise UserError(f"{where} reads {kind}, but the token store has none", file=store.folder)
    return streams


def _called(store: Store, name: str) -> tuple[str, ...]:
    """Return the stream of this name, or all sources of this language or pair."""
    sources = [s.name for s in store.streams.values() if s.source and s.name == f"{name}{SEPARATOR}{s.source}"]
    return (name,) if name in store.streams or not sources else tuple(sources)


def _check(task: Task) -> None:
    """Open every array, so that an incomplete store fails now; warn if examples will be cut."""
    for feature in FEATURES[task.kind]:
        levels = {ragged.per_token for ragged in task.features(feature)}
        if len(levels) > 1:
            raise UserError(
                f"task {task.name!r} mixes labels of tokens with labels of whole documents",
                remedy=f"name the sets of one kind in tasks.{task.name}.data",
            )
    if len({stream.labels for stream in task.streams}) > 1:
        names = ", ".join(f"{stream.name}: {'/'.join(stream.labels)}" for stream in task.streams)
        raise UserError(
            f"task {task.name!r} mixes streams whose labels differ ({names})",
            remedy='list the same "labels" for all of them in config.data.labelled, or name the streams to read in '
            f"tasks.{task.name}.data",
        )
    if not task.packed and (cut := cuts(task.splits, task.length)):
        log.warning("task %s cuts %s", task.name, cut)


def _size(split: Split, packed: bool, most_tokens: int | None) -> int:
    """Return the number of units of a split: tokens if rows are packed, else documents.

    If the config limits the tokens of a source, this number of tokens counts, or the number of documents with as many tokens on
    average.
    """
    stored = split.values("inputs") if packed else split.documents
    if most_tokens is None or split.tokens <= most_tokens:
        return stored
    return most_tokens if packed else max(stored * most_tokens // split.tokens, 1)


def _weights(task: Task, phase: Phase, units_a_step: int, settings: Mapping[str, Mapping[str, float]]) -> np.ndarray:
    """Return the shares of a phase's rows that the streams get: ``[streams]``.

    The phase gives the shares of languages (or pairs). Streams of the same language share by the rates of the phase or the
    config, or else in proportion to their sizes. Text with ``epochs`` counts that many times.

    Args:
      task: the task that reads the streams.
      phase: the phase of the run.
      units_a_step: tokens or examples that the task takes in a step.
      settings: {stream: its settings in the config}.
    """
    repeats = [settings.get(stream.name, {}).get("epochs", 1) for stream in task.streams]
    sizes, used = task.order.sizes * np.array(repeats), task.order.units_taken(phase.start_step)
    keys = ["-".join(stream.languages) for stream in task.streams]
    rates = []
    for stream in task.streams:
        of_phase = phase.source_rate(stream.name, stream.source)
        rates.append(settings.get(stream.name, {}).get("rate") if of_phase is None else of_phase)
    chosen = [
        phase.reads(stream.name, stream.source, stream.languages) and rate != 0
        for stream, rate in zip(task.streams, rates)
    ]
    if not any(chosen):
        raise phase.nothing_to_read(task.name)
    if phase.strategy == "mixture":
        of_mixture = [stream.rate for stream in task.streams]
        if None in of_mixture:
            name = task.streams[of_mixture.index(None)].name
            raise UserError(f"mixing.strategy is 'mixture', but no mixture has a rate for stream {name!r}")
        return np.array(of_mixture, np.float64) * chosen
    total: dict[str, float] = {}
    taken: dict[str, float] = {}
    for key, size, use, included in zip(keys, sizes.tolist(), used.tolist(), chosen):
        if included:
            total[key], taken[key] = total.get(key, 0) + size, taken.get(key, 0) + use
    budget = (phase.stop_step - phase.start_step) * units_a_step
    shares = phase.shares(total, budget, taken)
    parts = [float(n) if rate is None else rate for n, rate in zip(sizes.tolist(), rates)]
    whole = dict.fromkeys(keys, 0.0)
    for key, part, included in zip(keys, parts, chosen):
        whole[key] += part if included else 0
    return np.array([shares[k] * n / whole[k] if c else 0.0 for k, n, c in zip(keys, parts, chosen)])
