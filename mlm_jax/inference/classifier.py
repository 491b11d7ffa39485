"""Classification by the head of a trained task: of a text, or of each of its words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlm_jax import model as model_room
from mlm_jax.checkpoints.checkpoint import Loaded, load_parameters
from mlm_jax.common.errors import UserError, nearest
from mlm_jax.data.loading.batch import Rows
from mlm_jax.data.store.question_rows import OVERLAP, WINDOW, Window, windows
from mlm_jax.data.store.two_texts import joined
from mlm_jax.evaluation.answers import best_span
from mlm_jax.evaluation.embedding import document_batches, document_rows
from mlm_jax.inference.encoder import CUT, Model
from mlm_jax.objectives import objective_class
from mlm_jax.parallel.memory import Fitting

METHODS = {  # {kind of labels: method}
    "labelled": "classify",
    "multilabelled": "classes",
    "scored": "scores",
    "questions": "answers",
}
WHAT = {  # {method: description of its predictions}
    "classify": "a class of whole texts",
    "classes": "any number of classes of whole texts",
    "scores": "a number",
    "tag": "a class of each word",
    "answers": "where in a text the answer to a question stands",
}
CUT_WORD = ""  # label of a word that did not fit into the model


class Prediction(NamedTuple):
    """A class of a text or of a word.

    Attributes:
      label: the name of the class; "" for a word beyond the longest text that the model takes.
      probability: its probability.
    """

    label: str
    probability: float


class Answer(NamedTuple):
    """The likeliest answer to a question.

    Attributes:
      text: the text of the answer; "" if the question has none.
      probability: the probability of its start, multiplied by that of its end, in the window that it is from.
      start: index of its first character in the text.
      end: index after its last character.
    """

    text: str
    probability: float
    start: int
    end: int


def best_answer(
    text: str, read: Sequence[tuple[Window, np.ndarray]], prefix: int, no_answer: float | None = None
) -> Answer:
    """Return the best answer of all windows of a text.

    Args:
      text: that the question is about.
      read: (window, logits of its row ``[tokens, 2]``) of each.
      prefix: tokens of a row before the window's.
      no_answer: as in :meth:`Classifier.answers`.
    """
    best: tuple[float, Answer] = (-np.inf, Answer("", 0.0, 0, 0))
    none: tuple[float, Answer] = (np.inf, Answer("", 0.0, 0, 0))
    for window, logits in read:
        begin = prefix + window.before
        span = best_span(logits, begin, begin + len(window.spans))
        shares = np.exp(logits - logits.max(axis=0))
        shares /= shares.sum(axis=0)
        if span.score > best[0]:
            first, last = window.spans[span.start - begin], window.spans[span.end - begin]
            probability = float(shares[span.start, 0] * shares[span.end, 1])
            best = span.score, Answer(text[first[0] : last[1]].strip(), probability, first[0], last[1])
        if float(logits[0].sum()) < none[0]:
            none = float(logits[0].sum()), Answer("", float(shares[0].prod()), 0, 0)
    return none[1] if no_answer is not None and none[0] > best[0] + no_answer else best[1]


def load_classifier(checkpoint: str | Path, task: str = "") -> Classifier:
    """Load a classifier from a workdir or one of its checkpoints.

    Args:
      checkpoint: the path of the workdir or checkpoint.
      task: the task whose head is used; "" if only one task has a head.

    Raises:
      UserError: there is no checkpoint, no such task, or no task that classifies.
    """
    return Classifier(load_parameters(checkpoint), task, checkpoint)


class Classifier(Model):
    """A trained encoder with the head of a classification task, on this process's first device.

    Args:
      loaded: a checkpoint.
      task: the task whose head is used; "" if only one task has a head.
      checkpoint: the path of the checkpoint, for messages.

    Attributes:
      task: the task whose head is used.
      labels: names of its classes.
      by_word: whether words are classified instead of whole texts.
      kind: the kind of labels, one of ``METHODS``.

    Raises:
      UserError: there is no such task, or no task that classifies.
    """

    def __init__(self, loaded: Loaded, task: str = "", checkpoint: str | Path | None = None):
        super().__init__(loaded)
        known = tuple(loaded.labels)
        if not known:
            raise UserError(
                "this model has no classifier",
                file=checkpoint,
                remedy="train a task of an objective that learns from labels, such as classification",
            )
        if (task and task not in known) or (not task and len(known) > 1):
            problem = f"has no classifier {task!r}{nearest(task, known)}" if task else "has several classifiers"
            raise UserError(f"this model {problem}", file=checkpoint, remedy=f"give --task: one of {', '.join(known)}")
        self.task = task or known[0]
        self.labels = loaded.labels[self.task]
        objective = objective_class(self.config.tasks[self.task]["objective"], self.task)
        self.by_word, self.kind = objective.per_token, objective.kind
        self._predict = Fitting(jax.jit(self._predicted), "classifying")

    def _predicted(self, params: object, rows: Rows) -> tuple[jax.Array, jax.Array]:
        """Return the likeliest class and its probability; for tasks of several classes or a number, all outputs of the head."""
        model = model_room.merge(self.graphdef, params)
        hidden = model.encode(rows, task=self.task)  # [rows, length, width]
        logits = model.classify(self.task, hidden, rows.segment_ids, pooled=not self.by_word).astype(jnp.float32)
        if self.kind == "labelled":
            return logits.argmax(axis=-1), jax.nn.softmax(logits).max(axis=-1)
        return logits > 0, jax.nn.sigmoid(logits) if self.kind == "multilabelled" else logits

    def classify(
        self, texts: Sequence[str | tuple[str, str]], *, language: str | Sequence[str] | None = None
    ) -> list[Prediction]:
        """Return the class of each text, or pair of texts.

        Texts of more than ``longest`` tokens are cut, with a warning.

        Args:
          texts: any number, of any length.
          language: the language of all texts, or of each; None if the model has no language-specific parts.

        Raises:
          UserError: the task classifies words, or predicts several classes or a number; or for the reasons of :meth:`Model.embed`.
          TypeError: a single text was given.
        """
        return self._of_texts(self._classify, texts, language)

    def classes(
        self, texts: Sequence[str | tuple[str, str]], *, language: str | Sequence[str] | None = None
    ) -> list[tuple[Prediction, ...]]:
        """Return, for each text or pair of texts, all classes with a probability above ½.

        Args:
          texts: as in :meth:`classify`.
          language: as in :meth:`classify`.

        Raises:
          UserError: the task predicts one class or a number; or for the reasons of :meth:`Model.embed`.
          TypeError: a single text was given.
        """
        return self._of_texts(self._classes, texts, language)

    def scores(
        self, texts: Sequence[str | tuple[str, str]], *, language: str | Sequence[str] | None = None
    ) -> list[float]:
        """Return the number that the task predicts for each text, or pair of texts.

        Args:
          texts: as in :meth:`classify`.
          language: as in :meth:`classify`.

        Raises:
          UserError: the task predicts classes; or for the reasons of :meth:`Model.embed`.
          TypeError: a single text was given.
        """
        return self._of_texts(self._scores, texts, language)

    def answers(
        self,
        questions: Sequence[tuple[str, str]],
        *,
        language: str | Sequence[str] | None = None,
        no_answer: float | None = None,
    ) -> list[Answer]:
        """Return the likeliest answer to each question, in the text that is given with it.

        Long texts are read in overlapping windows, as in training.

        Args:
          questions: (question, text) pairs; the text must not be empty.
          language: as in :meth:`classify`.
          no_answer: a question gets the empty answer if the score of "no answer" (the row's first token, in the window in which
            it is lowest) is higher than the best span's by more than this, as in SQuAD 2.0; None: every question gets a span.

        Raises:
          UserError: the task does not answer questions; or for the reasons of :meth:`Model.embed`.
        """
        self._check("answers")
        codes = [language] * len(questions) if language is None or isinstance(language, str) else [*language]
        prefix = len(self.vocabulary.document_prefix(self.config.data.prefix, self.languages[0]))
        asked = [entry for entry in self.config.data.labelled.values() if entry.get("format") == "squad"]
        window = max((entry.get("window", WINDOW) for entry in asked), default=WINDOW)
        overlap = max((entry.get("overlap", OVERLAP) for entry in asked), default=OVERLAP)
        room = min(window, self.longest, self.config.tasks[self.task]["length"]) - 1 - prefix
        found = [[*windows(self.vocabulary, *both, room, overlap)] for both in questions]
        spread = [code for code, mine in zip(codes, found, strict=True) for _ in mine]
        ids = [window.ids for mine in found for window in mine]
        outputs = iter(self._predictions(ids, None if language is None else spread))  # type: ignore[arg-type]
        return [
            best_answer(text, [(window, next(outputs)[1]) for window in mine], prefix, no_answer)
            for (_, text), mine in zip(questions, found)
        ]

    def _of_texts(self, method: Any, texts: Sequence[Any], language: str | Sequence[str] | None) -> Any:
        if isinstance(texts, str):
            raise TypeError("this takes a sequence of texts; put a single one into a list")
        counts: Counter[str] = Counter()
        found = method(texts, language, counts)
        self._warn_of_cuts(counts)
        return found

    def _classify(
        self, texts: Sequence[str | tuple[str, str]], language: str | Sequence[str] | None, counts: Counter[str]
    ) -> list[Prediction]:
        self._check("classify")
        return [
            Prediction(self.labels[number[0]], float(probability[0]))
            for number, probability in self._predictions(self._encoded(texts, counts), language)
        ]

    def _classes(
        self, texts: Sequence[str | tuple[str, str]], language: str | Sequence[str] | None, counts: Counter[str]
    ) -> list[tuple[Prediction, ...]]:
        self._check("classes")
        return [
            tuple(
                Prediction(label, float(one)) for label, is_of, one in zip(self.labels, predicted, probability) if is_of
            )
            for predicted, probability in self._predictions(self._encoded(texts, counts), language)
        ]

    def _scores(
        self, texts: Sequence[str | tuple[str, str]], language: str | Sequence[str] | None, counts: Counter[str]
    ) -> list[float]:
        self._check("scores")
        return [float(found[0]) for _, found in self._predictions(self._encoded(texts, counts), language)]

    def _check(self, method: str) -> None:
        """Check that a method is the one for the task's kind of labels.

        Raises:
          UserError: another method is; the message names it.
        """
        right = "tag" if self.by_word and self.kind == "labelled" else METHODS[self.kind]
        if method != right:
            raise UserError(f"task {self.task!r} predicts {WHAT[right]}", remedy=f"use {right} instead of {method}")

    def _encoded(self, texts: Sequence[str | tuple[str, str]], counts: Counter[str]) -> list[list[int]]:
        pairs = [(text,) if isinstance(text, str) else text for text in texts]
        parts = iter(self.vocabulary.encode_batch([part for pair in pairs for part in pair]))
        return [self._joined([next(parts) for _ in pair], counts) for pair in pairs]

    def tag(
        self, sentences: Sequence[Sequence[str]], *, language: str | Sequence[str] | None = None
    ) -> list[list[Prediction]]:
        """Return the class of each word of each sentence, read at the word's first piece, as in training.

        Args:
          sentences: the words of each sentence.
          language: the language of all sentences, or of each; None if the model has no language-specific parts.

        Raises:
          UserError: the task classifies whole texts; or for the reasons of :meth:`Model.embed`.
          TypeError: a sentence is a text and not a sequence of words.
        """
        if isinstance(sentences, str) or any(isinstance(words, str) for words in sentences):
            raise TypeError("tag takes a sequence of sentences, each a sequence of words")
        counts: Counter[str] = Counter()
        found = self._tag(sentences, language, counts)
        self._warn_of_cuts(counts)
        return found

    def _tag(
        self, sentences: Sequence[Sequence[str]], language: str | Sequence[str] | None, counts: Counter[str]
    ) -> list[list[Prediction]]:
        self._check("tag")
        encoded, starts = zip(*map(self.vocabulary.encode_words, sentences)) if sentences else ((), ())
        found = []
        for ids, first, (numbers, probabilities) in zip(encoded, starts, self._predictions([*encoded], language)):
            counts[CUT] += len(ids) > len(numbers)
            found.append(
                [
                    Prediction(self.labels[numbers[start]], float(probabilities[start]))
                    if 0 <= start < len(numbers)
                    else Prediction(CUT_WORD, 0.0)
                    for start in first
                ]
            )
        return found

    def _joined(self, parts: list[list[int]], counts: Counter[str]) -> list[int]:
        """Return the ids of a text, or of two texts with an end token between them; of two, the longer one is cut."""
        room = self.longest - 1 - len(self.vocabulary.document_prefix(self.config.data.prefix, self.languages[0]))
        if len(parts) == 1:
            counts[CUT] += len(parts[0]) > room
            return parts[0]
        between = self.vocabulary.pair_separator
        counts[CUT] += sum(map(len, parts)) + len(between) > room
        return joined(parts[0], parts[1], between, room)

    def _predictions(
        self, encoded: list[list[int]], language: str | Sequence[str] | None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return class and probability of each text (``[1]``), or of each of its tokens (``[tokens]``), in order.

        For a task of several classes: whether the text has each class, and the probabilities, ``[classes]``. For questions: the
        logits of all tokens of the row, ``[row, 2]``, also of those around the text.
        """
        documents, index = self._documents(encoded, language)
        found: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0, int), np.zeros(0))] * len(documents)
        for batch in document_batches([len(document) for document in documents], self.longest):
            rows = document_rows(documents, index, batch, self.vocabulary.pad_id)
            numbers, probabilities = jax.device_get(self._predict(self.params, rows))
            for row, which in enumerate(batch.indices):
                first = len(documents[which]) - len(encoded[which]) - 1  # of the text's own tokens
                length = min(len(documents[which]), self.longest)
                whole = slice(length) if self.by_word else ...
                own = whole if self.kind == "questions" or not self.by_word else slice(first, length - 1)
                found[which] = (np.atleast_1d(numbers[row])[own], np.atleast_1d(probabilities[row])[own])
        return found
