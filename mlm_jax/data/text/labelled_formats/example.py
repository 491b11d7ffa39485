"""A labelled example, and what a reader of labelled text is asked for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from mlm_jax.data.text.reading import MOST_BYTES


class Answer(NamedTuple):
    """An answer that is a span of a text.

    Attributes:
      text: the answer.
      start: index of its first character in the text.
    """

    text: str
    start: int


class Question(NamedTuple):
    """Facts about a question.

    Attributes:
      id: identifier of the question.
      answers: all correct answers; () if the text contains none.
    """

    id: str
    answers: tuple[Answer, ...]


class Example(NamedTuple):
    """A labelled example.

    Attributes:
      texts: the text, or the two texts of a pair, or the words of a sentence.
      labels: one label, or one for each word; any number of labels in a set of kind ``classes``; the number, as text, in a set of
        kind ``number``.
      question: facts about the question; ``texts`` are then the question and the text that it is about.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    question: Question | None = None


@dataclass(frozen=True)
class Asked:
    """What a reader of a labelled set is asked for.

    Attributes:
      language: language of the set.
      split: train | validation; only functions use it.
      labels: labels that the set may have; () if the config lists none.
      kind: kind of label: class | classes | number.
      most_bytes: most bytes of a line or a text.
      skipped: {reason: number of lines left out}, added to.
    """

    language: str
    split: str
    labels: tuple[str, ...] = ()
    kind: str = "class"
    most_bytes: int = MOST_BYTES
    skipped: Counter[str] = field(default_factory=Counter)
