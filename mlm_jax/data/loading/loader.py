"""The loader: the batch of a step as a pure function of (config, seed, step, process); numpy and TensorStore only."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError
from mlm_jax.data.loading import curriculum
from mlm_jax.data.loading.batch import Batch, Rows, TaskBatch
from mlm_jax.data.loading.order import Slices
from mlm_jax.data.loading.rows import read_documents, read_packed, whole_documents
from mlm_jax.data.loading.task import Task, language_indices, open_task, token_features
from mlm_jax.data.store.manifest import WITH_LABELS
from mlm_jax.data.store.store import Store, Stream


class Loader:
    """Batches from a token store.

    A task's entry in ``config.tasks`` gives the streams that it reads (``data``: names; (): all of the task's kind), the number of
    ``rows`` of a step over all processes, and the number of tokens of a row (``length``).

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
      split: the split of the streams.
      process_index: which part of a step's rows to read (:func:`mlm_jax.parallel.batches.row_group`).
      process_count: parts; each is a contiguous block of rows, and nothing else is read.

    Attributes:
      languages: codes; ``Rows.language`` is an index into them.
      phases: the phases of the curriculum.

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
        pairs = ["-".join(stream.languages) for stream in store.streams.values() if stream.kind == "pairs"]
        self.phases = curriculum.resolve(config, self.languages, pairs)
        self._tasks = {
            name: open_task(store, config, self.phases, name, kinds[name], split, process_count)
            for name in config.tasks
        }

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
                batch[name] = self._documents(task, plan.stream, task.order.documents(plan), reverse, length)
        return batch

    def iterate(
        self,
        start_step: int,
        stop_step: int | None = None,
        prefetch: int = 2,
        send: Callable[[Batch], Any] = lambda batch: batch,
    ) -> Iterator[tuple[int, Any]]:
        """Yield (step, batch) from ``start_step`` to the end of the run, read ahead by a thread.

        Args:
          start_step: first step.
          stop_step: one past the last; None: ``config.steps``.
          prefetch: the most batches that are read ahead.
          send: called on each batch by the thread, for example to send it to the devices.

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
                    put((step, send(self.batch(step))))
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
          rows: number of rows of a batch, over all processes; the last batch is padded with empty rows (segment ids 0, labels -1).
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
        held_out = replace(shape, streams=(found,), splits=(split,), languages=language_indices(self.store, (found,)))
        units = shape.length if shape.packed else 1
        size = split.values("inputs") if shape.packed else split.documents
        total = -(-size // units)
        total = total if limit is None else min(total, limit)
        for first in range(0, total, rows):
            start_row, stop_row = (first + row for row in self._block(rows))
            begins = np.arange(start_row, max(start_row, min(stop_row, total))) * units
            nothing = np.zeros_like(begins)  # stream 0, epoch 0, column 0
            if shape.packed:
                slices = Slices(np.arange(len(begins)), nothing, nothing, begins, np.minimum(begins + units, size))
                batch = self._packed(held_out, nothing, slices, shape.length)
            else:
                batch = self._documents(held_out, nothing, begins, np.full(len(begins), reverse), shape.length)
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

    def _tokens(self, task: Task, step: int) -> list[np.ndarray]:
        """Return the tokens of each stream that a task has read in the steps before ``step``, of each side: ``[streams]``."""
        if task.packed:
            return [task.order.units_taken(step)]
        sides = []
        for feature in token_features(task.kind):
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

    def _by_language(self, task: Task, shares: np.ndarray) -> dict[str, float]:
        summed = np.zeros(len(self.languages))
        for side in range(task.languages.shape[1]):
            np.add.at(summed, task.languages[:, side], shares / task.languages.shape[1])
        return {self.languages[index]: float(summed[index]) for index in np.unique(task.languages)}

    # -------------------------------------------------------------------------------------------- reading

    def _packed(self, task: Task, stream: np.ndarray, slices: Slices, length: int) -> TaskBatch:
        language = task.languages[stream, 0]
        return {"inputs": read_packed(task.features("inputs"), slices, language, length, self._pad_id)}

    def _documents(
        self, task: Task, stream: np.ndarray, document: np.ndarray, reverse: np.ndarray, length: int
    ) -> TaskBatch:
        sides = []
        for side, feature in enumerate(token_features(task.kind)):
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

    def _block(self, rows: int) -> tuple[int, int]:
        """Return the (first, one past the last) of this process's rows among ``rows``."""
        return rows * self.process_index // self.process_count, rows * (self.process_index + 1) // self.process_count


def _by_source(task: Task, shares: np.ndarray) -> dict[str, float]:
    return {stream.name: float(share) for stream, share in zip(task.streams, shares) if stream.source}


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
