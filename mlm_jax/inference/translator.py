"""Translation of texts or streams of texts with a trained encoder and decoder, batched by length."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mlm_jax import model as model_room
from mlm_jax.checkpoints.checkpoint import Loaded, load_parameters
from mlm_jax.common.errors import UserError, nearest
from mlm_jax.common.lines import windows
from mlm_jax.config.sources import named_sources
from mlm_jax.config.values import several
from mlm_jax.data.loading.batch import Rows
from mlm_jax.data.text.languages import pair_languages
from mlm_jax.data.vocabulary.pieces import WORD
from mlm_jax.evaluation.embedding import document_batches, document_rows
from mlm_jax.inference.encoder import CUT, Model
from mlm_jax.inference.search import Hypotheses, beam_search, greedy, repeat_rows, sample
from mlm_jax.model.sharing import by_language, indexes
from mlm_jax.objectives import objective_class, task_that
from mlm_jax.parallel.memory import Fitting
from mlm_jax.training.context import make_context

WINDOW = 1024  # texts of a stream that are sorted by length at a time
TOKENS = 16_384  # the largest size of a batch: texts · beams · tokens of the longest text


@dataclasses.dataclass(frozen=True)
class Search:
    """Settings of the search for a translation.

    Attributes:
      beams: number of hypotheses that are kept at each position; 1 is greedy search; sampling does not use it.
      count: number of translations of each text, at most ``beams`` unless they are sampled.
      length_penalty: α of the score Σ log P / lengthᵅ.
      temperature: above 0, translations are sampled instead of searched.
      top_k: sample among the k likeliest pieces; 0 means all pieces.
      top_p: sample among the likeliest pieces that make up this share of the probability.
      seed: the seed of the samples.
      length: the largest number of tokens of a translation; 0 means twice the tokens of the longest text of the batch, plus 16.
      stop: further pieces that end a translation, with or without a space before them; they stay in the translation.

    Raises:
      UserError: a value is invalid.
    """

    beams: int = 4
    count: int = 1
    length_penalty: float = 1.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    length: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.beams < 1 or self.count < 1 or self.top_k < 0 or self.length < 0:
            raise UserError("beams and n-best are numbers from 1, top-k and length from 0")
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature is {self.temperature}, not a number from 0")
        if not math.isfinite(self.length_penalty):
            raise UserError(f"length-penalty is {self.length_penalty}, not a number")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top-p is {self.top_p}, not a share above 0 and at most 1")
        if (self.top_k or self.top_p < 1) and not self.temperature:
            raise UserError(
                "top-k and top-p restrict draws, and nothing is drawn at temperature 0", remedy="add --temperature 1"
            )
        if self.count > self.beams and not self.temperature:
            raise UserError(
                f"{self.beams} beams cannot give {self.count} translations",
                remedy="raise --beams, or set --temperature",
            )

    @property
    def rows(self) -> int:
        """Number of rows that the decoder writes for each text."""
        return self.count if self.temperature else self.beams


class Hypothesis(NamedTuple):
    """A translation, as text and as token ids.

    Attributes:
      text: the translation.
      score: Σ log P / lengthᵅ in nats.
      ended: whether the translation ended before it reached the largest length.
      ids: its pieces, including the one that ends it.
    """

    text: str
    score: float
    ended: bool
    ids: tuple[int, ...]


class Translation(NamedTuple):
    """The translations of a text, the best first; no translations if the text is empty or has no pieces."""

    hypotheses: tuple[Hypothesis, ...]

    @property
    def text(self) -> str:
        """The best translation; "" for an empty text."""
        return self.hypotheses[0].text if self.hypotheses else ""


def written_languages(config: ConfigDict, languages: tuple[str, ...]) -> dict[str, list[str]]:
    """Return {language: tasks that train the decoder to write this language}, translation first.

    The result is {} if the config names no data, as that of an imported model.

    Args:
      config: the config of the run.
      languages: the language codes of the run.
    """
    data, written = config.data, {code: dict[str, None]() for code in languages}
    named = [source for entries in (data.corpora, data.parallel) for source in named_sources(entries)]
    streams = {name: one.of for one in named for name in (one.of, one.stream)} | dict(data.mixture_languages)
    writing = {
        task: kind for task, entry in config.tasks.items() if (kind := objective_class(entry["objective"], task)).writes
    }
    for task, kind in sorted(writing.items(), key=lambda item: item[1].kind != "pairs"):
        entry = config.tasks[task]
        for name in several(entry.get("data", ())) or streams:
            code = streams.get(name, name)
            pair = pair_languages(code, languages)[1 if entry.get("directions") == "forward" else 0 :]
            for one in pair if kind.kind == "pairs" else {code} & written.keys():
                written[one][task] = None
    return {code: [*tasks] for code, tasks in written.items() if tasks}


def load_translator(checkpoint: str | Path) -> Translator:
    """Load a translator from a workdir (its last complete checkpoint) or from one of its checkpoints.

    Raises:
      UserError: there is no checkpoint, it is damaged, or the model has no decoder.
    """
    return Translator(load_parameters(checkpoint), checkpoint)


class Translator(Model):
    """A trained encoder and decoder with their vocabulary, on this process's first device.

    Args:
      loaded: a checkpoint.
      checkpoint: the path of the checkpoint, for messages.
      task: the task whose weights are used, if weights are indexed by the task; "" means, for each language, the first task that
        trains the decoder to write it.

    Raises:
      UserError: the model has no decoder.
    """

    def __init__(self, loaded: Loaded, checkpoint: str | Path | None = None, task: str = ""):
        super().__init__(loaded)
        if not self.config.model.decoder:
            raise UserError(
                "this model has no decoder, and cannot translate",
                file=checkpoint,
                remedy="train one with layers in model.decoder and a task of objective translation",
            )
        self._context = make_context(self.vocabulary, self.languages, self.config)
        self._forbidden = self._context.special.copy()
        self._forbidden[self.vocabulary.eos_id] = False
        self._written = written_languages(self.config, self.languages)
        groups = (*self.config.model.encoder, *self.config.model.decoder)
        first = task_that("writes", self.config.tasks)
        by_task = not task and any("task" in indexes(entry) for entry in groups)
        self._task_of = {
            code: self._written.get(code, [first])[0] if by_task else task or first for code in self.languages
        }
        self._indexed = by_language(groups)
        run = jax.jit(self._search, static_argnames=("length", "search", "stop", "task"))
        self._run = Fitting(run, "translating")

    def translate(
        self,
        texts: Sequence[str],
        *,
        target_language: str | Sequence[str],
        source_language: str | Sequence[str] | None = None,
        search: Search = Search(),
    ) -> list[Translation]:
        """Translate any number of texts of any length; a batch may contain any languages.

        Texts of more tokens than the model takes are cut, with a warning.

        Args:
          texts: the texts to translate.
          target_language: the target language of all translations, or of each.
          source_language: the source language of all texts, or of each; None if the encoder has no language-specific parts.
          search: settings of the search.

        Raises:
          UserError: a language is unknown, no task has trained the decoder to write it, or the encoder needs the language of
            the texts.
        """
        counts: Counter[str] = Counter()
        if isinstance(texts, str):
            raise TypeError("translate takes a sequence of texts; put a single one into a list")
        translations = self._translate(texts, target_language, source_language, search, 0, counts)
        self._warn_of_cuts(counts)
        return translations

    def stream(
        self,
        texts: Iterable[str],
        *,
        target_language: str | Sequence[str],
        source_language: str | None = None,
        search: Search = Search(),
        counts: Counter[str] | None = None,
    ) -> Iterator[tuple[str, Translation]]:
        """Yield each text of a stream with its translation, in order; memory does not grow with the stream.

        Args:
          texts: the texts to translate; :func:`~mlm_jax.common.lines.arriving` lines are translated as they arrive, without
            waiting for a full window.
          target_language: the target language; if several are given, each text is translated into each of them, in their order.
          source_language: the source language of all texts; None if the encoder has no language-specific parts.
          search: settings of the search.
          counts: the number of texts that were cut is added under ``CUT``; without it, a warning is logged at the end.

        Raises:
          UserError: for the reasons of :meth:`translate`.
        """
        languages = [target_language] if isinstance(target_language, str) else list(target_language)
        first, counted = 0, Counter[str]() if counts is None else counts
        for window in windows(texts, WINDOW):
            repeated, cut = [text for text in window for _ in languages], Counter[str]()
            yield from zip(
                repeated, self._translate(repeated, languages * len(window), source_language, search, first, cut)
            )
            first += len(repeated)
            counted[CUT] += cut[CUT] // len(languages)
        if counts is None:
            self._warn_of_cuts(counted)

    def _translate(
        self,
        texts: Sequence[str],
        target_language: str | Sequence[str],
        source_language: str | Sequence[str] | None,
        search: Search,
        first: int,
        counts: Counter[str],
    ) -> list[Translation]:
        """Translate a window of texts; ``first`` is the index of its first text in the stream."""
        targets = [target_language] * len(texts) if isinstance(target_language, str) else list(target_language)
        if len(targets) != len(texts):
            raise UserError(f"{len(targets)} target languages were given for {len(texts)} texts")
        target_index = {code: self._target_index(code) for code in dict.fromkeys(targets)}
        if len(target_index) > 1 and not self.tells_targets_apart:
            raise UserError(
                f"this model would write the same into {', '.join(target_index)}: none of its weights depends on a language, "
                "and its texts do not begin with a language's token",
                remedy="name one language",
            )
        encoded = self.vocabulary.encode_batch(list(texts))
        documents, index = self._documents(encoded, source_language, "source_language= or --from")
        # A text such as U+200B alone has no pieces, while a space has byte pieces.
        filled = [number for number, (text, ids) in enumerate(zip(texts, encoded)) if text.strip() and ids]
        stop = (self.vocabulary.eos_id, *(piece for text in search.stop for piece in self._pieces_of(text)))
        counts[CUT] += sum(len(document) > self.longest for document in documents)
        translations = [Translation(())] * len(texts)
        for group, task in self._groups(filled, index, targets):
            lengths = [len(documents[number]) for number in group]
            for batch in document_batches(lengths, self.longest, tokens=max(TOKENS // search.rows, 1)):
                numbers = np.array(group)[batch.indices]
                batch = batch._replace(indices=numbers)
                target = np.zeros(batch.rows, np.int32)
                target[: len(numbers)] = [target_index[targets[number]] for number in numbers]
                rows = document_rows(documents, index, batch, self.vocabulary.pad_id)
                # Numbered within the stream, so that the samples of a text do not depend on the other texts of its batch.
                text_numbers = np.zeros(batch.rows, np.int32)
                text_numbers[: len(numbers)] = first + numbers
                length = min(search.length or 2 * batch.length + 16, self.longest)
                found = self._run(
                    self.params, rows, target, text_numbers, length=length, search=search, stop=stop, task=task
                )
                found = jax.device_get(found)
                for row, number in enumerate(numbers):
                    translations[number] = self._texts(found, row, stop)
        return translations

    @property
    def tells_targets_apart(self) -> bool:
        """Whether the output depends on the target language: by a first token, an embedding, or weights."""
        model = self.config.model
        groups = (*model.encoder, *model.decoder)
        return (
            self.config.data.prefix == "language"
            or model.language_embedding
            or by_language(groups)
            or any("task" in indexes(entry) for entry in groups)
        )

    def _target_index(self, code: str) -> int:
        index = self._language_index(code, "target_language= or --to")
        # If the run began with other weights, these may have been trained on languages that its config does not name.
        if self._written and code not in self._written and not self.config.checkpoint.init:
            raise UserError(
                f"no task of this model has trained its decoder to write {code!r}",
                remedy=f"translate into {', '.join(self._written)}, or train on pairs with {code}",
            )
        return index

    def _groups(
        self, filled: Sequence[int], index: Sequence[int], targets: Sequence[str]
    ) -> list[tuple[list[int], str]]:
        """Return groups of texts that may share a batch, each with the task whose weights are used.

        If languages have weights of their own, a group has texts of the same languages only: to gather weights for every row
        costs far more than fuller batches save.
        """
        groups: dict[tuple[Any, ...], list[int]] = {}
        for number in filled:
            languages = (int(index[number]), targets[number]) if self._indexed else ()
            groups.setdefault((self._task_of[targets[number]], *languages), []).append(number)
        return [(numbers, task) for (task, *_), numbers in groups.items()]

    def _pieces_of(self, text: str) -> list[int]:
        """Return the pieces that spell this text, with or without a space before it.

        Raises:
          UserError: there is no such piece.
        """
        pieces = self.vocabulary.pieces(range(self.vocabulary.size))
        found = [index for index, piece in enumerate(pieces) if piece in (text, WORD + text)]
        if not found:
            raise UserError(
                f"{text!r} is not a piece of the vocabulary, and cannot stop a translation{nearest(text, pieces)}",
                remedy="give a single piece, such as a full stop",
            )
        return found

    def _texts(self, found: Hypotheses, row: int, stop: tuple[int, ...]) -> Translation:
        """Turn a row's hypotheses into text, the best first."""
        order = np.argsort(-found.scores[row], kind="stable")
        hypotheses = []
        for index in order:
            tokens = found.tokens[row, index, : found.lengths[row, index]].tolist()
            if tokens:  # with a very small length there may be fewer than ``count`` different translations
                ended = tokens[-1] in stop
                score = float(found.scores[row, index])
                hypotheses.append(Hypothesis(self.vocabulary.decode(tokens), score, ended, tuple(tokens)))
        return Translation(tuple(hypotheses))

    def _search(
        self,
        params: Any,
        rows: Rows,
        target: jax.Array,
        text_numbers: jax.Array,
        *,
        length: int,
        search: Search,
        stop: tuple[int, ...],
        task: str,
    ) -> Hypotheses:
        """Encode the rows, and write one or several translations of each; scores are Σ log P / lengthᵅ."""
        model = model_room.merge(self.graphdef, params)
        # Indexed weights: all rows of a batch have the same languages (see _groups).
        which: dict[str, Any] = {"task": task, "same_language_rows": 0 if self._indexed else 1}
        memory = model.encode(rows, target_language=target, **which)  # [rows, source length, width]
        start = model.start_decoding(
            memory, rows.segment_ids, language=target, capacity=length, source_language=rows.language, **which
        )
        start = repeat_rows(start, search.rows)

        def step(written: Any, tokens: jax.Array, position: jax.Array) -> tuple[jax.Array, Any]:
            hidden, cache = model.decode_step(tokens, position, start._replace(written=written), **which)
            return model.logits(model.decoder_head(hidden)), cache.written

        starts = jnp.asarray(self._context.language_starts)[target]
        forbidden = self._forbidden & ~np.isin(np.arange(self.vocabulary.size), stop)
        active = (rows.segment_ids > 0).any(axis=1)  # the search does not wait for rows that only fill the batch
        options: dict[str, Any] = {
            "length": length,
            "stop": stop,
            "pad_id": self.vocabulary.pad_id,
            "forbidden": jnp.asarray(forbidden),
        }
        if search.beams > 1 and not search.temperature:
            return beam_search(
                step,
                start.written,
                starts,
                beams=search.beams,
                count=search.count,
                length_penalty=search.length_penalty,
                active=active,
                **options,
            )
        starts, options["active"] = jnp.repeat(starts, search.rows), jnp.repeat(active, search.rows)
        if search.temperature:
            seed = jax.random.key(search.seed)
            keys = jax.vmap(lambda number: jax.random.split(jax.random.fold_in(seed, number), search.count))(
                text_numbers
            )
            found = sample(
                step,
                start.written,
                starts,
                keys.reshape(-1),
                temperature=search.temperature,
                top_k=search.top_k,
                top_p=search.top_p,
                **options,
            )
        else:
            found = greedy(step, start.written, starts, **options)
        found = jax.tree.map(lambda leaf: leaf.reshape(-1, search.rows, *leaf.shape[2:]), found)
        return found._replace(scores=found.scores / found.lengths**search.length_penalty)
