"""A trained encoder: fill in blanks and embed sentences.

import mlm_jax

model = mlm_jax.load("runs/demo")
model.fill_mask("Paris is the <mask> of France.", language="en")
model.embed(["Guten Morgen.", "Good morning."], language=["de", "en"])
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlm_jax import model as model_room
from mlm_jax.checkpoints.checkpoint import Loaded, check_arrays, load_parameters
from mlm_jax.common.errors import UserError, nearest
from mlm_jax.common.lines import EMPTY, windows
from mlm_jax.config.together import longest_row
from mlm_jax.data.vocabulary.pieces import MASK, WORD, Vocabulary
from mlm_jax.data.vocabulary.published import PublishedVocabulary
from mlm_jax.evaluation.embedding import document_batches, document_rows, embed_documents
from mlm_jax.evaluation.samples import piece_text, predict_pieces
from mlm_jax.model.sharing import by_language
from mlm_jax.objectives import task_that
from mlm_jax.parallel.memory import Fitting

WINDOW = 4096  # texts that are sorted by length at a time
CUT = "too long and cut"  # the name in counts of texts with more tokens than the model takes


class Candidate(NamedTuple):
    """A candidate for a blank.

    Attributes:
      token: the piece as text.
      probability: its probability among ordinary pieces.
      text: the whole text with this blank filled in; other blanks stay.
      id: the id of the piece.
    """

    token: str
    probability: float
    text: str
    id: int


def load(checkpoint: str | Path) -> Model:
    """Load a model from a workdir (its last complete checkpoint) or from one of its checkpoints.

    Raises:
      UserError: there is no checkpoint, or it is damaged.
    """
    return Model(load_parameters(checkpoint))


class Model:
    """A trained encoder with its vocabulary, on this process's first device.

    Attributes:
      config: the config of the run that trained it.
      vocabulary: its vocabulary.
      languages: the valid values of ``language``.
      width: the width of an embedding.
      longest: the largest number of tokens of a text.
      step: the step of the run at which the parameters were saved.
      params: the model's parameters.
      graphdef: the model without its parameters.
    """

    def __init__(self, loaded: Loaded):
        self.config, self.vocabulary, self.languages = loaded.config, loaded.vocabulary, loaded.languages
        self.config.model.attention = "auto"  # the best kernel of this machine, not that of the training machine
        self.params, self.step = loaded.params, loaded.step
        self.width = int(self.config.model.width)
        self.longest = longest_row(self.config.model)
        self.graphdef, described, _ = model_room.abstract(
            self.config,
            vocabulary_size=self.vocabulary.size,
            languages=self.languages,
            labels={task: len(names) for task, names in loaded.labels.items()},
        )
        check_arrays(loaded, described)
        special = self.vocabulary.is_special
        by_sentence = task_that("embeds", self.config.tasks)
        by_piece = task_that("masks", self.config.tasks)
        embed = jax.jit(
            lambda params, rows: model_room.merge(self.graphdef, params).sentence_embeddings(rows, task=by_sentence)
        )
        self._embed = Fitting(embed, "embedding")
        predict = jax.jit(
            lambda params, rows, positions, top_k: predict_pieces(
                model_room.merge(self.graphdef, params), rows, positions, jnp.asarray(special), top_k, by_piece
            ),
            static_argnums=3,
        )
        self._predict = Fitting(predict, "filling blanks in")

    def embed(self, texts: Sequence[str], *, language: str | Sequence[str] | None = None) -> np.ndarray:
        """Return ``[texts, width]`` float32 sentence embeddings: means over each text's hidden states.

        Texts of more than ``longest`` tokens are cut, with a warning.

        Args:
          texts: any number of texts of any length; they are batched by length.
          language: the language of all texts, or of each; None if the model has no language-specific parts.

        Raises:
          UserError: the model needs a language and none was given, or the language is unknown.
        """
        if isinstance(texts, str):
            raise TypeError("embed takes a sequence of texts; put a single one into a list")
        counts: Counter[str] = Counter()
        embedded = self._embed_window(texts, language, counts)
        self._warn_of_cuts(counts)
        return embedded

    def _embed_window(
        self, texts: Sequence[str], language: str | Sequence[str] | None, counts: Counter[str]
    ) -> np.ndarray:
        if not len(texts):
            return np.zeros((0, self.width), np.float32)
        documents, index = self._documents(self.vocabulary.encode_batch(list(texts)), language)
        counts[CUT] += sum(len(document) > self.longest for document in documents)
        return embed_documents(
            lambda rows: jax.device_get(self._embed(self.params, rows)),
            documents,
            index,
            longest=self.longest,
            pad_id=self.vocabulary.pad_id,
        )

    def embed_stream(
        self, texts: Iterable[str], *, language: str | None = None, counts: Counter[str] | None = None
    ) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield (texts, embeddings) of a stream, some thousand texts at a time; memory does not grow with the stream.

        Args:
          texts: any number, of any length; lines from a terminal or pipe are processed as they arrive, without a full window.
          language: the language of all texts; None if the model has no language-specific parts.
          counts: the number of texts that were cut is added under ``CUT``; without it, a warning is logged at the end.

        Raises:
          UserError: for the reasons of :meth:`embed`.
        """
        counted = Counter[str]() if counts is None else counts
        for window in windows(texts, WINDOW):
            yield window, self._embed_window(window, language, counted)
        if counts is None:
            self._warn_of_cuts(counted)

    def warn_of_counts(self, counts: Counter[str]) -> None:
        """Print on standard error the numbers of cut texts and of empty lines, if there are any."""
        if counts[CUT]:
            print(self.cut_notice(counts), file=sys.stderr)
        if counts[EMPTY]:
            print(f"{counts[EMPTY]:,} lines are empty", file=sys.stderr)

    def cut_notice(self, counts: Counter[str]) -> str:
        """Return a sentence with the number of texts that were cut."""
        return f"{counts[CUT]:,} texts are longer than {self.longest} tokens and were cut"

    def _warn_of_cuts(self, counts: Counter[str]) -> None:
        """Warn that texts were cut, with the position of the caller's caller."""
        if counts[CUT]:
            warnings.warn(self.cut_notice(counts), stacklevel=3)

    def fill_mask(self, text: str, *, top_k: int = 5, language: str | None = None) -> list[list[Candidate]]:
        """Return the likeliest pieces for each ``<mask>`` of a text, the likeliest first.

        Args:
          text: a text with one ``<mask>`` or more.
          top_k: number of candidates for each blank.
          language: the language of the text; None if the model has no language-specific parts.

        Returns:
          a list of ``top_k`` candidates for each blank, in the order of the blanks.

        Raises:
          UserError: there is no ``<mask>`` in the text or in the vocabulary, the text is too long, or the model needs a
            language.
        """
        if not text.strip():
            raise UserError("there is no text", remedy=f"write {MASK} where a word is missing")
        return next(self.fill_masks([text], top_k=top_k, language=language))

    def fill_masks(
        self, texts: Iterable[str], *, top_k: int = 5, language: str | None = None
    ) -> Iterator[list[list[Candidate]]]:
        """Yield the result of :meth:`fill_mask` for each text of a stream, in order; [] for a text of only white space.

        Raises:
          UserError: for the reasons of :meth:`fill_mask` (the message names the text), or ``top_k`` is less than 1.
        """
        if top_k < 1:
            raise UserError(f"there are no {top_k} candidates to show", remedy="give top_k= or --top a number from 1")
        if self.vocabulary.mask_id < 0:
            raise UserError(
                "the vocabulary of this model has no mask to fill in",
                remedy="take a model of masked language modelling",
            )
        number = 0
        for window in windows(texts, WINDOW):
            written = [text for text in window if text.strip()]
            documents, index = self._documents([encode_masked(self.vocabulary, text) for text in written], language)
            lengths = iter(map(len, documents))
            for text in window:
                number += 1
                if not text.strip():
                    continue
                if MASK not in text:
                    raise UserError(
                        f"text {number} has no {MASK}: {text[:60]!r}", remedy=f"write {MASK} where a word is missing"
                    )
                if (length := next(lengths)) > self.longest:
                    raise UserError(
                        f"text {number} has {length} tokens, the model takes {self.longest}", remedy="shorten it"
                    )
            filled = iter(self._fill(documents, index, top_k) if written else ())
            yield from (next(filled) if text.strip() else [] for text in window)

    def _fill(self, documents: list[np.ndarray], index: list[int], top_k: int) -> list[list[list[Candidate]]]:
        blanks = [np.flatnonzero(document == self.vocabulary.mask_id) for document in documents]
        width = 1 << (max(map(len, blanks)) - 1).bit_length()  # few shapes to compile
        top_k = min(top_k, self.vocabulary.size - len(self.vocabulary.special_ids))
        filled: list[list[list[Candidate]]] = [[] for _ in documents]
        for batch in document_batches([len(document) for document in documents], self.longest):
            positions = np.zeros((batch.rows, width), np.int32)
            for row, which in enumerate(batch.indices):
                positions[row, : len(blanks[which])] = blanks[which]
            rows = document_rows(documents, index, batch, self.vocabulary.pad_id)
            pieces, probabilities = jax.device_get(self._predict(self.params, rows, positions, top_k))
            for row, which in enumerate(batch.indices):
                filled[which] = [
                    [
                        self._candidate(documents[which], position, *found)
                        for found in zip(pieces[row, n], probabilities[row, n])
                    ]
                    for n, position in enumerate(blanks[which])
                ]
        return filled

    def _candidate(self, document: np.ndarray, position: int, piece: int, probability: float) -> Candidate:
        ids = document.copy()
        ids[position] = piece
        mask = self.vocabulary.mask_id
        edges = [-1, *np.flatnonzero(ids == mask).tolist(), len(ids)]
        parts = [self.vocabulary.decode(ids[start + 1 : stop].tolist()) for start, stop in zip(edges, edges[1:])]
        text = MASK.join(parts) if self.vocabulary.is_bytes else f" {MASK} ".join(part.strip() for part in parts)
        return Candidate(piece_text(self.vocabulary, piece), float(probability), text.strip(), int(piece))

    def _documents(
        self, encoded: list[list[int]], language: str | Sequence[str] | None, option: str = "language= or --language"
    ) -> tuple[list[np.ndarray], list[int]]:
        """Return documents in the form of the training data, and the index of each one's language.

        ``option`` names the argument for the language in messages.
        """
        codes = [language] * len(encoded) if language is None or isinstance(language, str) else list(language)
        if len(codes) != len(encoded):
            raise UserError(f"{len(codes)} languages were given for {len(encoded)} texts")
        index = {code: self._language_index(code, option) for code in dict.fromkeys(codes)}
        prefixes = {
            code: self.vocabulary.document_prefix(self.config.data.prefix, self.languages[number])
            for code, number in index.items()
        }
        documents = [
            np.array([*prefixes[code], *ids, self.vocabulary.eos_id], np.int32) for code, ids in zip(codes, encoded)
        ]
        return documents, [index[code] for code in codes]

    def _language_index(self, code: str | None, option: str) -> int:
        if code is None:
            if len(self.languages) > 1 and self.needs_language:
                raise UserError(
                    "this model has language-specific parts, so the language of the text is required",
                    remedy=f"give {option}: one of {', '.join(self.languages)}",
                )
            return 0
        if code not in self.languages:
            raise UserError(
                f"the model does not know the language {code!r}{nearest(code, self.languages)}",
                remedy=f"its languages are {', '.join(self.languages)}",
            )
        return self.languages.index(code)

    @property
    def needs_language(self) -> bool:
        """Whether the model depends on the language of the text: by a first token, an embedding, or weights."""
        return (
            self.config.data.prefix == "language"
            or self.config.model.language_embedding
            or by_language(self.config.model.encoder)
        )


def encode_masked(vocabulary: Vocabulary, text: str) -> list[int]:
    """Return token ids of a text in which ``<mask>`` is the mask piece.

    As in training, a mask stands for a piece with its leading space: the space before the mask is removed, and text directly
    after the mask continues the word. A published vocabulary has its own rules.
    """
    if isinstance(vocabulary, PublishedVocabulary):
        return vocabulary.encode_masked(text, MASK)
    ids: list[int] = []
    for number, part in enumerate(text.split(MASK)):
        if number:
            ids.append(vocabulary.mask_id)
        encoded = vocabulary.encode(part if vocabulary.is_bytes else part.strip()) if part.strip() else []
        if number and encoded and not part[0].isspace() and vocabulary.pieces(encoded[:1]) == [WORD]:
            encoded = encoded[1:]
        ids += encoded
    return ids
