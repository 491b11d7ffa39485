"""Prepare: train the vocabulary if none is given, run each seqio task once, and write the token store.

Several processes or machines prepare a shard each, which is a store of its own (``shards.py``).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from mlm_jax.common.addresses import is_local
from mlm_jax.common.console import table_console
from mlm_jax.common.disk import disk_errors
from mlm_jax.common.errors import UserError
from mlm_jax.common.files import scratch_folder
from mlm_jax.common.lock import only_writer
from mlm_jax.common.processes import fresh_processes, start_resource_tracker
from mlm_jax.config.check import check_values
from mlm_jax.data.store.filtering import steps
from mlm_jax.data.store.freshness import is_fresh, request, sources, what_it_lacks, why_stale
from mlm_jax.data.store.held_out import LEFT_OUT, HeldOut, collect
from mlm_jax.data.store.layout import CLEANED, DROPPED
from mlm_jax.data.store.manifest import FEATURES, TOKENS, WITH_LABELS
from mlm_jax.data.store.shards import (
    check_streams,
    done_shard,
    join_shards,
    remove_shards,
    shard_folder,
    share,
)
from mlm_jax.data.store.store import Store
from mlm_jax.data.store.vocabulary import given_vocabulary, train_vocabulary
from mlm_jax.data.store.writer import StoreWriter, remove_leftovers
from mlm_jax.data.text import labelled
from mlm_jax.data.text.languages import run_languages
from mlm_jax.data.text.reading import BLANK, EMPTY_SIDE
from mlm_jax.data.text.sources import is_library, matches
from mlm_jax.data.vocabulary.folder import read_vocabulary
from mlm_jax.data.vocabulary.pieces import Vocabulary

PRETOKENIZED = "_pretokenized"  # suffix of the features in which seqio's tokenize keeps the text
WRITE = 1024  # documents written to the store at a time
NOTHING_LEFT = "nothing half-written was left"
LESS_MEMORY = "lower config.data.workers if memory ran out"


def prepare(config: ConfigDict, folder: str | Path, *, progress: bool = True) -> str:
    """Make the token store that the config asks for, unless the folder holds it already.

    Args:
      config: the run's config.
      folder: folder of the store, which is never half-written.
      progress: whether to show a progress bar.

    Returns:
      the folder.

    Raises:
      UserError: the data cannot be read, a language has no text, the vocabulary is too large for the text, or the disk
        is full.
    """
    check_values(config)
    labelled.check_formats(config.data.labelled)
    steps(config)  # raises an error about a wrong filter before anything is read
    console = table_console(stderr=True, quiet=not progress)
    remove_leftovers(folder)
    if is_fresh(config, folder):
        console.print(f"token store {folder} is up to date")
        if lacks := what_it_lacks(config, folder):
            console.print(lacks, style="yellow")
        return str(folder)
    if stale := why_stale(config, folder):
        console.print(f"token store {folder} is made again: {stale}", style="yellow")
    for source in sources(config):
        if not is_library(source):
            matches(source)  # raises an error about a wrong path before other files are read
    start_resource_tracker()
    from mlm_jax.data.store import tasks

    workers = config.data.workers or os.cpu_count() or 1
    with disk_errors(folder, left=NOTHING_LEFT):
        vocabulary, held_out = _vocabulary_and_held_out(config, console)
        if workers > 1:
            _in_processes(config, folder, workers, vocabulary, held_out, console)
        else:
            registered = tasks.register(config, vocabulary, held_out)
            _write_store(config, folder, vocabulary, held_out, registered, console)
    _say_what_lacks(config, folder, console)
    return str(folder)


def prepare_shard(
    config: ConfigDict,
    folder: str | Path,
    index: int,
    count: int,
    *,
    begun: tuple[Mapping[str, bytes], bytes, bytes] | None = None,
    progress: bool = True,
) -> str:
    """Make shard ``index`` of ``count`` of the store ``folder``, unless it exists already.

    The vocabulary and the held-out text are taken from a finished shard. If there is none, they are computed here, with the same
    result on every machine.

    Args:
      config: the run's config, the same for all shards.
      folder: folder of the whole store.
      index: index of the shard, from 0.
      count: number of shards.
      begun: files of the vocabulary, packed held-out text and packed verdicts of filters, if they were computed before.
      progress: whether to show a progress bar.

    Returns:
      the shard's folder.

    Raises:
      UserError: as :func:`prepare`.
    """
    check_values(config)
    labelled.check_formats(config.data.labelled)
    console, shard = table_console(stderr=True, quiet=not progress), shard_folder(folder, index, count)
    remove_leftovers(shard)
    if is_fresh(config, shard, or_older=False):
        console.print(f"shard {shard} is up to date")
        return shard
    from mlm_jax.data.store import tasks

    with disk_errors(shard, left=NOTHING_LEFT):
        enforced, done = config.data.decontaminate, None if begun else done_shard(config, folder, count)
        if begun:
            vocabulary, held_out = (
                read_vocabulary(begun[0].__getitem__, shard),
                HeldOut.unpack(begun[1], enforced, begun[2]),
            )
        elif done:
            vocabulary, held_out = done.vocabulary, HeldOut.unpack(done.held_out, enforced, done.file(CLEANED))
        else:
            vocabulary, held_out = _vocabulary_and_held_out(config, console)
        if config.data.mixture:  # a user's tasks cannot be split into shards
            registered = tasks.register(config, vocabulary, held_out)
            registered = registered[len(registered) * index // count : len(registered) * (index + 1) // count]
        else:
            registered = tasks.register(share(config, index, count), vocabulary, held_out)
        _write_store(config, shard, vocabulary, held_out, registered, console, whole=False)
    return shard


def join(config: ConfigDict, folder: str | Path, count: int, *, progress: bool = True) -> str:
    """Join the ``count`` shards of a store, which is the same as if one process had written it, and remove them.

    Raises:
      UserError: a shard is missing (the message names it), or was made of other text; or as :func:`prepare`.
    """
    console = table_console(stderr=True, quiet=not progress)
    remove_leftovers(folder)
    if is_fresh(config, folder):
        console.print(f"token store {folder} is up to date")
        return str(folder)
    with disk_errors(folder, left=NOTHING_LEFT):
        join_shards(config, folder, count)
    _say_what_lacks(config, folder, console)
    return str(folder)


def _vocabulary_and_held_out(config: ConfigDict, console: Console) -> tuple[Vocabulary, HeldOut]:
    """Return the vocabulary and the held-out text; the vocabulary is not trained on held-out text."""
    languages = run_languages(config)
    given = given_vocabulary(config, languages)  # first: it may be missing, and the text may take hours
    console.print(f"{'filtering text, and ' if config.data.filters else ''}looking for held-out text")
    held_out = collect(config, console.print)
    return train_vocabulary(config, languages, console, held_out) if given is None else given, held_out


def _in_processes(
    config: ConfigDict, folder: str | Path, workers: int, vocabulary: Vocabulary, held_out: HeldOut, console: Console
) -> None:
    """Write the store with several processes, one for each shard, and join the shards."""
    console.print(f"{workers} processes tokenise")
    begun = vocabulary.files(), held_out.pack(), held_out.cleaned.pack()
    with contextlib.ExitStack() as held:
        shards_of = str(folder)
        if is_local(folder):
            held.enter_context(only_writer(f"{folder}.shards"))
            shards_of = str(held.enter_context(scratch_folder(folder)) / "store")
        held.callback(remove_shards, shards_of, workers)
        with fresh_processes(workers, remedy=LESS_MEMORY) as pool:
            shards = [
                pool.submit(prepare_shard, config, shards_of, i, workers, begun=begun, progress=False)
                for i in range(workers)
            ]
            for shard in concurrent.futures.as_completed(shards):  # the first error ends the other processes
                shard.result()
        join_shards(config, shards_of, workers, into=folder)


def _write_store(
    config: ConfigDict,
    folder: str | Path,
    vocabulary: Vocabulary,
    held_out: HeldOut,
    registered: list,
    console: Console,
    whole: bool = True,
) -> None:
    """Run the seqio tasks and write their examples. In a shard (``whole=False``), a task may have no examples."""
    asked = request(config)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:,} tokens"),
        TimeElapsedColumn(),
    )
    with (
        Progress(*columns, console=console) as bar,
        StoreWriter(folder, vocabulary, run_languages(config)) as writer,
    ):
        skipped, filtered, samples = {}, {}, []
        for one in registered:
            bar_of_task = bar.add_task(one.name, total=None)
            for split, batch in _read(one, config.data.max_document_tokens, one.splits):
                rows = _as_stored(batch, one, split, config, vocabulary, held_out)
                features = {feature: rows[feature] for feature in FEATURES[one.kind]}
                if not features["inputs"]:  # all examples of a user's task were held out
                    continue
                sizes = {size: rows[size] for size in ("characters", "bytes")}
                writer.add(one.name, one.kind, one.languages, split, features, **sizes)
                bar.advance(bar_of_task, sum(len(row) for name in features if name in TOKENS for row in features[name]))
            skipped[one.name] = {reason: count for reason, count in sorted(one.skipped.items()) if count}
            if one.tally:
                filtered[one.name] = one.tally.facts()
                samples += one.tally.lines(one.name)
            if one.name in writer.streams:
                writer.labels |= {one.name: one.labels} if one.labels else {}
                writer.rates |= {one.name: one.rate} if one.rate is not None else {}
        if whole:
            check_streams(config, writer, skipped)
        writer.facts |= {"request": asked, "skipped": skipped, "held_out": len(held_out) if held_out.enforced else 0}
        writer.held_out = held_out.pack()
        if held_out.cleaned.labels:
            writer.facts["filters"] = filtered
            writer.files[DROPPED] = "".join(f"{line}\n" for line in samples).encode()
        if not whole:
            writer.files[CLEANED] = held_out.cleaned.pack()


def _say_what_lacks(config: ConfigDict, folder: str | Path, console: Console) -> None:
    """Print which text a new store leaves out or changes, and which streams have no held-out text to evaluate on."""
    store = Store.open(folder)
    for name, counts in store.manifest["facts"].get("filters", {}).items():
        for step, (examples, characters, tokens) in counts.items():
            if examples and step != "stored":
                sizes = f"{characters:,} characters, {tokens:,} tokens"
                console.print(f"{name}, filter {step}: {examples:,} examples dropped ({sizes})", style="yellow")
    if store.file(DROPPED):
        console.print(f"samples of what was dropped: {folder}/{DROPPED}")
    for name, reasons in store.manifest["facts"]["skipped"].items():
        for reason, count in reasons.items():
            console.print(f"{name}: {count:,} examples left out or changed ({reason})", style="yellow")
        if sum(reasons.get(reason, 0) for reason in LEFT_OUT) and "train" not in store.streams[name].splits:
            console.print(
                f"{name}: nothing is left to train on, since all of its text is held out. Remedy: name other text for "
                "training or for validation, or set data.decontaminate=False",
                style="yellow",
            )
    for name, stream in store.streams.items():
        if stream.kind not in WITH_LABELS and "validation" not in stream.splits and config.data.validation_fraction:
            console.print(
                f"{name}: none of its text is held out, so it will not be evaluated. Remedy: name validation text in "
                "data.validation, or raise data.validation_fraction",
                style="yellow",
            )


def _as_stored(
    batch: dict[str, Any], one: Any, split: str, config: ConfigDict, vocabulary: Vocabulary, held_out: HeldOut
) -> dict[str, Any]:
    """Return examples as the store takes them: {feature: rows, "characters": total, "bytes": total}."""
    features = FEATURES[one.kind]
    rows: dict[str, Any] = {name: [np.asarray(row, np.int32) for row in batch[name]] for name in features}
    if "bytes" in batch:
        return rows | {"characters": int(sum(batch["characters"])), "bytes": int(sum(batch["bytes"]))}
    rows, texts = _of_user(one, rows, batch, vocabulary)
    examples = [*zip(*texts)]
    if split == "train":
        free = held_out.free(examples, one.skipped).tolist()
        rows = {name: [row for row, keep in zip(rows[name], free) if keep] for name in features}
        examples = [example for example, keep in zip(examples, free) if keep]
    for name, language in zip(features, one.languages):
        prefix = vocabulary.document_prefix(config.data.prefix, language)
        rows[name] = [_document(row, prefix, vocabulary.eos_id) for row in rows[name]]
    characters = sum(len(text) for example in examples for text in example)
    return rows | {
        "characters": characters,
        "bytes": sum(len(text.encode()) for example in examples for text in example),
    }


def _of_user(
    one: Any, rows: dict[str, list[np.ndarray]], batch: dict[str, Any], vocabulary: Vocabulary
) -> tuple[dict[str, list[np.ndarray]], list[list[str]]]:
    """Return the examples of a user's task that have text in every feature, and the texts of each feature.

    Other examples are counted. A user's task yields ids, so its text is decoded from them. If there are unknown pieces, it is the
    text that seqio's ``tokenize`` kept.
    """
    nothing = np.setdiff1d(vocabulary.special_ids, vocabulary.unk_id)
    filled = [all(not np.isin(row, nothing).all() for row in example) for example in zip(*rows.values())]
    one.skipped[EMPTY_SIDE if one.kind == "pairs" else BLANK] += filled.count(False)
    texts: list[list[str]] = [[] for _ in rows]
    for (feature, documents), of_feature in zip(rows.items(), texts):
        originals = batch.get(feature + PRETOKENIZED, [None] * len(documents))
        for row, original, whole in zip(documents, originals, filled):
            if whole:
                known = original.decode(errors="replace") if isinstance(original, bytes) else None
                of_feature.append(vocabulary.written(row.tolist(), known))
    return {feature: [row for row, whole in zip(kept, filled) if whole] for feature, kept in rows.items()}, texts


def _document(row: np.ndarray, prefix: list[int], eos_id: int) -> np.ndarray:
    """Return an example of a user's task with one prefix and one end, as other documents have them."""
    before = [] if row[: len(prefix)].tolist() == prefix else prefix
    return np.array([*before, *row, *([] if row[-1] == eos_id else [eos_id])], np.int32)


def _read(one: Any, most: int, splits: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (split, {feature: rows}) of batches of examples.

    Our own tasks have no preprocessors, so their sources are read directly: seqio would yield the same, but would copy each
    example into TensorFlow and back. A user's task is run by seqio.

    Raises:
      UserError: an example of a user's task has a feature that the first examples do not have.
    """
    if one.read is None:
        for split in splits:
            yield from ((split, batch) for batch in _read_of_user(one, split, most))
        return
    waiting: dict[str, list[dict[str, Any]]] = {split: [] for split in splits}
    for split, example in one.read(splits):
        waiting[split].append(example)
        if len(waiting[split]) == WRITE:
            yield split, _columns(waiting[split])
            waiting[split] = []
    yield from ((split, _columns(examples)) for split, examples in waiting.items() if examples)


def _columns(examples: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {key: [example[key] for example in examples] for key in examples[0]}


def _read_of_user(one: Any, split: str, most: int) -> Iterator[dict[str, Any]]:
    from mlm_jax.data.store.tasks import PROBED, has_text, user_examples

    for found in user_examples(one.task, split, most).ragged_batch(WRITE).as_numpy_iterator():
        batch: dict[str, Any] = found
        if one.kind == "text":
            (other,) = {*TOKENS} - {one.feature}
            if any(has_text(one.task, other, row) for row in batch.get(other, ())):
                raise UserError(
                    f"seqio task {one.name!r} has {other}, which its first {PROBED} examples do not have",
                    remedy=f"leave {other} out of the task, or let each example have it",
                )
            there = [suffix for suffix in ("", PRETOKENIZED) if one.feature + suffix in batch]
            batch = {f"inputs{suffix}": batch[one.feature + suffix] for suffix in there}
        yield batch
