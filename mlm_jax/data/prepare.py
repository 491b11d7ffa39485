"""Prepare: train the vocabulary if none is given, run each seqio task once, write the token store."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from mlm_jax.data import corpora, mixing
from mlm_jax.data.freshness import is_fresh, request
from mlm_jax.data.store import StoreWriter
from mlm_jax.data.vocabulary import Vocabulary
from mlm_jax.errors import UserError

SENTENCE = 2000  # most characters of a sentence that the vocabulary is trained on; longer documents give several
WRITE = 1024  # documents handed to the store at once

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's greetings are not the user's business


def prepare(config: ConfigDict, folder: str | Path, *, progress: bool = True) -> str:
    """Make the token store that the config asks for; a store that is already what it asks for is left alone.

    Args:
      config: the run's config.
      folder: of the store; it is whole or absent, never half-written.
      progress: whether to show a progress bar.

    Returns:
      the folder.

    Raises:
      UserError: the data cannot be read, a language has no text, the vocabulary is too large for the text, or the disk
        is full.
    """
    console = Console(stderr=True, quiet=not progress)
    if is_fresh(config, folder):
        console.print(f"token store {folder} is up to date")
        return str(folder)
    from mlm_jax.data import tasks

    languages = tasks.run_languages(config)
    asked = request(config)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,} tokens"), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console) as bar:
            vocabulary = make_vocabulary(config, languages, console)
            registered = tasks.register(config, vocabulary)
            with StoreWriter(folder, vocabulary, languages) as writer:
                skipped = {}
                for one in registered:
                    shown = bar.add_task(one.name, total=None)
                    for split in one.splits:
                        _write(writer, one, split, lambda tokens: bar.advance(shown, tokens))  # noqa: B023
                    skipped[one.name] = {reason: count for reason, count in one.skipped.items() if count}
                _check_languages(writer, registered)
                writer.facts |= {"request": asked, "skipped": skipped}
                writer.labels |= {one.name: one.labels for one in registered if one.labels}
                writer.rates |= {one.name: one.rate for one in registered if one.rate is not None}
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError("the disk is full", file=folder, remedy="free some space; nothing half-written was left") from error
        raise
    for name, reasons in skipped.items():
        for reason, count in reasons.items():
            console.print(f"[yellow]{name}: {count:,} examples left out or changed ({reason})")
    return str(folder)


def make_vocabulary(config: ConfigDict, languages: tuple[str, ...], console: Console) -> Vocabulary:
    """Return the vocabulary that the config names, or train it on text sampled by ``vocabulary.alpha``.

    Raises:
      UserError: see :class:`mlm_jax.data.vocabulary.Vocabulary`.
    """
    from mlm_jax.data import tasks

    settings = config.vocabulary
    if settings.path:
        return Vocabulary.from_model(settings.path, languages, settings.sentinels)
    if settings.kind == "bytes":
        return Vocabulary.bytes(languages, settings.sentinels)
    if config.data.mixture:
        return tasks.mixture_vocabulary(config, languages)
    console.print(f"training a vocabulary of {settings.size:,} pieces ({settings.kind})")
    return Vocabulary.train(vocabulary_sentences(config, languages), settings, languages)


def vocabulary_sentences(config: ConfigDict, languages: tuple[str, ...]) -> Iterator[str]:
    """Yield at most ``vocabulary.sentences`` sentences, languages in the shares p^alpha of their characters.

    A language whose share is more than its text gives its text again and again; one whose share is less gives every n-th
    sentence. Only counts are kept in memory.

    Raises:
      UserError: a language has no text.
    """
    sentences: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    for language in languages:
        for sentence in _training_sentences(config, language):
            sentences[language] += 1
            characters[language] += len(sentence)
        if not sentences[language]:
            raise UserError(f"language {language!r} has no text after filtering", remedy="check its files in config.data")
    shares = mixing.rates([characters[language] for language in languages], config.vocabulary.alpha)
    total = min(config.vocabulary.sentences, sum(sentences.values()))
    for language, share in zip(languages, shares):
        quota, have, given = int(share * total), sentences[language], 0
        while given < quota:
            this_pass = min(quota - given, have)
            # Sentence i is taken where the count ⌊i · this_pass / have⌋ goes up: evenly spread, exactly this_pass of them.
            for i, sentence in enumerate(_training_sentences(config, language)):
                if (i + 1) * this_pass // have > i * this_pass // have:
                    yield sentence
            given += this_pass


def _training_sentences(config: ConfigDict, language: str) -> Iterator[str]:
    """Yield the training text of a language in pieces of at most ``SENTENCE`` characters."""
    from mlm_jax.data import labelled, tasks

    if language in config.data.corpora:
        source = config.data.corpora[language]
        for document in tasks.split_of(config, language, source, "train", lambda s, split: corpora.documents(s, language, split)):
            yield from (document[start : start + SENTENCE] for start in range(0, len(document), SENTENCE))
        return
    for pair, source in config.data.parallel.items():
        if language in pair.split("-"):
            side = pair.split("-").index(language)
            found = tasks.split_of(config, pair, source, "train", lambda s, split: corpora.sentence_pairs(s, pair, split))  # noqa: B023
            yield from (sides[side][:SENTENCE] for sides in found if sides[side].strip())
    for name, entry in config.data.labelled.items():
        if entry["language"] == language and language not in config.data.corpora:
            yield from (" ".join(example.texts)[:SENTENCE] for example in labelled.examples(name, dict(entry), "train"))


def _write(writer: StoreWriter, one: Any, split: str, advance: Any) -> None:
    """Run one seqio task and append its examples to the store."""
    features = ("inputs",) if one.kind == "text" else ("inputs", "targets") if one.kind == "pairs" else ("inputs", "labels")
    data = one.task.get_dataset(sequence_length=None, split=split, shuffle=False)
    if one.kind == "text" and "inputs" not in one.task.output_features:  # a T5-style task without inputs
        data = data.map(lambda example: {**example, "inputs": example["targets"]})
    text_of = lambda row: writer.vocabulary.decode(row.tolist())  # noqa: E731
    for batch in _read(one, data.ragged_batch(WRITE)):
        rows = {feature: [np.asarray(row, np.int32) for row in batch[feature]] for feature in features}
        if "bytes" in batch:
            characters, size = int(batch["characters"].sum()), int(batch["bytes"].sum())
        else:  # a user's task hands over ids only: its text is what they decode to
            texts = [text_of(row) for feature in features if feature != "labels" for row in rows[feature]]
            characters, size = sum(map(len, texts)), sum(len(text.encode()) for text in texts)
        writer.add(one.name, one.kind, one.languages, split, rows, characters=characters, bytes=size)
        advance(sum(map(len, rows["inputs"])))


def _read(one: Any, data: Any) -> Iterator[dict[str, Any]]:
    """Yield NumPy batches; what the task's reader raised is raised here as it was."""
    import tensorflow as tf

    try:
        yield from data.as_numpy_iterator()
    except tf.errors.OpError:
        if one.failure is not None:
            raise one.failure from None
        raise


def _check_languages(writer: StoreWriter, registered: list) -> None:
    for one in registered:
        if one.name not in writer._streams:
            raise UserError(f"{one.kind} {one.name!r} has no examples after filtering", remedy="check its files in config.data")
