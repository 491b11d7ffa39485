"""``mlm-jax align``: which word of a sentence belongs to which word of its translation."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mlm_jax import model as model_room
from mlm_jax.checkpoints.checkpoint import Loaded, load_parameters
from mlm_jax.common.errors import UserError
from mlm_jax.common.files import writing
from mlm_jax.common.lines import read_lines, windows
from mlm_jax.evaluation.alignment import (
    Alignment,
    Link,
    alignment_error_rate,
    draw_alignments,
    read_links,
    word_weights,
    words_of,
)
from mlm_jax.evaluation.embedding import document_batches, document_rows
from mlm_jax.inference.encoder import CUT, Model
from mlm_jax.inference.miner import pair_codes
from mlm_jax.objectives import first_task

EMPTY = "pairs have a side without words, and no links"
DRAWN = 8  # sentence pairs in a drawing


def load_aligner(place: str | Path) -> Aligner:
    """Load a model to align words with: a workdir or one of its checkpoints.

    Raises:
      UserError: there is no checkpoint, or its model has no cross-lingual attention.
    """
    return Aligner(load_parameters(place), place)


class Aligner(Model):
    """A trained encoder with cross-lingual attention, on this process's first device.

    Args:
      loaded: a checkpoint.
      place: where it was, for messages.

    Raises:
      UserError: the model has no cross-lingual attention.
    """

    def __init__(self, loaded: Loaded, place: str | Path | None = None):
        super().__init__(loaded)
        if not self.config.model.cross_lingual:
            raise UserError(
                "this model has no cross-lingual attention to align words by",
                file=place,
                remedy="train one with model.cross_lingual and a task of objective cross_attention_mlm",
            )
        task = first_task(self.config.tasks, "cross_attention_mlm")
        self._attend = jax.jit(
            lambda params, target, source: model_room.merge(self.graphdef, params).encode_with_source(
                target, source, task=task
            )[1]
        )

    def align(self, sources: Sequence[str], targets: Sequence[str], *, source_language: str | None = None,
              target_language: str | None = None) -> list[Alignment]:  # fmt: skip
        """Return how the words of each pair lie to each other; a model's words are what its vocabulary holds for words.

        Texts of more than ``longest`` tokens are cut, with a warning.

        Args:
          sources: sentences.
          targets: their translations, whose words look at the source's.
          source_language: of all sources; None if the model makes no difference.
          target_language: of all targets.

        Raises:
          UserError: there are not as many of both, or a language is unknown or missing.
        """
        counts: Counter[str] = Counter()
        aligned = self._align_window(sources, targets, source_language, target_language, counts)
        self._warn_of_cuts(counts)
        return aligned

    def _align_window(self, sources: Sequence[str], targets: Sequence[str], source_language: str | None,
                      target_language: str | None, counts: Counter[str]) -> list[Alignment]:  # fmt: skip
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


def align_command(place: str | Path, source: str, target: str, *, languages: str | None = None, gold: str = "",
                  draw: str = "") -> None:  # fmt: skip
    """Print the links of each line's words, "0-0 1-2" for source-target (Pharaoh's format), and AER against gold links.

    Args:
      place: a workdir or one of its checkpoints.
      source: a text file, a sentence a line.
      target: its translation, line by line.
      languages: of the two texts, such as "de-en"; None if the model makes no difference.
      gold: a file of lines such as "0-0 1p2" (p: possible only); the alignment error rate goes to standard error.
      draw: FILE.svg for a picture of the first pairs' attention.

    Raises:
      UserError: a file cannot be read or written, the files (gold links too) are not equally long, a gold link is of words that
        are not there, or as :func:`load_aligner`.
    """
    if draw and Path(draw).suffix != ".svg":
        raise UserError("alignments are drawn as .svg", file=draw, remedy="end --draw in .svg")
    links = list(_gold(gold)) if gold else []
    model, counts = load_aligner(place), Counter[str]()
    codes = pair_codes(languages, model)
    found: list[list[Link]] = []
    drawn: list[Alignment] = []
    sides = [(source, read_lines(source)), (target, read_lines(target)), *([(gold, links)] if gold else [])]
    for lines in _windows(sides):
        first, second = list(zip(*lines))[:2]
        aligned = model._align_window(first, second, codes[0], codes[1], counts)
        if gold:
            _check_links(gold, len(found) + 1, lines, aligned)
        for alignment in aligned:
            counts[EMPTY] += not (alignment.source and alignment.target)
            print(" ".join(f"{i}-{j}" for i, j in alignment.links))
            found.append(alignment.links)
            drawn += [alignment] if draw and len(drawn) < DRAWN else []
    if draw:
        with writing(draw) as file:
            file.write(draw_alignments(drawn))
    model.say_counts(counts)
    if counts[EMPTY]:
        print(f"{counts[EMPTY]:,} {EMPTY}", file=sys.stderr)
    if gold:
        sure, possible = [entry[0] for entry in links], [entry[1] for entry in links]
        print(f"alignment error rate {100 * alignment_error_rate(found, sure, possible):.1f} %", file=sys.stderr)


def _windows(sides: Sequence[tuple[str, Iterable[Any]]], size: int = 1024) -> Iterator[list[tuple[Any, ...]]]:
    """Yield what stands at the same line of several (file, lines), some lines at a time."""
    together = enumerate(itertools.zip_longest(*(lines for _, lines in sides)), start=1)
    for window in windows(together, size):
        for number, entries in window:
            for (file, _), entry in zip(sides, entries):
                if entry is None:
                    raise UserError(f"the file ends before line {number}, which another one has", file=file,
                                    remedy="give files of as many lines")  # fmt: skip
        yield [entries for _, entries in window]


def _check_links(gold: str, first: int, lines: Sequence[tuple[Any, ...]], aligned: Sequence[Alignment]) -> None:
    """Refuse gold links of words that are not there, however words are counted; ``first`` is the number of the first line."""
    for number, ((*texts, (_, possible)), alignment) in enumerate(zip(lines, aligned), start=first):
        # A text that was cut has fewer words to the model, and one without spaces between words has more.
        sizes = [max(len(text.split()), len(words)) for text, words in zip(texts, alignment[:2])]
        for i, j in sorted(possible):
            if i >= sizes[0] or j >= sizes[1]:
                raise UserError(f"the link {i}-{j} is of words that are not there: there are {sizes[0]} and {sizes[1]}", file=gold,
                                line=number, remedy="count words from 0")  # fmt: skip


def _gold(file: str) -> Iterator[tuple[set[Link], set[Link]]]:
    for number, line in enumerate(read_lines(file), start=1):
        try:
            yield read_links(line)
        except ValueError as error:
            raise UserError(str(error), file=file, line=number) from error
