"""Answers to questions: the likeliest span of a text, and exact match and F1 as the scripts of SQuAD and MLQA compute them."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

LONGEST = 30  # tokens of an answer, as in the recipes of BERT
PUNCTUATION = frozenset(string.punctuation)
ARTICLES = {  # articles that MLQA's script removes; it has none for other languages
    "ar": re.compile("ال"),
    "de": re.compile(r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b"),
    "en": re.compile(r"\b(a|an|the)\b"),
    "es": re.compile(r"\b(un|una|unos|unas|el|la|los|las)\b"),
    "vi": re.compile(r"\b(của|là|cái|chiếc|những)\b"),
}
IDEOGRAPH = re.compile("([\u4e00-\u9fa5])")


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
      logits: ``[length, 2]``: logits of each token to be the first and the last token of the answer.
      first: the first token that may belong to an answer.
      stop: index after the last such token.
    """
    start, end = logits[first:stop, 0], logits[first:stop, 1]
    sums = start[:, None] + end[None]  # [tokens, tokens]
    distance = np.arange(len(end))[None] - np.arange(len(start))[:, None]
    sums = np.where((distance >= 0) & (distance < LONGEST), sums, -np.inf)
    best = int(sums.argmax())
    return Span(first + best // len(end), first + best % len(end), float(sums.flat[best]))


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
      found: (values that :func:`.question_rows.packed` kept, labels ``[tokens]``, logits ``[length, 2]``) of each window.
    """
    questions: dict[str, Question] = {}
    for facts, labels, logits in found:
        positions = np.flatnonzero(labels[1:] >= 0) + 1  # the first token stands for "no answer in this window"
        positions = positions[positions < len(logits)]
        if not len(positions):  # the row was cut before its text begins
            continue
        span = best_span(logits, int(positions[0]), int(positions[-1]) + 1)
        spans = facts["spans"]
        text = facts["text"][spans[span.start - positions[0]][0] : spans[span.end - positions[0]][1]].strip()
        none = float(logits[0].sum())
        before = questions.get(facts["id"])
        if before is not None:
            none = min(none, before.none)
            text, span = (
                (before.text, span._replace(score=before.score)) if before.score >= span.score else (text, span)
            )
        questions[facts["id"]] = Question(tuple(facts["answers"]), text, span.score, none)
    return questions


def answer_scores(questions: Sequence[Question], rules: str = "squad", language: str = "en") -> dict[str, float]:
    """Return shares {"exact_match": …, "f1": …}, as the scripts of SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018) or MLQA do.

    Args:
      questions: the questions, at least one.
      rules: squad | mlqa, see :func:`words_of`.
      language: the language of the answers.
    """
    found = scores_by_question(questions, rules, language)
    return {name: float(np.nanmean(values)) for name, values in found.items()}


def scores_by_question(
    questions: Sequence[Question], rules: str = "squad", language: str = "en"
) -> dict[str, np.ndarray]:
    """Return {"exact_match" | "f1": ``[questions]``}, as :func:`answer_scores`.

    If some questions have no answer, the prediction is "" if it scores higher than the best span; it is right if the
    question has no answer. Then there are also "has_answer_f1" and "no_answer_f1", which are NaN for the other questions.
    """
    answered = np.array([bool(question.answers) for question in questions])
    exact, f1 = [], []
    for question in questions:
        predicted = words_of(
            "" if not answered.all() and question.none > question.score else question.text, rules, language
        )
        right = [words_of(answer, rules, language) for answer in question.answers or ("",)]
        exact.append(max(float(predicted == answer) for answer in right))
        f1.append(max(token_f1(predicted, answer) for answer in right))
    scores = {"exact_match": np.array(exact), "f1": np.array(f1)}
    if not answered.all():
        split = {"has_answer_f1": answered, "no_answer_f1": ~answered}
        scores |= {name: np.where(mine, scores["f1"], np.nan) for name, mine in split.items() if mine.any()}
    return scores


def words_of(text: str, rules: str = "squad", language: str = "en") -> list[str]:
    """Return the words of an answer that are compared.

    Args:
      text: the text of the answer.
      rules: "squad": in lower case, without ASCII punctuation and English articles, for every language. "mlqa": without any
        punctuation and the articles of the language; each Chinese character is a word (Lewis et al. 2020).
      language: code of the answer's language, which only MLQA's rules use.
    """
    text = text.lower()
    if rules == "squad":
        return ARTICLES["en"].sub(" ", "".join(sign for sign in text if sign not in PUNCTUATION)).split()
    text = "".join(sign for sign in text if sign not in PUNCTUATION and unicodedata.category(sign)[0] != "P")
    code = re.split("[-_]", language.lower())[0]  # zh of zh-Hans
    if code in ARTICLES:
        text = ARTICLES[code].sub(" ", text)
    return (IDEOGRAPH.sub(r" \1 ", text) if code == "zh" else text).split()


def token_f1(predicted: Sequence[str], right: Sequence[str]) -> float:
    """Return F1 of the words that two answers share; if one answer is empty, 1 if both are, else 0."""
    if not predicted or not right:
        return float(predicted == right)
    common = sum((Counter(predicted) & Counter(right)).values())
    return 2 * common / (len(predicted) + len(right))
