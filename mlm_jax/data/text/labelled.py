"""Labelled text: texts with a class, several classes or a number; words with a class each; questions with answers.

A new format is one module in ``labelled_formats`` and one row of :data:`FORMATS`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mlm_jax.common.errors import UserError, nearest
from mlm_jax.config.values import BadValue
from mlm_jax.data.text.labelled_formats import conll, function, squad, tsv, xnli
from mlm_jax.data.text.labelled_formats.example import Asked, Example
from mlm_jax.data.text.reading import MOST_BYTES
from mlm_jax.data.text.sources import files

__all__ = ["FORMATS", "OUTPUTS", "Example", "check_formats", "examples", "is_per_word", "kind_of", "label_names"]


class Format(NamedTuple):
    """A format of labelled sets.

    Attributes:
      read: reads a file, or another source, and yields (line or None, example).
      endings: endings of its files; () if the source is not a file.
      per_word: whether each word has a label.
      questions: whether examples are questions about a text.
    """

    read: Callable[[Any, Asked], Iterator[tuple[int | None, Example]]]
    endings: tuple[str, ...]
    per_word: bool = False
    questions: bool = False


FORMATS = {
    "tsv": Format(tsv.read, (".tsv", ".txt")),
    "xnli": Format(xnli.read, (".tsv", ".txt")),
    "conll": Format(conll.read, (".conll", ".conllu", ".iob2", ".txt", ".tsv"), per_word=True),
    "squad": Format(squad.read, (".json",), questions=True),
    "function": Format(function.read, ()),
}


STORED = {"class": "labelled", "classes": "multilabelled", "number": "scored"}  # {kind of label: kind of stream}
# {kind of stream without classes: names of what a model predicts}
OUTPUTS = {"scored": ("score",), "questions": ("start", "end")}


def check_formats(entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that the formats of the sets in ``config.data.labelled`` exist and can have labels of the set's kind.

    Raises:
      BadValue: a format does not exist or cannot.
    """
    for name, entry in entries.items():
        if entry["format"] not in FORMATS:
            key = f"data.labelled.{name}.format"
            raise BadValue(
                key,
                f"{key} is {entry['format']!r}{nearest(str(entry['format']), FORMATS)}",
                f"use one of {', '.join(FORMATS)}",
            )
        kind = entry.get("kind", "class")
        of_questions = kind_of(entry) == "questions"
        if (is_per_word(entry) or of_questions) and "kind" in entry:
            key, what = f"data.labelled.{name}.kind", "questions" if of_questions else "a class for each word"
            raise BadValue(key, f"{key} is {kind!r}, but the format {entry['format']} has {what}", "leave it out")
        if kind_of(entry) in OUTPUTS and entry.get("labels"):
            key, what = f"data.labelled.{name}.labels", "questions have" if of_questions else "kind='number' has"
            raise BadValue(key, f"{key} lists classes, but {what} no classes", "leave it out")
        for option in ("window", "overlap"):
            if option in entry and not of_questions:
                key = f"data.labelled.{name}.{option}"
                raise BadValue(
                    key, f"{key} is for questions, but the format {entry['format']} has none", "leave it out"
                )


def kind_of(entry: Mapping[str, Any]) -> str:
    """Return the kind of stream in which a labelled set is stored, one of :data:`.WITH_LABELS`."""
    return "questions" if FORMATS[entry["format"]].questions else STORED[entry.get("kind", "class")]


def is_per_word(entry: Mapping[str, Any]) -> bool:
    """Return whether a labelled set has a label for each word."""
    return FORMATS[entry["format"]].per_word


def examples(
    entry: Mapping[str, Any], split: str, skipped: Counter[str] | None = None, most_bytes: int = MOST_BYTES
) -> Iterator[Example]:
    """Yield the examples of one split of a labelled set, an entry of ``config.data.labelled``.

    Args:
      entry: {"format", "language", "train", "validation", "labels"}.
      split: train | validation.
      skipped: {reason: number of lines left out}, added to.
      most_bytes: most bytes of a line or a text.

    Raises:
      UserError: a line is malformed (the message has its file and number), or its label is not one of the set's.
    """
    if split not in entry:
        return
    form, known = FORMATS[entry["format"]], tuple(entry.get("labels", ()))
    kind, counted = entry.get("kind", "class"), Counter() if skipped is None else skipped
    asked = Asked(entry["language"], split, known, kind, most_bytes, counted)
    for source in files(entry[split], form.endings) if form.endings else (entry[split],):
        for number, example in form.read(source, asked):
            if kind == "number":
                _check_number(example.labels, source, number)
            else:
                _check(known, example.labels, source, number)
            yield example


def label_names(entry: Mapping[str, Any], most_bytes: int = MOST_BYTES) -> tuple[str, ...]:
    """Return the labels of a set: those that the config lists, or else those of the training split, sorted."""
    if kind_of(entry) in OUTPUTS:
        return OUTPUTS[kind_of(entry)]
    if entry.get("labels"):
        return tuple(entry["labels"])
    split = "train" if "train" in entry else "validation"
    found = examples(entry, split, most_bytes=most_bytes)
    return tuple(sorted({label for example in found for label in example.labels}))


def _check_number(labels: Sequence[str], file: Any, number: int | None) -> None:
    try:
        is_finite = math.isfinite(float(labels[0]))
    except ValueError:
        is_finite = False
    if not is_finite:
        raise UserError(
            f"the label {labels[0]!r} is not a number", file=file, line=number, remedy="write a number, such as 4.5"
        )


def _check(known: Sequence[str], labels: Sequence[str], file: Any, number: int | None) -> None:
    for label in labels:
        if known and label not in known:
            raise UserError(
                f"label {label!r} is not one of {', '.join(known)}{nearest(label, known)}",
                file=file,
                line=number,
                remedy="correct the line, or the set's labels in config.data.labelled",
            )
