"""seqio tasks: every corpus, parallel corpus and labelled set of a config is registered as a Task of a Mixture.

Only this module imports TensorFlow and seqio; other modules import it inside the functions that need it.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError, nearest
from mlm_jax.common.lines import windows
from mlm_jax.common.quiet import quiet_stderr
from mlm_jax.data.store.cleaning import Tally
from mlm_jax.data.store.held_out import HeldOut, collect
from mlm_jax.data.store.labelled_rows import CUT, Coder
from mlm_jax.data.store.manifest import FEATURES, TOKENS
from mlm_jax.data.store.streams import BATCH, SPLITS, Source, sources
from mlm_jax.data.text import labelled
from mlm_jax.data.text.languages import languages_of, only_held_out
from mlm_jax.data.text.reading import BLANK, EMPTY_SIDE
from mlm_jax.data.vocabulary.pieces import Vocabulary

# Triton, which PyPI's torch installs on Linux, and TensorFlow both contain LLVM. If TensorFlow's is loaded first, Python crashes
# as soon as the same process (a notebook, a user's preprocessor) loads a transformers model.
if importlib.util.find_spec("triton"):
    importlib.import_module("triton")
with quiet_stderr():
    import seqio
    import tensorflow as tf

SIZES = ("characters", "bytes")  # of the text of an example
PROBED = 100  # examples of a user's task that are read to find the features that it fills
PROBES = 1000  # pieces of a user's vocabulary that are compared with the config's


class SeqioVocabulary(seqio.Vocabulary):
    """A vocabulary of this package as a seqio vocabulary.

    Args:
      vocabulary: ours.
    """

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        super().__init__()

    @property
    def _base_vocab_size(self) -> int:
        return self.vocabulary.size

    @property
    def eos_id(self) -> int:
        """Id of the token that ends a document."""
        return self.vocabulary.eos_id

    @property
    def bos_id(self) -> int:
        """Id of the token that begins a document."""
        return self.vocabulary.bos_id

    @property
    def unk_id(self) -> int:
        """Id of text without a piece."""
        return self.vocabulary.unk_id

    @property
    def pad_id(self) -> int:
        """Id of padding."""
        return self.vocabulary.pad_id

    def _encode(self, s: str) -> list[int]:
        return self.vocabulary.encode(s)

    def _decode(self, ids: Any) -> str:
        return self.vocabulary.decode(ids)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        def encode(text: Any) -> Any:
            return tf.constant(self.vocabulary.encode(text.numpy().decode()), tf.int32)

        ids = tf.py_function(encode, [s], tf.int32)
        ids.set_shape([None])
        return ids

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        return tf.py_function(lambda ids: self.vocabulary.decode(ids.numpy().tolist()), [ids], tf.string)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, SeqioVocabulary) and other.vocabulary.fingerprint == self.vocabulary.fingerprint


Reader = Callable[[Sequence[str]], Iterator[tuple[str, dict[str, Any]]]]


@dataclass(frozen=True)
class Registered:
    """A seqio task with the facts that the store needs.

    Attributes:
      name: name in the config: "de", "de-en", the name of a labelled set, or that of a user's seqio task.
      task: the seqio task.
      kind: one of :data:`.FEATURES`.
      languages: its language, or the two languages of a pair.
      splits: its splits, among train and validation.
      labels: names of the classes.
      rate: mixing rate in a user's mixture.
      feature: name of the feature that holds the text of a user's task.
      skipped: {reason: number of examples left out}, filled while the task is read.
      tally: counts the examples that filters drop while the task is read; None without filters.
      read: function of splits that yields (split, example) in one pass over the source; None for a user's task.
    """

    name: str
    task: seqio.Task
    kind: str
    languages: tuple[str, ...]
    splits: tuple[str, ...]
    labels: tuple[str, ...] = ()
    rate: float | None = None
    feature: str = "inputs"
    skipped: Counter = field(default_factory=Counter)
    tally: Tally | None = None
    read: Reader | None = None

    def examples(self, split: str) -> Iterator[dict[str, Any]]:
        """Yield the examples of a split of a task that is not the user's, as Python objects."""
        assert self.read is not None, "a user's task is read by seqio"
        return (example for _, example in self.read((split,)))


def register(config: ConfigDict, vocabulary: Vocabulary, held_out: HeldOut | None = None) -> list[Registered]:
    """Register the run's seqio tasks and their mixtures.

    Tasks are named ``mlm_jax.NAME`` with the config's name, and mixtures ``mlm_jax.text``, ``mlm_jax.pairs``,
    ``mlm_jax.labelled`` and so on, since the tasks of a mixture have the same features. The loader, not seqio, mixes them, by
    ``config.mixing`` and the curriculum. If ``config.data.mixture`` is set, the tasks are those of the user's mixture, and of the
    test sets in ``config.data.validation``.

    Args:
      config: config of the run, or of a shard.
      vocabulary: vocabulary of the token ids.
      held_out: held-out text of the whole run; None: computed from the text of this config.

    Raises:
      UserError: the mixture does not exist, or the config does not give the language of one of its tasks.
    """
    make = {"text": _text, "pairs": _pairs}
    held_out = collect(config) if held_out is None else held_out
    if config.data.mixture:
        return [*_of_mixture(config), *(make[one.kind](config, vocabulary, one, held_out) for one in sources(config))]
    import_modules(config)
    found = [make[one.kind](config, vocabulary, one, held_out) for one in sources(config)]
    test_sets = len(only_held_out(config))
    registered, tested = found[: len(found) - test_sets], found[len(found) - test_sets :]
    for name, entry in config.data.labelled.items():
        registered.append(_labelled(config, vocabulary, name, dict(entry), held_out))
    registered += tested
    for kind in {one.kind for one in registered}:
        mixture = f"mlm_jax.{kind}"
        seqio.MixtureRegistry.remove(mixture)
        seqio.MixtureRegistry.add(mixture, [(one.task, 1.0) for one in registered if one.kind == kind])
    return registered


def _text(config: ConfigDict, vocabulary: Vocabulary, source: Source, held_out: HeldOut) -> Registered:
    prefix = vocabulary.document_prefix(config.data.prefix, source.languages[0])
    content = room_for_text(config, prefix)
    skipped: Counter[str] = Counter()
    tally = _tally(source, held_out, vocabulary)

    def read(splits: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        for split, batch in held_out.split(source, splits, skipped, tally):
            whole = [text for text in batch if text.strip()]
            skipped[BLANK] += len(batch) - len(whole)
            for text, ids in zip(whole, vocabulary.encode_batch(whole)):
                skipped[BLANK] += not ids  # text such as U+200B alone has no pieces
                if tally and ids:
                    tally.store(len(text), len(ids))
                sizes = {"characters": len(text), "bytes": len(text.encode())}
                for start in range(0, len(ids), content):
                    piece = prefix + ids[start : start + content] + [vocabulary.eos_id]
                    yield split, {"inputs": piece, **sizes}
                    sizes = {"characters": 0, "bytes": 0}  # the first part of the document has all of its size

    return _registered(source.name, "text", source.languages, source.splits, read, vocabulary, skipped, tally=tally)


def _pairs(config: ConfigDict, vocabulary: Vocabulary, source: Source, held_out: HeldOut) -> Registered:
    prefixes = [vocabulary.document_prefix(config.data.prefix, language) for language in source.languages]
    content = min(room_for_text(config, prefix) for prefix in prefixes)
    skipped: Counter[str] = Counter()
    tally = _tally(source, held_out, vocabulary)

    def read(splits: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        for split, batch in held_out.split(source, splits, skipped, tally):
            whole = [(a, b) for a, b in batch if a.strip() and b.strip()]
            skipped[EMPTY_SIDE] += len(batch) - len(whole)
            first, second = (vocabulary.encode_batch([sides[i] for sides in whole]) for i in (0, 1))
            for (a, b), ids_a, ids_b in zip(whole, first, second):
                if not (ids_a and ids_b):
                    skipped[EMPTY_SIDE] += 1
                    continue
                skipped[CUT] += max(len(ids_a), len(ids_b)) > content
                kept = a if len(ids_a) <= content else vocabulary.decode(ids_a[:content])
                kept += b if len(ids_b) <= content else vocabulary.decode(ids_b[:content])
                if tally:
                    tally.store(len(kept), min(len(ids_a), content) + min(len(ids_b), content))
                yield (
                    split,
                    {
                        "inputs": prefixes[0] + ids_a[:content] + [vocabulary.eos_id],
                        "targets": prefixes[1] + ids_b[:content] + [vocabulary.eos_id],
                        "characters": len(kept),
                        "bytes": len(kept.encode()),
                    },
                )

    return _registered(source.name, "pairs", source.languages, source.splits, read, vocabulary, skipped, tally=tally)


def _tally(source: Source, held_out: HeldOut, vocabulary: Vocabulary) -> Tally | None:
    """Return a tally of what filters drop of a source; None if no filter judges it."""
    labels = held_out.cleaned.labels
    return Tally(labels, vocabulary) if labels and source.train is not None else None


def _labelled(
    config: ConfigDict, vocabulary: Vocabulary, name: str, entry: dict[str, Any], held_out: HeldOut
) -> Registered:
    most_bytes = config.data.max_document_bytes
    names, kind = labelled.label_names(entry, most_bytes), labelled.kind_of(entry)
    prefix = vocabulary.document_prefix(config.data.prefix, entry["language"])
    skipped: Counter[str] = Counter()
    numbers = {label: number for number, label in enumerate(names)}
    room, sizes = room_for_text(config, prefix), {key: entry[key] for key in ("window", "overlap") if key in entry}
    coder = Coder(vocabulary, prefix, room, numbers, kind, labelled.is_per_word(entry), skipped, **sizes)

    def read(splits: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        given = entry.get("labels", ())  # a reader needs these, since "-" may be a class or mean "no label"
        asked = {**entry, "labels": given or names}
        for split, example in held_out.labelled(asked, splits, skipped, most_bytes):
            yield from ((split, row) for row in coder.rows(example, split))

    splits = tuple(split for split in SPLITS if split in entry)
    return _registered(name, kind, (entry["language"],), splits, read, vocabulary, skipped, labels=names)


def _registered(
    name: str,
    kind: str,
    languages: tuple[str, ...],
    splits: tuple[str, ...],
    read: Reader,
    vocabulary: Vocabulary,
    skipped: Counter[str],
    labels: tuple[str, ...] = (),
    tally: Tally | None = None,
) -> Registered:
    task = _task(name, kind, read, vocabulary)
    return Registered(name, task, kind, languages, splits, labels, skipped=skipped, tally=tally, read=read)


def _task(name: str, kind: str, read: Reader, vocabulary: Vocabulary) -> seqio.Task:
    """Register a seqio task over a Python generator of examples."""
    features = FEATURES[kind]
    flat = {feature: tf.TensorSpec([None], tf.int32) for feature in features}
    lengths = {f"{feature}_lengths": tf.TensorSpec([None], tf.int64) for feature in features}
    sizes = {size: tf.TensorSpec([None], tf.int64) for size in SIZES}

    def batches(split: str) -> Iterator[dict[str, np.ndarray]]:  # many examples in each call from TensorFlow
        for batch in windows((example for _, example in read((split,))), BATCH):
            rows = {feature: [example[feature] for example in batch] for feature in features}
            yield (
                {feature: np.fromiter(chain.from_iterable(rows[feature]), np.int32) for feature in features}
                | {f"{feature}_lengths": np.array([*map(len, rows[feature])], np.int64) for feature in features}
                | {size: np.array([example[size] for example in batch], np.int64) for size in SIZES}
            )

    def to_examples(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        ragged = {
            f: tf.RaggedTensor.from_row_lengths(batch[f], batch[f"{f}_lengths"], validate=False) for f in features
        }
        return ragged | {size: batch[size] for size in SIZES}

    def dataset(split: str, shuffle_files: bool = False, seed: int | None = None) -> tf.data.Dataset:
        del shuffle_files, seed  # the loader shuffles, not seqio
        data = tf.data.Dataset.from_generator(lambda: batches(split), output_signature=flat | lengths | sizes)
        return data.map(to_examples).unbatch()

    full_name = "mlm_jax." + re.sub(r"[^\w.:]", "_", name)  # seqio allows no hyphen
    seqio.TaskRegistry.remove(full_name)
    return seqio.TaskRegistry.add(
        full_name,
        source=seqio.FunctionDataSource(dataset, splits=SPLITS),
        preprocessors=[],
        output_features={feature: seqio.Feature(SeqioVocabulary(vocabulary), add_eos=False) for feature in features},
    )


def import_modules(config: ConfigDict) -> None:
    """Import the modules that register seqio tasks or define corpus functions.

    Raises:
      UserError: one cannot be imported.
    """
    for module in config.data.modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(
                f"data.modules: cannot import {module!r}: {error}",
                remedy="name modules that are installed or in the folder of the config",
            ) from error


def _of_mixture(config: ConfigDict) -> list[Registered]:
    import_modules(config)
    mixture = _mixture(config)
    registered = []
    for task in mixture.tasks:
        language = config.data.mixture_languages[task.name]
        splits = tuple(split for split in SPLITS if split in task.splits)
        filled = _filled_features(task, splits, config.data.max_document_tokens)
        kind = "pairs" if len(filled) == 2 else "text"
        languages = languages_of(config, language) if kind == "pairs" else (language,)
        languages = languages * 2 if kind == "pairs" and len(languages) == 1 else languages
        rate = float(mixture.get_rate(task))
        registered.append(Registered(task.name, task, kind, languages, splits, rate=rate, feature=filled[0]))
    return registered


class _OfUser(NamedTuple):
    """A user's mixture: its tasks by name, and their mixing rates."""

    tasks: tuple[seqio.Task, ...]
    get_rate: Callable[[seqio.Task], float]


def _mixture(config: ConfigDict) -> _OfUser:
    import_modules(config)
    names = seqio.MixtureRegistry.names()
    if config.data.mixture not in names:
        raise UserError(
            f"no seqio mixture {config.data.mixture!r}{nearest(config.data.mixture, names)}",
            remedy="name the module that registers it in config.data.modules",
        )
    mixture = seqio.get_mixture_or_task(config.data.mixture)
    tasks = tuple(sorted(mixture.tasks, key=lambda task: task.name))
    known = [task.name for task in tasks]
    for name in known:
        if name not in config.data.mixture_languages:
            raise UserError(
                f"the config does not give the language of the seqio task {name!r}",
                remedy=f"set config.data.mixture_languages = {{{name!r}: 'en'}} (or a pair 'de-en')",
            )
    for name in config.data.mixture_languages:
        if name not in known:
            raise UserError(
                f"config.data.mixture_languages names {name!r}, which is no task of {config.data.mixture!r}"
                f"{nearest(name, known)}",
                remedy=f"its tasks are {', '.join(known)}",
            )
    return _OfUser(tasks, mixture.get_rate)


def user_examples(task: seqio.Task, split: str, most_tokens: int) -> tf.data.Dataset:
    """Return the examples of a user's task. Its preprocessors get ``most_tokens``; seqio cuts nothing."""
    lengths = dict.fromkeys(task.output_features, most_tokens)
    return task.get_dataset(sequence_length=lengths, split=split, shuffle=False, trim_output_features=False)


def _filled_features(task: seqio.Task, splits: tuple[str, ...], most_tokens: int) -> tuple[str, ...]:
    """Return the features, among inputs and targets, that a user's task fills; ("inputs",) if it has no examples.

    A declared feature may be missing (``required=False``), or have no text in any example: ``rekey`` from None leaves it empty,
    and then ``append_eos`` gives it an end.
    """
    for split in splits:
        data = user_examples(task, split, most_tokens)
        there = [name for name in TOKENS if name in task.output_features and name in data.element_spec]
        if len(there) < 2:
            return (*there,) or ("inputs",)
        found = {name: False for name in there}
        for example in data.take(PROBED).as_numpy_iterator():
            found |= {name: found[name] or has_text(task, name, example[name]) for name in there}
        if any(found.values()):
            return tuple(name for name in there if found[name])
    return ("inputs",)


def has_text(task: seqio.Task, feature: str, ids: np.ndarray) -> bool:
    """Return whether a feature of an example of a user's task has more than the token that ends it and padding."""
    vocabulary = task.output_features[feature].vocabulary
    return not np.isin(ids, [vocabulary.eos_id, vocabulary.pad_id]).all()


def mixture_vocabulary(config: ConfigDict, languages: tuple[str, ...]) -> Vocabulary:
    """Return the vocabulary that a user's mixture tokenises with.

    Raises:
      UserError: its tasks have different vocabularies, or the vocabulary is not of SentencePiece.
    """
    found = {}
    for task in _mixture(config).tasks:
        for feature in task.output_features.values():
            found[repr(feature.vocabulary)] = feature.vocabulary
    if len(found) != 1:
        raise UserError(f"the tasks of mixture {config.data.mixture!r} have {len(found)} vocabularies, one is needed")
    (vocabulary,) = found.values()
    if isinstance(vocabulary, SeqioVocabulary):
        return vocabulary.vocabulary
    if isinstance(vocabulary, seqio.SentencePieceVocabulary):
        return Vocabulary(vocabulary.sp_model, languages, config.vocabulary.sentinels)  # with seqio's own extra ids
    raise UserError(
        f"mixture {config.data.mixture!r} has a vocabulary of kind {type(vocabulary).__name__}",
        remedy="use a SentencePiece vocabulary",
    )


def check_mixture_vocabulary(config: ConfigDict, vocabulary: Vocabulary) -> None:
    """Check that a vocabulary encodes text as the vocabulary of a user's mixture does, on the text of many of its pieces.

    Raises:
      UserError: the encodings differ; the message names the task, a text and both encodings.
    """
    special = {*vocabulary.special_ids.tolist()}
    checked = []
    for task in _mixture(config).tasks:
        for theirs in (task.output_features[name].vocabulary for name in TOKENS if name in task.output_features):
            if theirs in checked or isinstance(theirs, seqio.PassThroughVocabulary):  # it has no text to compare
                continue
            checked.append(theirs)
            for index in range(0, theirs.vocab_size, max(theirs.vocab_size // PROBES, 1)):
                text = "" if index in special else theirs.decode([index])
                wanted, found = list(theirs.encode(text)), vocabulary.encode(text)
                if wanted != found:
                    key = "vocabulary.path" if config.vocabulary.path else "vocabulary.kind"
                    raise UserError(
                        f"{key}={config.vocabulary[key.partition('.')[2]]!r} is not the vocabulary of the seqio task "
                        f"{task.name!r}: {text!r} is {found} in it, {wanted} in the task",
                        remedy="leave vocabulary.path and vocabulary.kind out, which takes the mixture's own",
                    )


def room_for_text(config: ConfigDict, prefix: list[int]) -> int:
    """Return how many tokens of text fit into a document with its prefix and its end.

    Raises:
      UserError: no token fits.
    """
    room = config.data.max_document_tokens - len(prefix) - 1
    if room < 1:
        raise UserError(f"data.max_document_tokens={config.data.max_document_tokens} leaves no room for text")
    return room
