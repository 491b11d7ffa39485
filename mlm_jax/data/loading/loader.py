"""The loader: the batch of a step as a pure function of (config, seed, step, process); numpy and TensorStore only."""

from __future__ import annotations

import bisect
import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError
from mlm_jax.config.sources import SEPARATOR, named_sources
from mlm_jax.config.values import several
from mlm_jax.data.loading import curriculum
from mlm_jax.data.loading.batch import Batch, Rows, TaskBatch
from mlm_jax.data.loading.curriculum import Phase
from mlm_jax.data.loading.order import Order, Slices
from mlm_jax.data.loading.rows import read_documents, read_packed, whole_documents
from mlm_jax.data.store.manifest import FEATURES, TOKENS, WITH_LABELS
from mlm_jax.data.store.ragged import Ragged
from mlm_jax.data.store.store import Split, Store, Stream

log = logging.getLogger(__name__)

DIRECTIONS = ("both", "forward")


@dataclass(frozen=True)
class _Task:
    name: str
    kind: str  # kind of streams that it reads
    rows: int  # per step, over all hosts
    length: int  # tokens a row, unless the curriculum changes it
    packed: bool  # rows are slices of text, not one document each
    alternate: np.ndarray  # [streams] bool: a pair that is read in both directions
    streams: tuple[Stream, ...]
    splits: tuple[Split, ...]
    languages: np.ndarray  # [streams, 1 or 2] index of the run's languages
    order: Order

    def features(self, feature: str) -> list[Ragged]:
        return [split[feature] for split in self.splits]


class Loader:
    """Batches from a token store.

    A task's entry in ``config.tasks`` says which streams it reads (``data``: names, () is all of the task's kind), how
    many ``rows`` a step has over all processes and how many tokens (``length``) a row.

    - Rows of ``text`` are slices of packed documents, of one language each; ``"packed": False``: one document a row.
    - Rows of ``pairs`` and of text with labels are one example each, padded, or cut to ``length`` (the last token stays; of
      two texts with one label, the longer one is cut).
    - Pairs "de-en" are read in both directions in turn: an example that is read de to en in one epoch is read en to de in
      the next, and each epoch reads half of its examples in each direction. With ``"directions": "forward"`` they are read
      as they are named. Pairs within one language are always read forward.
    - ``"same_language_rows": n``: rows come in runs of n consecutive rows of one stream, and every other run of a pair is
      read in the other direction.

    Args:
      store: an open token store.
      config: the whole config.
      kinds: {task: kind of stream that its objective reads}.
      split: of the streams.
      process_index: which part of a step's rows to read (:func:`mlm_jax.parallel.batches.row_group`).
      process_count: parts; each is a contiguous block of rows, and nothing else is read.

    Attributes:
      languages: codes; ``Rows.language`` is an index into them.
      phases: of the curriculum.

    Raises:
      UserError: a task's entry has impossible values, or names streams that the store does not have.
    """

    def __init__(
        self,
        store: Store,
        config: ConfigDict,
        kinds: Mapping[str, str],
        split: str = "train",
        process_index: int = 0,
        process_count: int = 1,
    ):
        if config.languages and tuple(config.languages) != store.languages:
            raise UserError(
                f"the token store has the languages {store.languages}, but the config has {tuple(config.languages)}",
                file=store.folder,
                remedy="run mlm-jax prepare again, or name another data.store",
            )
        self.store, self.config, self.languages = store, config, store.languages
        self.process_index, self.process_count = process_index, process_count
        self._pad_id: int = store.manifest["vocabulary"]["pad_id"]
        self._eos_id: int = store.manifest["vocabulary"]["eos_id"]
        self._settings = {
            one.stream: one.settings for key in ("corpora", "parallel") for one in named_sources(config.data[key])
        }
        pairs = ["-".join(stream.languages) for stream in store.streams.values() if stream.kind == "pairs"]
        self.phases = curriculum.resolve(config, self.languages, pairs)
        self._tasks = {name: self._task(name, dict(entry), kinds[name], split) for name, entry in config.tasks.items()}

    # -------------------------------------------------------------------------------------------- batches

    def batch(self, step: int) -> Batch:
        """Return this process's rows of every task in a step.

        Returns:
          {task: {"inputs": Rows}}, with "targets" for pairs, and with "labels" for labelled text: ``[rows]``,
          ``[rows, length]`` if each token has one, or ``[rows, classes]``; -1 is ignored.

        Raises:
          UserError: the store is corrupt.
        """
        phase = curriculum.at(self.phases, step)
        batch = {}
        for name, task in self._tasks.items():
            plan = task.order.plan(step, *self._block(phase.rows(name, task.kind, task.rows)))
            length = phase.length(name, task.kind, task.length)
            if task.packed:
                batch[name] = self._packed(task, plan.stream, task.order.slices(plan), length)
            else:
                turn = plan.start + plan.epoch if task.order.run_length == 1 else plan.run
                reverse = (turn % 2 == 1) & task.alternate[plan.stream]
                batch[name] = self._documents(task, plan.stream, plan.start, reverse, length)
        return batch

    def iterate(
        self,
        start_step: int,
        stop_step: int | None = None,
        prefetch: int = 2,
        place: Callable[[Batch], Any] = lambda batch: batch,
    ) -> Iterator[tuple[int, Any]]:
        """Yield (step, batch) from ``start_step`` to the end of the run, read ahead by a thread.

        Args:
          start_step: first step.
          stop_step: one past the last; None: ``config.steps``.
          prefetch: the most batches that are read ahead.
          place: called on each batch by the thread, for example to send it to the devices.

        Raises:
          Exception: the reading thread's exception, at the step at which it occurred.
        """
        ready: queue.Queue[tuple[int, Any] | BaseException] = queue.Queue(prefetch)
        ended = threading.Event()
        steps = range(start_step, self.config.steps if stop_step is None else stop_step)

        def put(item: tuple[int, Any] | BaseException) -> None:
            while not ended.is_set():
                try:
                    return ready.put(item, timeout=0.1)
                except queue.Full:
                    continue

        def read() -> None:
            try:
                for step in steps:
                    put((step, place(self.batch(step))))
                    if ended.is_set():
                        return
            except BaseException as error:  # the consumer raises it
                put(error)

        reader = threading.Thread(target=read, name="loader", daemon=True)
        reader.start()
        try:
            for _ in steps:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            ended.set()
            reader.join()

    def validation(
        self, task: str, stream: str, rows: int, limit: int | None = None, reverse: bool = False
    ) -> Iterator[TaskBatch]:
        """Yield a stream's validation examples once, in stored order, in a task's shape.

        Args:
          task: gives length and packing.
          stream: name.
          rows: of a batch, over all processes; the last batch is filled up with empty rows (segment ids 0, labels -1).
          limit: most rows in all.
          reverse: whether a pair's second language is the input.

        Raises:
          UserError: the stream has no validation split, is of another kind, or the store is corrupt.
        """
        shape = self._tasks[task]
        found = self.store.stream(stream)
        if found.kind != shape.kind:
            raise UserError(f"task {task!r} reads {shape.kind}, but stream {stream!r} is of kind {found.kind}")
        split = found.split("validation")
        held_out = replace(shape, streams=(found,), splits=(split,), languages=self._indices((found,)))
        units = shape.length if shape.packed else 1
        size = split.values("inputs") if shape.packed else split.documents
        total = -(-size // units)
        total = total if limit is None else min(total, limit)
        for first in range(0, total, rows):
            start_row, stop_row = (first + row for row in self._block(rows))
            place = np.arange(start_row, max(start_row, min(stop_row, total))) * units
            nothing = np.zeros_like(place)  # stream 0, epoch 0, column 0
            if shape.packed:
                slices = Slices(np.arange(len(place)), nothing, nothing, place, np.minimum(place + units, size))
                batch = self._packed(held_out, nothing, slices, shape.length)
            else:
                batch = self._documents(held_out, nothing, place, np.full(len(place), reverse), shape.length)
            yield _fill_up(batch, stop_row - start_row, self._pad_id)

    # -------------------------------------------------------------------------------------------- what was planned

    def streams(self, task: str) -> tuple[Stream, ...]:
        """Return the streams that a task reads."""
        return self._tasks[task].streams

    def labels(self) -> dict[str, tuple[str, ...]]:
        """Return {task: names of its classes} of the tasks that read labelled text."""
        return {name: task.streams[0].labels for name, task in self._tasks.items() if task.kind in WITH_LABELS}

    def rows(self, task: str, step: int) -> int:
        """Return the rows of a task in a step, over all hosts."""
        shape = self._tasks[task]
        return curriculum.at(self.phases, step).rows(task, shape.kind, shape.rows)

    def planned_shares(self, task: str, step: int) -> dict[str, float]:
        """Return {language: planned share of the task's rows} at a step; a pair counts half for each side."""
        return self._by_language(self._tasks[task], self._tasks[task].order.shares(step))

    def realised_shares(self, task: str, start_step: int, stop_step: int) -> dict[str, float]:
        """Return {language: share of the task's rows} in steps ``start_step`` … ``stop_step - 1``, over all hosts."""
        order = self._tasks[task].order
        rows = order.rows_taken(stop_step) - order.rows_taken(start_step)
        return self._by_language(self._tasks[task], rows / max(rows.sum(), 1))

    def epochs(self, task: str, step: int) -> dict[str, float]:
        """Return {stream: epochs of it that the task has read} in the steps before ``step``."""
        order = self._tasks[task].order
        passes = order.units_taken(step) / order.sizes
        return {stream.name: float(each) for stream, each in zip(self._tasks[task].streams, passes)}

    def tokens_seen(self, step: int) -> dict[str, int]:
        """Return {language: tokens} of all tasks in the steps before ``step``, over all hosts, without padding.

        For packed text the number is exact. For rows of one example each it is the expectation: the number of rows times the
        mean length of an example, cut to the length of a row.
        """
        seen = np.zeros(len(self.languages))
        for task in self._tasks.values():
            for side, tokens in enumerate(self._tokens(task, step)):
                np.add.at(seen, task.languages[:, side], tokens)
        return {language: round(tokens) for language, tokens in zip(self.languages, seen.tolist())}

    def _tokens(self, task: _Task, step: int) -> list[np.ndarray]:
        """Return the tokens of each stream that a task has read in the steps before ``step``, of each side: ``[streams]``."""
        if task.packed:
            return [task.order.units_taken(step)]
        sides = []
        for feature in _token_features(task.kind):
            seen = np.zeros(len(task.streams))
            for phase in self.phases:
                last = phase is self.phases[-1]
                stop = step if last else min(step, phase.stop_step)
                if stop <= phase.start_step:
                    break
                examples = task.order.units_taken(stop) - task.order.units_taken(phase.start_step)  # [streams]
                length = phase.length(task.name, task.kind, task.length)
                seen += examples * np.array([ragged.mean_length(length) for ragged in task.features(feature)])
            sides.append(seen)
        return sides

    # -------------------------------------------------------------------------------------------- sources of a language

    def sources(self) -> tuple[Stream, ...]:
        """Return the streams that tasks read and that are one of several sources of their language or pair, sorted by name."""
        found = {stream.name: stream for task in self._tasks.values() for stream in task.streams if stream.source}
        return tuple(found.values())

    def planned_by_source(self, task: str, step: int) -> dict[str, float]:
        """Return {source: planned share of the task's rows} at a step, for streams such as ``de:wiki``."""
        return _by_source(self._tasks[task], self._tasks[task].order.shares(step))

    def realised_by_source(self, task: str, start_step: int, stop_step: int) -> dict[str, float]:
        """Return {source: share of the task's rows} in steps ``start_step`` … ``stop_step - 1``, over all hosts."""
        order = self._tasks[task].order
        rows = order.rows_taken(stop_step) - order.rows_taken(start_step)
        return _by_source(self._tasks[task], rows / max(rows.sum(), 1))

    def tokens_by_source(self, step: int) -> dict[str, int]:
        """Return {source: tokens} of all tasks in the steps before ``step``, as :meth:`tokens_seen` counts them."""
        seen: Counter[str] = Counter()
        for task in self._tasks.values():
            tokens = np.sum(self._tokens(task, step), axis=0)
            for stream, read in zip(task.streams, tokens.tolist()):
                seen[stream.name] += round(read)
        return {source.name: seen[source.name] for source in self.sources()}

    def _by_language(self, task: _Task, shares: np.ndarray) -> dict[str, float]:
        summed = np.zeros(len(self.languages))
        for side in range(task.languages.shape[1]):
            np.add.at(summed, task.languages[:, side], shares / task.languages.shape[1])
        return {self.languages[index]: float(summed[index]) for index in np.unique(task.languages)}

    # -------------------------------------------------------------------------------------------- reading

    def _packed(self, task: _Task, stream: np.ndarray, slices: Slices, length: int) -> TaskBatch:
        language = task.languages[stream, 0]
        return {"inputs": read_packed(task.features("inputs"), slices, language, length, self._pad_id)}

    def _documents(
        self, task: _Task, stream: np.ndarray, document: np.ndarray, reverse: np.ndarray, length: int
    ) -> TaskBatch:
        sides = []
        for side, feature in enumerate(_token_features(task.kind)):
            joined = task.kind in WITH_LABELS and task.kind != "questions"  # its labels are cut with its text
            separator = self._eos_id if joined else None  # premise </s> hypothesis </s>
            values, counts = read_documents(task.features(feature), stream, document, length, self._pad_id, separator)
            sides.append(whole_documents(values, counts, task.languages[stream, side]))
        if task.kind == "pairs":
            return {"inputs": _choose(reverse, sides[1], sides[0]), "targets": _choose(reverse, sides[0], sides[1])}
        if task.kind == "text":
            return {"inputs": sides[0]}
        features = task.features("labels")
        several = features[0].per_token or task.kind == "multilabelled"
        each = length if features[0].per_token else len(task.streams[0].labels) if several else 1
        labels, _ = read_documents(features, stream, document, each, -1)
        return {"inputs": sides[0], "labels": labels if several else labels[:, 0]}

    # -------------------------------------------------------------------------------------------- set-up

    def _task(self, name: str, entry: dict, kind: str, split: str) -> _Task:
        """Return a task with its streams and the order of its rows in every phase."""
        where = f"task {name!r}"
        rows, length, run = entry["rows"], entry["length"], entry.get("same_language_rows", 1)
        for count in (rows, *(phase.rows(name, kind, rows) for phase in self.phases)):
            if count % (self.process_count * run) == 0:
                continue
            runs = f" in runs of {run} rows of the same language" if run > 1 else ""
            raise UserError(
                f"{where}: rows is {count!r}, which cannot be divided among {self.process_count} hosts{runs}",
                remedy=f"choose a multiple of {self.process_count * run}",
            )
        packed, directions = entry.get("packed", kind == "text"), entry.get("directions", "both")
        if packed not in (True, False) or (packed and kind != "text"):
            raise UserError(f"{where}: packed is {packed!r}; only tasks that read text may be packed")
        if directions not in DIRECTIONS:
            raise UserError(f"{where}: directions is {directions!r}, not one of {DIRECTIONS}")
        streams = self._streams(where, entry.get("data", ()), kind, split)
        splits = tuple(stream.split(split) for stream in streams)
        sizes = [
            _size(part, packed, kind, self._settings.get(stream.name, {}).get("tokens") if split == "train" else None)
            for stream, part in zip(streams, splits)
        ]
        order = Order([stream.name for stream in streams], sizes, rows, f"{self.config.seed}/{split}/{name}", run)
        both = kind == "pairs" and directions == "both"
        # A pair within one language, such as question and answer, has a direction.
        alternate = np.array([both and len({*stream.languages}) == 2 for stream in streams])
        task = _Task(name, kind, rows, length, packed, alternate, streams, splits, self._indices(streams), order)
        for phase in self.phases:
            units = phase.length(name, kind, length) if packed else 1
            count = phase.rows(name, kind, rows)
            order.begin(phase.start_step, units, _weights(task, phase, count * units, self._settings), count)
        self._check(task)
        return task

    def _streams(self, where: str, names: str | tuple[str, ...], kind: str, split: str) -> tuple[Stream, ...]:
        """Return the streams of these names, or all streams of the kind that have examples in the split."""
        named = tuple(stream for name in several(names) for stream in self._called(name))
        for name in named:
            stream = self.store.stream(name)
            if stream.kind != kind or not stream.split(split).documents:
                raise UserError(
                    f"{where} reads {kind}, but stream {name!r} is of kind {stream.kind} or has no {split} examples"
                )
        fitting = (s for s in self.store.streams.values() if s.kind == kind and split in s.splits)
        streams = tuple(self.store.stream(name) for name in named) or tuple(
            stream for stream in fitting if stream.split(split).documents
        )
        if not streams:
            raise UserError(f"{where} reads {kind}, but the token store has none", file=self.store.folder)
        return streams

    def _check(self, task: _Task) -> None:
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

    def _called(self, name: str) -> tuple[str, ...]:
        """Return the stream of this name, or all sources of this language or pair."""
        sources = [s.name for s in self.store.streams.values() if s.source and s.name == f"{name}{SEPARATOR}{s.source}"]
        return (name,) if name in self.store.streams or not sources else tuple(sources)

    def _indices(self, streams: tuple[Stream, ...]) -> np.ndarray:
        return np.array([[self.languages.index(code) for code in stream.languages] for stream in streams], np.int32)

    def _block(self, rows: int) -> tuple[int, int]:
        """Return the (first, one past the last) of this process's rows among ``rows``."""
        return rows * self.process_index // self.process_count, rows * (self.process_index + 1) // self.process_count


def cuts(splits: Sequence[Split], length: int) -> str:
    """Return such as "3 of 40 texts, of up to 54 tokens, to 24" for the examples that are longer than a row; "" if none is."""
    features = [split[name] for split in splits for name in split.features if name in TOKENS]
    longest = max(feature.longest for feature in features)
    if longest <= length:
        return ""
    counts = np.array([feature.count_longer(length) for feature in features])
    longer, looked_at = counts.sum(axis=0).tolist()
    first = "the first " if looked_at < sum(map(len, features)) else ""
    return f"{longer:,} of {first}{looked_at:,} texts, of up to {longest:,} tokens, to {length:,}"


def _size(split: Split, packed: bool, kind: str, most_tokens: int | None) -> int:
    """Return the number of units of a split: tokens if rows are packed, else documents; if the config limits the tokens,
    only of the first ones.
    """
    if packed:
        return min(split.values("inputs"), most_tokens or split.values("inputs"))
    if most_tokens is None or split.tokens <= most_tokens:
        return split.documents
    offsets = [split[feature].offsets for feature in _token_features(kind)]

    def tokens(documents: int) -> int:
        return sum(int(found.read(documents, documents + 1)[0]) for found in offsets)

    return max(bisect.bisect_right(range(split.documents + 1), most_tokens, key=tokens) - 1, 1)


def _weights(task: _Task, phase: Phase, units_a_step: int, settings: Mapping[str, Mapping[str, float]]) -> np.ndarray:
    """Return the shares of a phase's rows that the streams get: ``[streams]``.

    The phase gives the shares of languages (or pairs). Streams of the same language share by the rates of the phase or the
    config, or else in proportion to their sizes. Text with ``epochs`` counts that many times.

    Args:
      task: that reads the streams.
      phase: of the run.
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
        of = f" of the sources {', '.join(phase.sources)}" if phase.sources else ""
        raise UserError(
            f"{phase.name}: task {task.name!r} has no data in {phase.languages}{of}",
            remedy="add one of its languages to the phase" + ", or one of its sources" * bool(phase.sources),
        )
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


def _by_source(task: _Task, shares: np.ndarray) -> dict[str, float]:
    return {stream.name: float(share) for stream, share in zip(task.streams, shares) if stream.source}


def _token_features(kind: str) -> tuple[str, ...]:
    return tuple(feature for feature in FEATURES[kind] if feature in TOKENS)


def _choose(which: np.ndarray, a: Rows, b: Rows) -> Rows:
    """Return rows of ``a`` where ``which`` is true, of ``b`` elsewhere."""
    return Rows(*(np.where(which.reshape((-1,) + (1,) * (x.ndim - 1)), x, y) for x, y in zip(a, b)))


def _fill_up(batch: TaskBatch, rows: int, pad_id: int) -> TaskBatch:
    """Return the batch padded with empty rows to ``rows`` rows."""
    missing = rows - len(batch["inputs"].language)

    def extend(array: np.ndarray, value: int) -> np.ndarray:
        return np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1), constant_values=value)

    filled: TaskBatch = {}
    for name, part in batch.items():
        if name == "labels":
            filled[name] = extend(part, -1)
        else:
            values = (pad_id, 0, 0, 0)  # tokens, segment ids, positions, language
            filled[name] = Rows(*(extend(array, value) for array, value in zip(part, values)))
    return filled
