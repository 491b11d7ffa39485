"""Answers to questions: the likeliest span of a text, and exact match and F1 as SQuAD's own script computes them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

LONGEST = 30  # tokens of an answer, as in the recipes of BERT
ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


class Span(NamedTuple):
    """The likeliest answer in a row.

    Attributes:
      start: its first token.
      end: its last token.
      score: sum of the two tokens' logits.
    """

    start: int
    end: int
    score: float


def best_span(logits: np.ndarray, first: int, stop: int) -> Span:
    """Return the likeliest answer among some tokens of a row, of at most ``LONGEST`` tokens.

    Args:
      logits: ``[length, 2]``, of each token as the answer's first and as its last.
      first: first token that an answer may begin with.
      stop: one past the last.
    """
    start, end = logits[first:stop, 0], logits[first:stop, 1]
    sums = start[:, None] + end[None]  # [tokens, tokens]
    distance = np.arange(len(end))[None] - np.arange(len(start))[:, None]
    sums = np.where((distance >= 0) & (distance < LONGEST), sums, -np.inf)
    place = int(sums.argmax())
    return Span(first + place // len(end), first + place % len(end), float(sums.flat[place]))


class Question(NamedTuple):
    """A question with the best answer of all windows of its text.

    Attributes:
      answers: the right answers; () if the question has none.
      text: the text of the best span.
      score: the score of the best span.
      none: the lowest score of "no answer in this window" over the windows.
    """

    answers: tuple[str, ...]
    text: str
    score: float
    none: float


def join_windows(found: Iterable[tuple[dict[str, Any], np.ndarray, np.ndarray]]) -> dict[str, Question]:
    """Return {id: question} of windows.

    Args:
      found: (what :func:`.question_rows.packed` kept, labels ``[tokens]``, logits ``[length, 2]``) of each window.
    """
    questions: dict[str, Question] = {}
    for facts, labels, logits in found:
        places = np.flatnonzero(labels[1:] >= 0) + 1  # the first token stands for "no answer in this window"
        places = places[places < len(logits)]
        if not len(places):  # the row was cut before its text begins
            continue
        span = best_span(logits, int(places[0]), int(places[-1]) + 1)
        spans = facts["spans"]
        text = facts["text"][spans[span.start - places[0]][0] : spans[span.end - places[0]][1]].strip()
        none = float(logits[0].sum())
        before = questions.get(facts["id"])
        if before is not None:
            none = min(none, before.none)
            text, span = (
                (before.text, span._replace(score=before.score)) if before.score >= span.score else (text, span)
            )
        questions[facts["id"]] = Question(tuple(facts["answers"]), text, span.score, none)
    return questions


def answer_scores(questions: Sequence[Question]) -> dict[str, float]:
    """Return {"exact_match": …, "f1": …}, shares, as the scripts of SQuAD 1.1 and 2.0 do (Rajpurkar et al. 2016, 2018).

    Args:
      questions: at least one.
    """
    return {name: float(np.mean(values)) for name, values in scores_by_question(questions).items()}


def scores_by_question(questions: Sequence[Question]) -> dict[str, np.ndarray]:
    """Return {"exact_match" | "f1": ``[questions]``}.

    If some questions have no answer, the prediction is "" if it scores higher than the best span; it is right if the
    question has no answer.
    """
    unanswerable = any(not question.answers for question in questions)
    exact, f1 = [], []
    for question in questions:
        said = "" if unanswerable and question.none > question.score else question.text
        right = question.answers or ("",)
        exact.append(max(float(normalised(said) == normalised(answer)) for answer in right))
        f1.append(max(token_f1(said, answer) for answer in right))
    return {"exact_match": np.array(exact), "f1": np.array(f1)}


def normalised(text: str) -> str:
    """Return a text in lower case, without ASCII punctuation, English articles and doubled spaces, as SQuAD's script does."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def token_f1(said: str, right: str) -> float:
    """Return F1 of the words that two answers share; if one answer is empty, 1 if both are, else 0."""
    ours, theirs = normalised(said).split(), normalised(right).split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))
