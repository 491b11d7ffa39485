"""A labelled example, and what a reader of labelled text is asked for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from mlm_jax.data.text.reading import MOST_BYTES


class Answer(NamedTuple):
    """An answer that stands in a text.

    Attributes:
      text: of the answer.
      start: character of the text that it begins with.
    """

    text: str
    start: int


class Question(NamedTuple):
    """What is known of a question about a text.

    Attributes:
      id: of the question.
      answers: all right ones; () if the text holds none.
    """

    id: str
    answers: tuple[Answer, ...]


class Example(NamedTuple):
    """A labelled example.

    Attributes:
      texts: the text, or the two texts of a pair, or the words of a sentence.
      labels: one label, or one for each word; of a set of kind ``classes`` any number, of kind ``number`` the number as text.
      question: what is known of a question, whose texts are the question and the text that it is about.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    question: Question | None = None


@dataclass(frozen=True)
class Asked:
    """What a reader of a labelled set is asked for.

    Attributes:
      language: of the set.
      split: train | validation; only functions look at it.
      labels: that the set may have; () if the config lists none.
      kind: of label: class | classes | number.
      most_bytes: limit on one line or text.
      skipped: {reason: lines left out}, which readers add to.
    """

    language: str
    split: str
    labels: tuple[str, ...] = ()
    kind: str = "class"
    most_bytes: int = MOST_BYTES
    skipped: Counter[str] = field(default_factory=Counter)
