"""``mlm-jax classify``: what class a text is of, or each of its words, by the head of a trained task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlm_jax import model as model_room
from mlm_jax.checkpoints.checkpoint import Loaded, load_parameters
from mlm_jax.common.errors import UserError, nearest
from mlm_jax.data.loading.batch import Rows
from mlm_jax.data.store.two_texts import joined
from mlm_jax.evaluation.embedding import document_batches, document_rows
from mlm_jax.inference.encoder import CUT, Model
from mlm_jax.objectives import objective_class

CUT_WORD = ""  # label of a word that did not fit into the model


class Prediction(NamedTuple):
    """The likeliest class of a text or of a word.

    Attributes:
      label: its name; "" for a word beyond the longest text that the model takes.
      probability: of it.
    """

    label: str
    probability: float


def load_classifier(place: str | Path, task: str = "") -> Classifier:
    """Load a model to classify with: a workdir or one of its checkpoints.

    Args:
      place: where it is.
      task: whose head to use; "" where there is one only.

    Raises:
      UserError: there is no checkpoint, no such task, or none that classifies.
    """
    return Classifier(load_parameters(place), task, place)


class Classifier(Model):
    """A trained encoder with the head of a classification task, on this process's first device.

    Args:
      loaded: a checkpoint.
      task: whose head to use; "" where there is one only.
      place: where the checkpoint was, for messages.

    Attributes:
      task: whose head it is.
      labels: names of its classes.
      by_word: whether words are classified, and not whole texts.

    Raises:
      UserError: there is no such task, or none that classifies.
    """

    def __init__(self, loaded: Loaded, task: str = "", place: str | Path | None = None):
        super().__init__(loaded)
        known = tuple(loaded.labels)
        if not known:
            raise UserError(
                "this model has no classifier",
                file=place,
                remedy="train a task of objective classification or token_classification",
            )
        if (task and task not in known) or (not task and len(known) > 1):
            problem = f"has no classifier {task!r}{nearest(task, known)}" if task else "has several classifiers"
            raise UserError(f"this model {problem}", file=place, remedy=f"give --task: one of {', '.join(known)}")
        self.task = task or known[0]
        self.labels = loaded.labels[self.task]
        self.by_word = objective_class(self.config.tasks[self.task]["objective"], self.task).per_token
        self._classes = jax.jit(self._likeliest)

    def _likeliest(self, params: object, rows: Rows) -> tuple[jax.Array, jax.Array]:
        model = model_room.merge(self.graphdef, params)
        hidden = model.encode(rows, task=self.task)  # [rows, length, width]
        logits = model.classify(self.task, hidden, rows.segment_ids, pooled=not self.by_word).astype(jnp.float32)
        return logits.argmax(axis=-1), jax.nn.softmax(logits).max(axis=-1)

    def classify(
        self, texts: Sequence[str | tuple[str, str]], *, language: str | Sequence[str] | None = None
    ) -> list[Prediction]:
        """Return the class of each text, or pair of texts.

        Texts of more than ``longest`` tokens are cut, with a warning.

        Args:
          texts: any number, of any length.
          language: of all texts, or of each; None if the model makes no difference.

        Raises:
          UserError: the task is of words; or as :meth:`Model.embed`.
          TypeError: a single text was given, or a single sentence.
        """
        if isinstance(texts, str):
            raise TypeError("classify takes a sequence of texts; put a single one into a list")
        counts: Counter[str] = Counter()
        found = self._classify(texts, language, counts)
        self._warn_of_cuts(counts)
        return found

    def _classify(
        self, texts: Sequence[str | tuple[str, str]], language: str | Sequence[str] | None, counts: Counter[str]
    ) -> list[Prediction]:
        if self.by_word:
            raise UserError(f"task {self.task!r} classifies words", remedy="use tag instead of classify")
        pairs = [(text,) if isinstance(text, str) else text for text in texts]
        parts = iter(self.vocabulary.encode_batch([part for pair in pairs for part in pair]))
        encoded = [self._joined([next(parts) for _ in pair], counts) for pair in pairs]
        return [
            Prediction(self.labels[number[0]], float(probability[0]))
            for number, probability in self._predictions(encoded, language)
        ]

    def tag(
        self, sentences: Sequence[Sequence[str]], *, language: str | Sequence[str] | None = None
    ) -> list[list[Prediction]]:
        """Return the class of each word of each sentence: of its first piece, as in training.

        Args:
          sentences: words of each.
          language: of all sentences, or of each; None if the model makes no difference.

        Raises:
          UserError: the task is of whole texts; or as :meth:`Model.embed`.
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
        if not self.by_word:
            raise UserError(f"task {self.task!r} classifies whole texts", remedy="use classify instead of tag")
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
        """Return the ids of a text, or of two with the end of the first between them; of two the longer one is cut."""
        if len(parts) == 1:
            return parts[0]
        room = self.longest - 1 - len(self.vocabulary.document_prefix(self.config.data.prefix, self.languages[0]))
        between = self.vocabulary.pair_separator
        counts[CUT] += sum(map(len, parts)) + len(between) > room
        return joined(parts[0], parts[1], between, room)

    def _predictions(
        self, encoded: list[list[int]], language: str | Sequence[str] | None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the class and its probability of each text ``[1]``, or of each of its tokens ``[tokens]``, in order."""
        documents, index = self._documents(encoded, language)
        found: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0, int), np.zeros(0))] * len(documents)
        for batch in document_batches([len(document) for document in documents], self.longest):
            rows = document_rows(documents, index, batch, self.vocabulary.pad_id)
            numbers, probabilities = jax.device_get(self._classes(self.params, rows))
            for row, which in enumerate(batch.indices):
                first = len(documents[which]) - len(encoded[which]) - 1  # of the text's own tokens
                own = slice(first, min(len(documents[which]), self.longest) - 1) if self.by_word else ...
                found[which] = (np.atleast_1d(numbers[row])[own], np.atleast_1d(probabilities[row])[own])
        return found
