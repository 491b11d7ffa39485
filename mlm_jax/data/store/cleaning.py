"""Cleaning: which training examples the steps of ``data.filters`` drop, and which the cap on a source drops.

Every file is judged once, before held-out text is searched for and the vocabulary is trained. A verdict is one byte for each
example, kept compressed. Later passes over the text, in any process and on any machine, only look verdicts up. So the result is
the same for shards, workers and Beam, and a slow filter is run only once.

Steps that drop copies compare the examples of one language (or pair) over all its sources, in the config's order: the first copy
stays. Keys of examples are written to temporary files and sorted a part at a time, so that memory is bounded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError
from mlm_jax.common.foreign_files import parse_json
from mlm_jax.common.processes import fresh_processes
from mlm_jax.data.store.filtering import Step, steps
from mlm_jax.data.store.filters.base import CopyFilter, joined
from mlm_jax.data.store.filters.exact_duplicates import ExactDuplicates
from mlm_jax.data.store.same_text import NOTHING, Fingerprints, of_hashes, whole_fingerprints
from mlm_jax.data.store.streams import Source
from mlm_jax.data.vocabulary.pieces import Vocabulary

DRAWN = "documents"  # the setting of a source that caps it, and the last step
PART = 1 << 24  # keys that are sorted at a time
BITS = 16  # of a hash that a histogram counts at a time
SAMPLES, SAMPLE_CHARACTERS = 20, 500  # of what a step drops of a stream


@dataclasses.dataclass(frozen=True)
class Cleaned:
    """What the filters and the caps of a run drop.

    Attributes:
      labels: labels of the steps. Verdict 0 means "kept", n > 0 means "dropped by step n".
      verdicts: {stream and file: a byte for each example, compressed}.
      hashes: {stream and file: a file with (number of the example, its hash)}, while held-out text is searched for.
    """

    labels: tuple[str, ...] = ()
    verdicts: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    hashes: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)

    def batches(self, source: Source, skipped: Counter[str], tally: Tally | None = None) -> Iterator[list[Any]]:
        """Yield the training examples of a source that are kept, in batches.

        Args:
          source: the source.
          skipped: as in :meth:`.Source.batches`.
          tally: counts what is dropped.

        Raises:
          UserError: as :meth:`.Source.batches`, or the text has changed since it was judged.
        """
        if not self.labels:
            yield from source.batches("train", skipped)
            return
        for _, _, batch, verdicts in self._judged(source, skipped):
            if tally is not None and verdicts.any():
                tally.drop(batch, verdicts)
            if kept := _kept(batch, verdicts):
                yield kept

    def fingerprinted(self, source: Source) -> Iterator[tuple[list[Any], Fingerprints]]:
        """Yield the training examples that are kept, in batches, with the hashes of their texts.

        Hashes that a step has computed already are not computed again.

        Raises:
          UserError: as :meth:`batches`.
        """
        name = ""
        if not any(_key(source, name) in self.hashes for name, _ in source.pieces()):
            for batch in self.batches(source, Counter()):
                texts = batch if source.kind == "text" else [side for pair in batch for side in pair]
                yield batch, whole_fingerprints(texts)
            return
        for key, first, batch, verdicts in self._judged(source, Counter()):
            if name != self.hashes[key]:
                name, known = self.hashes[key], _read(self.hashes[key])  # numbers of examples increase
            low, high = np.searchsorted(known[:, 0], np.array([first, first + len(batch)], np.uint64))
            hashes = np.full(len(batch), NOTHING)
            hashes[known[low:high, 0].astype(np.int64) - first] = known[low:high, 1]
            if kept := _kept(batch, verdicts):
                yield kept, of_hashes(hashes[verdicts == 0])

    def _judged(self, source: Source, skipped: Counter[str]) -> Iterator[tuple[str, int, list[Any], np.ndarray]]:
        """Yield (stream and file, number of the first example, examples, their verdicts) of all training text of a source."""
        for name, piece in source.pieces():
            key = _key(source, name)
            verdicts = np.frombuffer(zlib.decompress(self.verdicts[key]), np.uint8)
            done = 0
            for batch in piece.batches("train", skipped):
                mine = verdicts[done : done + len(batch)]
                if len(mine) < len(batch):
                    break
                yield key, done, batch, mine
                done += len(batch)
            if done != len(verdicts):
                raise UserError(
                    f"it had {len(verdicts):,} examples when it was filtered, and has another number now",
                    file=name,
                    remedy="do not change the text while it is prepared; a function must yield the same text each time",
                )

    def pack(self) -> bytes:
        """Return the verdicts as bytes; b"" if nothing is dropped."""
        if not self.labels:
            return b""
        head = {"labels": self.labels, "places": [[name, len(packed)] for name, packed in self.verdicts.items()]}
        written = json.dumps(head).encode()
        return b"".join([len(written).to_bytes(8, "little"), written, *self.verdicts.values()])

    @classmethod
    def unpack(cls, packed: bytes) -> Cleaned:
        """Read what :meth:`pack` wrote."""
        if not packed:
            return cls()
        end = 8 + int.from_bytes(packed[:8], "little")
        head, verdicts = json.loads(packed[8:end]), {}
        for name, size in head["places"]:
            verdicts[name], end = packed[end : end + size], end + size
        return cls(tuple(head["labels"]), verdicts)


class Tally:
    """Counts the examples of a stream that each step drops and those that are stored, and keeps samples of dropped ones.

    Args:
      labels: labels of the steps.
      vocabulary: the vocabulary, for counting tokens.

    Attributes:
      counts: [examples, characters, tokens] of the stored examples, then of those that each step drops.
      samples: {step: the first examples that it drops}.
    """

    def __init__(self, labels: Sequence[str], vocabulary: Vocabulary):
        self._labels, self._vocabulary = labels, vocabulary
        self.counts = [[0, 0, 0] for _ in range(len(labels) + 1)]
        self.samples: dict[int, list[Any]] = {}

    def drop(self, batch: Sequence[Any], verdicts: np.ndarray) -> None:
        """Count the examples of a batch that have a verdict other than 0."""
        for step in np.unique(verdicts[verdicts > 0]).tolist():
            dropped = [batch[index] for index in np.flatnonzero(verdicts == step).tolist()]
            texts = [text for example in dropped for text in _texts(example)]
            sizes = (len(dropped), *self._sizes(texts))
            self.counts[step] = [before + size for before, size in zip(self.counts[step], sizes)]
            kept = self.samples.setdefault(step, [])
            kept += dropped[: SAMPLES - len(kept)]

    def store(self, characters: int, tokens: int) -> None:
        """Count an example that is stored."""
        stored = self.counts[0]  # plain numbers: this is called for every example
        stored[0] += 1
        stored[1] += characters
        stored[2] += tokens

    def facts(self) -> dict[str, list[int]]:
        """Return {step, or "stored": [examples, characters, tokens]} for the manifest."""
        return dict(zip(("stored", *self._labels), self.counts))

    def lines(self, stream: str) -> list[str]:
        """Return the samples as lines of JSON."""
        found = []
        for step, examples in sorted(self.samples.items()):
            for example in examples:
                sides = ("text",) if isinstance(example, str) else ("source", "target")
                texts = [example] if isinstance(example, str) else example
                entry = {"stream": stream, "step": self._labels[step - 1]}
                entry |= {side: text[:SAMPLE_CHARACTERS] for side, text in zip(sides, texts)}
                found.append(json.dumps(entry, ensure_ascii=False))
        return found

    def _sizes(self, texts: list[str]) -> tuple[int, int]:
        return sum(map(len, texts)), sum(map(len, self._vocabulary.encode_batch(texts)))


def joined_samples(files: Mapping[str, bytes], labels: Sequence[str]) -> bytes:
    """Merge the samples of shards into those of the whole store: the first of each stream and step.

    Args:
      files: {file: lines of :meth:`Tally.lines`}, in the order of the shards.
      labels: labels of the steps, in order.

    Raises:
      UserError: a line is not such a sample.
    """
    kept: dict[str, dict[str, list[bytes]]] = {}
    for file, content in files.items():
        for number, line in enumerate(content.splitlines(keepends=True), 1):
            sample = parse_json(line, Path(file))
            stream, step = (sample.get(key) if isinstance(sample, dict) else None for key in ("stream", "step"))
            if not isinstance(stream, str) or not isinstance(step, str) or step not in labels:
                raise UserError("this is not a sample of a step of data.filters", file=file, line=number)
            of_step = kept.setdefault(stream, {}).setdefault(step, [])
            of_step += [line][: SAMPLES - len(of_step)]
    by_step = (of_step[label] for of_step in kept.values() for label in labels if label in of_step)
    return b"".join(line for lines in by_step for line in lines)


def clean(config: ConfigDict, found: Sequence[Source], warn: Callable[[str], object], folder: Path) -> Cleaned:
    """Judge all training text of a run, in ``data.workers`` processes.

    Args:
      config: the run's config.
      found: its sources.
      warn: called with a line about text that a filter cannot judge.
      folder: folder for keys of copies and for hashes; it must exist for as long as :meth:`Cleaned.fingerprinted` is called.

    Raises:
      UserError: as :func:`.filtering.steps`, or the text cannot be read.
    """
    chain = steps(config)
    trained = [source for source in found if source.train is not None]
    if not chain and not any(source.most_documents for source in trained):
        return Cleaned()
    for source in trained:
        for step in _of(chain, source):
            for language in source.languages:
                if reason := step.filter.cannot_judge(language):
                    warn(f"data.filters, {step.label}: {reason}, so its text stays")
    pieces = [(source, name, piece) for source in trained for name, piece in source.pieces()]
    labels = (*(step.label for step in chain), DRAWN)
    jobs = [(config.data, piece, os.path.join(folder, str(number))) for number, (*_, piece) in enumerate(pieces)]
    verdicts = _judged(jobs, config.data.workers or os.cpu_count() or 1)
    groups: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for number, (source, _, _) in enumerate(pieces):
        groups.setdefault((source.kind, source.languages), []).append(number)
    for numbers in groups.values():
        for number in range(1, len(chain) + 1):
            _drop_copies([(verdicts[n], f"{folder}/{n}.{number}") for n in numbers], number)
    for source in trained:
        if source.most_documents:
            mine = [number for number, (of, *_) in enumerate(pieces) if of is source]
            _draw([(verdicts[n], f"{folder}/{n}.{DRAWN}") for n in mine], source.most_documents, len(labels))
    keys = [_key(source, name) for source, name, _ in pieces]
    hashes = {}
    for number, (source, name, _) in enumerate(pieces):
        exact = [step for step in _of(chain, source) if isinstance(step.filter, ExactDuplicates)]
        if exact and source.kind == "text":  # the keys of pairs are of both sides together
            hashes[_key(source, name)] = f"{folder}/{number}.{chain.index(exact[0]) + 1}"
    return Cleaned(labels, {key: zlib.compress(verdict.tobytes(), 1) for key, verdict in zip(keys, verdicts)}, hashes)


# ------------------------------------------------------------------------------------------------ one file


def _judged(jobs: Sequence[tuple[ConfigDict, Source, str]], workers: int) -> list[np.ndarray]:
    if min(workers, len(jobs)) < 2:
        return [_judge(*job) for job in jobs]
    with fresh_processes(min(workers, len(jobs)), remedy="lower config.data.workers if memory ran out") as pool:
        return [running.result() for running in [pool.submit(_judge, *job) for job in jobs]]


def _judge(data: ConfigDict, piece: Source, prefix: str) -> np.ndarray:
    """Return the verdicts on the examples of a file, ``[examples]`` uint8. Steps that drop copies only write keys to files.

    A file of keys, ``PREFIX.STEP``, holds (number of the example, key) for each example that no earlier step drops.
    """
    config = ConfigDict({"data": data}, convert_dict=False)
    chain = steps(config)
    mine = _of(chain, piece)
    found = []
    first = 0
    with contextlib.ExitStack() as stack:
        copies = [step for step in mine if isinstance(step.filter, CopyFilter)]
        names = {step: f"{prefix}.{chain.index(step) + 1}" for step in copies}
        files = {step: stack.enter_context(open(name, "wb")) for step, name in names.items()}
        drawn = stack.enter_context(open(f"{prefix}.{DRAWN}", "wb")) if piece.most_documents else None
        for batch in piece.batches("train"):
            verdicts = np.zeros(len(batch), np.uint8)
            shortest = (
                batch if piece.kind == "text" else [min(pair, key=lambda side: len(side.strip())) for pair in batch]
            )
            alive = np.flatnonzero([bool(text.strip()) for text in shortest])  # blank text is counted elsewhere
            for step in mine:
                examples = [batch[index] for index in alive.tolist()] if len(alive) < len(batch) else [*batch]
                if not examples:
                    break
                if isinstance(step.filter, CopyFilter):
                    _write(files[step], first + alive, step.filter.keys(joined(examples)))
                    continue
                kept = step.filter.keeps(examples, piece.languages)
                verdicts[alive[~kept]] = chain.index(step) + 1
                alive = alive[kept]
            if drawn and len(alive):
                hashes = whole_fingerprints(joined([batch[index] for index in alive.tolist()])).hashes
                _write(drawn, first + alive, _scattered(hashes)[:, None])
            found.append(verdicts)
            first += len(batch)
    return np.concatenate(found) if found else np.zeros(0, np.uint8)


def _of(chain: Sequence[Step], source: Source) -> list[Step]:
    """Return the steps that judge a source."""
    return [
        step
        for step in chain
        if step.is_for(source.name, source.of) and not (step.filter.of_pairs and source.kind != "pairs")
    ]


def _write(file: Any, numbers: np.ndarray, keys: np.ndarray) -> None:
    """Append a row (number of the example, key) for each key; ``keys`` is ``[examples, keys of each]``."""
    rows = np.stack([np.repeat(numbers.astype(np.uint64), keys.shape[1]), keys.ravel()], axis=1)
    file.write(rows.tobytes())


def _read(name: str) -> np.ndarray:
    """Return the rows of a file of keys, ``[keys, 2]``, as a memory map."""
    if not os.path.exists(name) or not os.path.getsize(name):
        return np.zeros((0, 2), np.uint64)
    return np.memmap(name, np.uint64, "r").reshape(-1, 2)


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows of :func:`_read`, at most ``PART`` at a time: a mask over a whole file could be too large."""
    return (rows[first : first + PART] for first in range(0, len(rows), PART))


def _kept(batch: Sequence[Any], verdicts: np.ndarray) -> list[Any]:
    return (
        [example for example, verdict in zip(batch, verdicts.tolist()) if not verdict] if verdicts.any() else [*batch]
    )


def _texts(example: Any) -> Sequence[str]:
    return (example,) if isinstance(example, str) else example


def _key(source: Source, name: str) -> str:
    return f"{source.name}\n{name}"


# ------------------------------------------------------------------------------------------------ all files


def _drop_copies(files: Sequence[tuple[np.ndarray, str]], step: int) -> None:
    """Write the verdict ``step`` on every example that shares a key with an earlier one, which may itself be dropped by this step.

    Memory does not depend on how often a key occurs: of the keys that were read, only the first example of each is kept.

    Args:
      files: (verdicts, name of the file of keys) of each file, in order.
      step: number of the step that drops copies.
    """
    rows = [_read(name) for _, name in files]
    parts = max(-(-sum(map(len, rows)) // PART), 1)
    bounds = [(2**64 * part // parts) for part in range(parts + 1)]
    starts = np.cumsum([0, *(len(verdicts) for verdicts, _ in files)])  # [files + 1] first example of each file

    def drop(copies: np.ndarray) -> None:
        edges = np.searchsorted(copies, starts)
        for (verdicts, _), start, low, high in zip(files, starts, edges, edges[1:]):
            verdicts[copies[low:high] - start] = step

    for low, high in zip(bounds, bounds[1:]):
        firsts, waiting = np.zeros((0, 2), np.uint64), []
        for (verdicts, _), found, start in zip(files, rows, starts.tolist()):
            for block in _blocks(found):
                block = block[(block[:, 1] >= np.uint64(low)) & (block[:, 1] <= np.uint64(high - 1))]
                verdict = verdicts[block[:, 0].astype(np.int64)]
                waiting.append(block[(verdict == 0) | (verdict >= step)] + np.array([start, 0], np.uint64))
                if sum(map(len, waiting)) >= PART:
                    firsts, copies = _firsts_and_copies(np.concatenate([firsts, *waiting]))
                    drop(copies)
                    waiting = []
        drop(_firsts_and_copies(np.concatenate([firsts, *waiting]))[1])


def _firsts_and_copies(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first row of each key, ``[keys, 2]``, and the numbers of the examples in other rows, sorted.

    Args:
      rows: ``[rows, 2]`` (number of an example, key); the numbers of a key increase.
    """
    rows = rows[np.argsort(rows[:, 1], kind="stable")]
    begins = np.flatnonzero(np.append(True, rows[1:, 1] != rows[:-1, 1])) if len(rows) else np.zeros(0, np.int64)
    firsts = rows[begins]
    first = np.repeat(firsts[:, 0], np.diff(np.append(begins, len(rows))))  # [rows] first example with the row's key
    return firsts, np.unique(rows[rows[:, 0] != first, 0]).astype(np.int64)


def _draw(files: Sequence[tuple[np.ndarray, str]], most: int, step: int) -> None:
    """Write the verdict ``step`` on all but ``most`` examples of a source: those with the lowest hashes stay.

    Examples with equal hashes stay together or are dropped together. The lowest hash that is dropped is found 16 bits at a time,
    by histograms, so that memory does not depend on the number of examples.

    Args:
      files: as in :func:`_drop_copies`.
      most: examples that stay.
      step: number of the verdict.
    """

    def left(verdicts: np.ndarray, name: str) -> Iterator[np.ndarray]:
        return (block[verdicts[block[:, 0].astype(np.int64)] == 0] for block in _blocks(_read(name)))

    bound = 0  # the highest bits of that hash
    room = most  # examples that stay of those whose hashes begin with these bits
    for shift in range(64 - BITS, -1, -BITS):
        counts = np.zeros(1 << BITS, np.int64)
        for found in itertools.chain.from_iterable(left(*file) for file in files):
            bits = found[:, 1] >> np.uint64(shift)
            bits = bits[bits >> np.uint64(BITS) == np.uint64(bound)] & np.uint64((1 << BITS) - 1)
            counts += np.bincount(bits.astype(np.int64), minlength=1 << BITS)
        if counts.sum() <= room:
            return
        below = int(np.searchsorted(np.cumsum(counts), room, side="right"))
        bound, room = (bound << BITS) + below, room - int(counts[:below].sum())
    for verdicts, name in files:
        for found in left(verdicts, name):  # a verdict changes only the example's own row
            verdicts[found[found[:, 1] >= np.uint64(bound), 0].astype(np.int64)] = step


def _scattered(hashes: np.ndarray) -> np.ndarray:
    """Return hashes that are ordered independently of the given ones, by which held-out text is chosen."""
    return (hashes ^ (hashes >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
