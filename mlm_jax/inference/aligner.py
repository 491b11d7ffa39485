"""Word alignment: links between the words of a sentence and the words of its translation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from mlm_jax import model as model_room
from mlm_jax.checkpoints.checkpoint import Loaded, load_parameters
from mlm_jax.common.errors import UserError
from mlm_jax.evaluation.alignment import (
    Alignment,
    word_weights,
    words_of,
)
from mlm_jax.evaluation.embedding import document_batches, document_rows
from mlm_jax.inference.encoder import CUT, Model
from mlm_jax.objectives import objective_class
from mlm_jax.parallel.memory import Fitting

EMPTY = "pairs have a side without words, and no links"


def load_aligner(checkpoint: str | Path) -> Aligner:
    """Load a model for word alignment from a workdir or one of its checkpoints.

    Raises:
      UserError: there is no checkpoint, or its model has no cross-lingual attention.
    """
    return Aligner(load_parameters(checkpoint), checkpoint)


class Aligner(Model):
    """A trained encoder with cross-lingual attention, on this process's first device.

    Args:
      loaded: a checkpoint.
      checkpoint: the path of the checkpoint, for messages.

    Raises:
      UserError: the model has no cross-lingual attention.
    """

    def __init__(self, loaded: Loaded, checkpoint: str | Path | None = None):
        super().__init__(loaded)
        if not self.config.model.cross_lingual:
            raise UserError(
                "this model has no cross-lingual attention to align words by",
                file=checkpoint,
                remedy="train one with model.cross_lingual and a task of objective cross_attention_mlm",
            )
        tasks = {task: objective_class(entry["objective"], task) for task, entry in self.config.tasks.items()}
        task = next((task for task, kind in tasks.items() if kind.needs == "cross_lingual"), next(iter(tasks)))
        attend = jax.jit(
            lambda params, target, source: model_room.merge(self.graphdef, params).encode_with_source(
                target, source, task=task
            )[1]
        )
        self._attend = Fitting(attend, "aligning")

    def align(
        self,
        sources: Sequence[str],
        targets: Sequence[str],
        *,
        source_language: str | None = None,
        target_language: str | None = None,
    ) -> list[Alignment]:
        """Return the word alignment of each sentence pair; a word begins at each piece that the vocabulary marks as a start.

        Texts of more than ``longest`` tokens are cut, with a warning.

        Args:
          sources: sentences.
          targets: their translations, whose words attend to those of the sources.
          source_language: the source language of all sources; None if the model has no language-specific parts.
          target_language: the target language of all targets.

        Raises:
          UserError: the numbers of sources and targets differ, or a language is unknown or missing.
        """
        counts: Counter[str] = Counter()
        aligned = self.align_window(sources, targets, source_language, target_language, counts)
        self._warn_of_cuts(counts)
        return aligned

    def align_window(
        self,
        sources: Sequence[str],
        targets: Sequence[str],
        source_language: str | None,
        target_language: str | None,
        counts: Counter[str],
    ) -> list[Alignment]:
        """Align as :meth:`align` does, but count cut texts in ``counts`` instead of warning."""
        if len(sources) != len(targets):
            raise UserError(f"{len(sources)} sentences cannot be aligned with {len(targets)}")
        encode = self.vocabulary.encode_batch
        left, source_index = self._documents(encode(list(sources)), source_language, "source_language=")
        right, target_index = self._documents(encode(list(targets)), target_language, "target_language=")
        aligned: list[Alignment | None] = [None] * len(sources)
        lengths = [max(len(a), len(b)) for a, b in zip(left, right)]
        counts[CUT] += sum(len(document) > self.longest for document in (*left, *right))
        for batch in document_batches(lengths, self.longest):
            source = document_rows(left, source_index, batch, self.vocabulary.pad_id)
            target = document_rows(right, target_index, batch, self.vocabulary.pad_id)
            weights = jax.device_get(self._attend(self.params, target, source))
            for row, number in enumerate(batch.indices):
                aligned[number] = self._words(source.tokens[row], target.tokens[row], weights[row])
        return [alignment for alignment in aligned if alignment is not None]

    def _words(self, source: np.ndarray, target: np.ndarray, weights: np.ndarray) -> Alignment:
        numbers = [words_of(ids, self.vocabulary.word_starts, self.vocabulary.is_special) for ids in (source, target)]
        words = [
            tuple(self.vocabulary.decode(ids[number == word].tolist()) for word in range(number.max(initial=-1) + 1))
            for ids, number in zip((source, target), numbers)
        ]
        return Alignment(words[0], words[1], word_weights(weights, numbers[1], numbers[0]))
