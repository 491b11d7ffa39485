"""``conll``: one word with its label per line, and a blank line after each sentence (CoNLL, Universal NER, WikiANN)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlm_jax.common.errors import UserError
from mlm_jax.data.text.labelled_formats.example import Asked, Example
from mlm_jax.data.text.reading import lines

# The language code that WikiANN writes before every word ("simple" is Simple English); not the scheme of an address.
LANGUAGE_MARK = re.compile(r"([a-z]{2,3}(-[a-z]+)*|simple):(?!//)")
WORD_ID = re.compile(r"\d+")
NO_WORD_ID = re.compile(r"\d+[-.]\d+")  # in CoNLL-U, a multiword token (2-3) or an empty node (8.1)
CONLLU_COLUMNS, UNER_COLUMNS = 10, 5


def read(file: Path, asked: Asked) -> Iterator[tuple[int, Example]]:
    """Yield (number of its first line, sentence) of each sentence.

    The first column is the word and the last column its label. In Universal NER's format, with five columns between tabs, they are
    the second and the third column. Columns are separated by tabs, or else by spaces; other white space is part of a word. Comments
    begin with "# ", before the first word of a sentence. WikiANN's prefix "en:" is removed if every word of a sentence has it; a
    word that is only this prefix becomes "". CoNLL 2003's -DOCSTART- is not a sentence.

    Raises:
      UserError: a line has no word and label, or is CoNLL-U with ten columns.
    """
    words: list[str] = []
    labels: list[str] = []
    begun = 0
    size = 0
    for number, line in enumerate(lines(file, asked.most_bytes), 1):
        if not line.strip() or line.startswith("-DOCSTART-"):
            if words:
                yield begun, _sentence(words, labels)
            words, labels, size = [], [], 0
            continue
        if not words and (line.rstrip() == "#" or line.startswith("# ")):  # "#Obama B-PER" is a word
            continue
        columns = line.split("\t") if "\t" in line else [column for column in line.split(" ") if column]
        numbered = "\t" in line and len(columns) in (CONLLU_COLUMNS, UNER_COLUMNS)
        if numbered and NO_WORD_ID.fullmatch(columns[0]):
            continue
        if numbered and len(columns) == CONLLU_COLUMNS and WORD_ID.fullmatch(columns[0]):
            raise UserError(
                "ten columns of CoNLL-U, and the last one is not a label",
                file=file,
                line=number,
                remedy="keep the columns of the word and of its label, for example by cut -f2,4 for parts of speech",
            )
        is_uner = numbered and WORD_ID.fullmatch(columns[0]) is not None
        word, label = columns[1:3] if is_uner else (columns[0], columns[-1])
        if len(columns) < 2 or not word or not label:
            raise UserError(
                "no word and label on this line",
                file=file,
                line=number,
                remedy="write the word first and its label last, with a space or tab between",
            )
        begun = begun if words else number
        size += len(line)
        if size > asked.most_bytes:
            raise UserError(
                f"the sentence from line {begun} on has more than {asked.most_bytes:,} characters",
                file=file,
                line=number,
                remedy="end each sentence with a blank line",
            )
        words.append(word)
        labels.append(label)
    if words:
        yield begun, _sentence(words, labels)


def _sentence(words: Sequence[str], labels: Sequence[str]) -> Example:
    marks = [LANGUAGE_MARK.match(word) for word in words]
    one_code = all(marks) and len({mark[0] for mark in marks if mark}) == 1  # unlike times such as 12:30
    if one_code and any(mark.end() < len(word) for word, mark in zip(words, marks) if mark):
        words = [word[mark.end() :] for word, mark in zip(words, marks) if mark]
    return Example(tuple(words), tuple(labels))
