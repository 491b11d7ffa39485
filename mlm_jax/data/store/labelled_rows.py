"""Labelled examples as the store holds them: token ids, and labels as numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlm_jax.data.store.question_rows import CANDIDATE, END, OVERLAP, START, WINDOW, packed, window_labels, windows
from mlm_jax.data.store.two_texts import cut_longer, joined
from mlm_jax.data.text.labelled import Example
from mlm_jax.data.text.labelled_formats.example import Question
from mlm_jax.data.text.reading import BLANK, EMPTY_SIDE
from mlm_jax.data.vocabulary.pieces import Vocabulary

PIECELESS = "the label of a word without pieces, such as U+200B, is left out"
CUT = "cut: longer than data.max_document_tokens"


class Coder(NamedTuple):
    """Turns the examples of a labelled set into rows.

    Attributes:
      vocabulary: vocabulary of the token ids.
      prefix: ids before every text.
      content: most tokens of text in a row.
      numbers: {class: its number}.
      kind: kind of stream, one of :data:`.WITH_LABELS`.
      per_word: whether each word has a label.
      skipped: {reason: number of examples left out or cut}, added to.
      window: tokens of a row with a question.
      overlap: tokens that neighbouring windows of a text share.
    """

    vocabulary: Vocabulary
    prefix: list[int]
    content: int
    numbers: Mapping[str, int]
    kind: str
    per_word: bool
    skipped: Counter[str]
    window: int = WINDOW
    overlap: int = OVERLAP

    def rows(self, example: Example, split: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of an example: none if it has no tokens, several for a question about a long text.

        Args:
          example: the example.
          split: train | validation; only validation rows contain the answers' text, for scoring.
        """
        if example.question is not None:
            yield from self._windows(example, example.question, split == "validation")
            return
        found = self._words(example) if self.per_word else self._texts(example)
        if found is not None:
            ids, labels, text = found
            row = [*self.prefix, *ids, self.vocabulary.eos_id]
            yield {"inputs": row, "labels": labels, "characters": len(text), "bytes": len(text.encode())}

    def _windows(self, example: Example, question: Question, is_held_out: bool) -> Iterator[dict[str, Any]]:
        """Yield a question with each window of its text; the label of the first token means "no answer in this window"."""
        asked, context = example.texts
        room = min(self.window - len(self.prefix) - 1, self.content)
        if not (self.vocabulary.encode(asked) and self.vocabulary.encode(context)):
            self.skipped[BLANK] += 1
            return
        for window in windows(self.vocabulary, asked, context, room, self.overlap):
            labels = [-1] * len(self.prefix) + window_labels(window, question.answers) + [-1]
            labels[0] = CANDIDATE if START in labels or START | END in labels else START | END
            text = context[window.spans[0][0] : window.spans[-1][1]]
            yield {
                "inputs": [*self.prefix, *window.ids, self.vocabulary.eos_id],
                "labels": labels,
                "answers": packed(window, question, context) if is_held_out else [0],
                "characters": len(text),
                "bytes": len(text.encode()),
            }

    def _texts(self, example: Example) -> tuple[list[int], list[int], str] | None:
        """Return (ids, labels, the text without what was cut) of one or two texts; None if there are no tokens."""
        parts = self.vocabulary.encode_batch([*example.texts])
        pair = len(parts) == 2
        if not all(parts):
            self.skipped[EMPTY_SIDE if pair else BLANK] += 1
            return None
        between = self.vocabulary.pair_separator if pair else ()  # premise </s> hypothesis
        room = self.content - len(between)
        lengths = [len(part) for part in parts]
        text = " ".join(example.texts)
        if sum(lengths) > room:
            self.skipped[CUT] += 1
            kept = cut_longer(lengths[0], lengths[1], room) if pair else (room,)
            text = " ".join(self.vocabulary.decode(part[:most]) for part, most in zip(parts, kept))
        ids = joined(parts[0], parts[1], between, self.content) if pair else parts[0][:room]
        return ids, stored_labels(self.kind, example.labels, self.numbers), text

    def _words(self, example: Example) -> tuple[list[int], list[int], str] | None:
        """Return (ids, a label for each token, the text without what was cut) of the words of a sentence; None without tokens."""
        ids, starts = self.vocabulary.encode_words(example.texts)
        self.skipped[PIECELESS] += -1 in starts
        if not ids:
            self.skipped[BLANK] += 1
            return None
        labels = [-1] * len(ids)  # ignored, except at the first piece of a word
        for start, label in zip(starts, example.labels):
            if start >= 0:
                labels[start] = self.numbers[label]
        text = " ".join(example.texts)
        if len(ids) > self.content:
            self.skipped[CUT] += 1
            text = self.vocabulary.decode(ids[: self.content])
        return ids[: self.content], [-1] * len(self.prefix) + labels[: self.content] + [-1], text


def stored_labels(kind: str, labels: Sequence[str], numbers: Mapping[str, int]) -> list[int]:
    """Return the labels of a text as numbers.

    Args:
      kind: kind of stream: labelled | multilabelled | scored.
      labels: labels of the text.
      numbers: {class: its number}.
    """
    if kind == "scored":
        return np.array([float(labels[0])], np.float32).view(np.int32).tolist()
    if kind == "multilabelled":
        return [int(name in labels) for name in numbers]
    return [numbers[labels[0]]]
