"""Questions about a text as rows of the question and a window of the text; a long text gives several windows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlm_jax.data.text.labelled_formats.example import Answer, Question
from mlm_jax.data.vocabulary.pieces import Span, Vocabulary

# Tokens of a row, and tokens that neighbouring windows of a text share, as in recipes for SQuAD.
WINDOW, OVERLAP = 384, 128
# Labels of tokens at which an answer may begin or end. An answer of one token is START | END. Other tokens have −1.
CANDIDATE, START, END = 0, 1, 2


class Window(NamedTuple):
    """A row of a question and a part of its text.

    Attributes:
      ids: token ids of the row, without prefix and end of document.
      before: number of ids before the part of the text.
      first: index of the token of the text with which the part begins.
      spans: (start, end) in characters of the text, of each token of the part.
    """

    ids: list[int]
    before: int
    first: int
    spans: Sequence[Span]


def windows(vocabulary: Vocabulary, question: str, context: str, room: int, overlap: int) -> Iterator[Window]:
    """Yield the windows of a question and its text.

    Args:
      vocabulary: vocabulary of the token ids.
      question: the question, of which at most half of ``room`` is used.
      context: the text.
      room: tokens of a window, without prefix and end of document.
      overlap: tokens of the text that neighbouring windows share, at most half of a window's text.
    """
    between = vocabulary.pair_separator
    asked = vocabulary.encode(question)[: max((room - len(between)) // 2, 1)]
    ids, spans = vocabulary.encode_with_spans(context)
    size = max(room - len(asked) - len(between), 1)
    step = size - min(overlap, size // 2)
    for first in range(0, max(len(ids) - size, 0) + step, step):
        part = ids[first : first + size]
        if part and (not first or first + size - step < len(ids)):
            yield Window([*asked, *between, *part], len(asked) + len(between), first, spans[first : first + size])


def window_labels(window: Window, answers: Sequence[Answer]) -> list[int]:
    """Return the labels of a window's tokens, which mark the first answer if the window contains all of it.

    Args:
      window: the window.
      answers: answers to the question.
    """
    labels = [-1] * window.before + [CANDIDATE] * len(window.spans)
    if answers:
        start, end = answers[0].start, answers[0].start + len(answers[0].text)
        inside = [n for n, span in enumerate(window.spans) if span[0] < end and span[1] > start]
        whole = inside and window.spans[inside[0]][0] <= start and window.spans[inside[-1]][1] >= end
        if whole:
            labels[window.before + inside[0]] |= START
            labels[window.before + inside[-1]] |= END
    return labels


def packed(window: Window, question: Question, context: str) -> list[int]:
    """Return, as bytes of JSON, what scoring needs to know of a window besides its labels."""
    begin, end = window.spans[0][0], window.spans[-1][1]
    facts = {
        "id": question.id,
        "answers": [answer.text for answer in question.answers],
        "text": context[begin:end],
        "spans": [[a - begin, b - begin] for a, b in window.spans],
    }
    return [*json.dumps(facts, ensure_ascii=False).encode()]


def unpacked(values: np.ndarray) -> dict[str, Any]:
    """Return what :func:`packed` wrote."""
    return json.loads(bytes(values.astype(np.uint8)))
