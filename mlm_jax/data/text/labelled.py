"""Readers of labelled text: whole texts with a label (TSV, XNLI), and words with a label each (CoNLL, IOB2)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mlm_jax.common.errors import UserError, nearest
from mlm_jax.data.text.corpora import BLANK, corpus_function, files, lines

# WikiANN's, before every word ("simple" is its code of Simple English); an address has none.
LANGUAGE_MARK = re.compile(r"([a-z]{2,3}(-[a-z]+)*|simple):(?!//)")
CONTRADICTION = {"contradictory": "contradiction"}  # as XNLI's training file spells what its other files call otherwise


class Example(NamedTuple):
    """A labelled example.

    Attributes:
      texts: the text, or the two texts of a pair, or the words of a sentence.
      labels: one label, or one for each word.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]


def is_per_word(entry: dict[str, Any]) -> bool:
    """Return whether a labelled set has a label for each word."""
    return entry["format"] == "conll"


def examples(entry: dict[str, Any], split: str, skipped: Counter[str] | None = None) -> Iterator[Example]:
    """Yield the examples of one split of a labelled set, an entry of ``config.data.labelled``.

    Args:
      entry: {"format", "language", "train", "validation", "labels"}.
      split: train | validation.
      skipped: {reason: lines left out}, added to.

    Raises:
      UserError: a malformed line (with its file and number), or a label that the set does not have.
    """
    if split not in entry:
        return
    known = tuple(entry.get("labels", ()))
    if entry["format"] == "function":
        for text, label in corpus_function(entry[split])(entry["language"], split):
            _check(known, (label,), entry[split], None)
            yield Example((text,), (label,))
        return
    readers: dict[str, Callable[[Path], Iterator[tuple[int, Example]]]] = {
        "tsv": _tsv, "xnli": partial(_xnli, language=entry["language"]), "conll": _conll,
    }  # fmt: skip
    endings = {"tsv": (".tsv", ".txt"), "xnli": (".tsv", ".txt"), "conll": (".conll", ".iob2", ".txt", ".tsv")}[entry["format"]]
    for file in files(entry[split], endings):
        for number, example in readers[entry["format"]](file):
            if not example.texts:
                if skipped is not None:
                    skipped[BLANK] += 1
                continue
            _check(known, example.labels, file, number)
            yield example


def label_names(entry: dict[str, Any]) -> tuple[str, ...]:
    """Return the labels of a set: those the config lists, else those of its training split, sorted."""
    if entry.get("labels"):
        return tuple(entry["labels"])
    split = "train" if "train" in entry else "validation"
    return tuple(sorted({label for example in examples(entry, split) for label in example.labels}))


def _check(known: Sequence[str], labels: Sequence[str], file: Any, number: int | None) -> None:
    for label in labels:
        if known and label not in known:
            raise UserError(f"label {label!r} is not one of {', '.join(known)}{nearest(label, known)}", file=file, line=number,
                            remedy="mend the line, or the set's labels in config.data.labelled")  # fmt: skip


def _tsv(file: Path) -> Iterator[tuple[int, Example]]:
    for number, line in enumerate(lines(file), 1):
        if not line.strip():
            yield number, Example((), ())  # to be counted
            continue
        columns = line.split("\t")
        if len(columns) not in (2, 3) or not all(column.strip() for column in columns):
            raise UserError("not 'text<TAB>label' or 'text<TAB>text<TAB>label'", file=file, line=number,
                            remedy="separate text and label by one tab")  # fmt: skip
        yield number, Example(tuple(columns[:-1]), (columns[-1].strip(),))


def _xnli(file: Path, language: str) -> Iterator[tuple[int, Example]]:
    """XNLI's TSV: a header that names the columns sentence1, sentence2 (or premise, hypo) and gold_label (or label).

    Where it names a column "language" too, as in XNLI's own files of fifteen languages, only that language's lines are read.
    """
    header: list[str] = []
    others: dict[str, None] = {}
    read = 0
    for number, line in enumerate(lines(file), 1):
        columns = line.split("\t")
        if not header:
            header = columns
            wanted = (("sentence1", "premise"), ("sentence2", "hypo", "hypothesis"), ("gold_label", "label"))
            names = [next((name for name in options if name in header), None) for options in wanted]
            if None in names:
                raise UserError(f"the header has no premise, hypothesis and label, only {', '.join(header)}", file=file, line=1,
                                remedy="see XNLI's files")  # fmt: skip
            places = [header.index(name) for name in names if name]
            spoken = header.index("language") if "language" in header else None
            continue
        if len(columns) <= max(*places, spoken or 0):
            raise UserError(f"{len(columns)} columns where the header has {len(header)}", file=file, line=number,
                            remedy="separate columns by one tab, without quotes")  # fmt: skip
        if spoken is not None and columns[spoken] != language:
            others[columns[spoken]] = None
            continue
        first, second, label = (columns[place] for place in places)
        if not (first.strip() and second.strip() and label.strip()):
            raise UserError("premise, hypothesis or label is empty", file=file, line=number, remedy="leave the line out")
        read += 1
        yield number, Example((first, second), (CONTRADICTION.get(label, label),))
    if others and not read:
        raise UserError(f"no line is in {language!r}, only {', '.join(others)}{nearest(language, [*others])}", file=file)


def _conll(file: Path) -> Iterator[tuple[int, Example]]:
    """CoNLL and UNER: a word a line with its label, blank lines between sentences, before each of them comments with "# ".

    The word is the first column and the label the last; of UNER's five columns with tabs they are the second and the third.
    WikiANN's "en:" is taken off where every word of a sentence has it; a word that is nothing else becomes "". CoNLL 2003's
    -DOCSTART- is no sentence.
    """
    words: list[str] = []
    labels: list[str] = []
    begun = 0
    for number, line in enumerate(lines(file), 1):
        if not line.strip() or line.startswith("-DOCSTART-"):
            if words:
                yield begun, _sentence(words, labels)
            words, labels = [], []
            continue
        columns = line.split("\t") if "\t" in line else line.split()
        if not words and "\t" not in line and (line.rstrip() == "#" or line.startswith("# ")):  # "#Obama B-PER" is a word
            continue
        uner = "\t" in line and len(columns) == 5 and columns[0].isdigit()
        word, label = columns[1:3] if uner else (columns[0], columns[-1])
        if len(columns) < 2 or not word or not label:
            raise UserError("no word and label on this line", file=file, line=number,
                            remedy="write the word first and its label last, with a space or tab between")  # fmt: skip
        begun = begun if words else number
        words.append(word)
        labels.append(label)
    if words:
        yield begun, _sentence(words, labels)


def _sentence(words: Sequence[str], labels: Sequence[str]) -> Example:
    marks = [LANGUAGE_MARK.match(word) for word in words]
    one_code = all(marks) and len({mark[0] for mark in marks if mark}) == 1  # a time such as 12:30 is no mark
    if one_code and any(mark.end() < len(word) for word, mark in zip(words, marks) if mark):
        words = [word[mark.end() :] for word, mark in zip(words, marks) if mark]
    return Example(tuple(words), tuple(labels))
