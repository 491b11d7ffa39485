"""Evaluation during a run: all metrics on held-out data."""

from __future__ import annotations

import copy
import itertools
import json
import logging
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mlm_jax.config.together import longest_row
from mlm_jax.data.loading import curriculum
from mlm_jax.data.loading.batch import Rows, TaskBatch
from mlm_jax.data.loading.loader import Loader
from mlm_jax.data.loading.task import cuts
from mlm_jax.data.store.manifest import WITH_LABELS
from mlm_jax.data.store.question_rows import unpacked
from mlm_jax.data.store.store import Store, Stream
from mlm_jax.evaluation import perplexity
from mlm_jax.evaluation.answers import answer_scores, join_windows, scores_by_question
from mlm_jax.evaluation.bootstrap import Observed, unit_numbers
from mlm_jax.evaluation.correlation import CORRELATIONS, correlations
from mlm_jax.evaluation.embedding import embed_documents
from mlm_jax.evaluation.extras import metric_library
from mlm_jax.evaluation.labelled_sets import in_task_order, labelled_sets
from mlm_jax.evaluation.samples import GUESSES, masked_samples, predict_pieces, wordless
from mlm_jax.evaluation.sentences import aligned_rows, held_out_sentences, retrieval_matrices, retrieval_metrics
from mlm_jax.evaluation.tagging import entity_scores, is_entity_tags, tag_sentences, uncut
from mlm_jax.objectives import metric_prefix, task_that
from mlm_jax.parallel.batches import to_devices
from mlm_jax.parallel.memory import Fitting
from mlm_jax.training.cost import task_shapes
from mlm_jax.training.step import Program

log = logging.getLogger(__name__)

Units = dict[tuple[str, str], list[Observed]]  # {(metric, language or source): parts}

SAMPLES, CANDIDATES = 2, 8  # fill-in-the-blank samples a language, and the number of texts that they are chosen from
SAMPLE_TOKENS = 48  # the largest number of tokens of a sample; longer documents are cut
MAP_LANGUAGES = 12  # the largest number of languages on the map of sentences


class Retrieval(NamedTuple):
    """Retrieval on held-out parallel sentences.

    Attributes:
      languages: the languages of the matrices' rows and columns.
      matrices: {score: ``[languages, languages]`` accuracy@1, source × target}.
      candidates: the largest number of sentences among which a translation is searched.
      embeddings: {language: ``[sentences, width]``} of sentences that all these languages have; equal rows are translations.
      texts: {language: [sentence]} of the same rows.
      observed: {metric key: which sentences were found}.
    """

    languages: tuple[str, ...]
    matrices: dict[str, np.ndarray]
    candidates: int
    embeddings: dict[str, np.ndarray]
    texts: dict[str, list[str]]
    observed: dict[str, Observed]


class Evaluation(NamedTuple):
    """The results of an evaluation.

    Attributes:
      metrics: {"eval/loss/de": value, …}.
      observed: {metric key: values of each unit from which the metric is computed}, for intervals.
      retrieval: None without parallel text.
      samples: {language: [sample]}.
    """

    metrics: dict[str, float]
    observed: dict[str, Observed]
    retrieval: Retrieval | None
    samples: dict[str, list]


class HeldOut:
    """The held-out data of a run, and the functions that evaluate a model on it.

    Every process of a run calls it at the same steps and gets the same numbers. Metrics of the first task of the config
    are named ``eval/loss/de``, those of the others ``eval/<task>/loss/de``, each with ``mean`` (over languages) and
    ``micro`` (over predictions).

    Args:
      program: model, objectives and mesh.
      loader: the loader of the run's training data.
      store: the token store.

    Raises:
      UserError: a task needs a metric whose library is not installed, a labelled set does not fit the task that would be
        evaluated on it, or the store is corrupt.
    """

    def __init__(self, program: Program, loader: Loader, store: Store):
        self.program, self.loader, self.store = program, loader, store
        self.config, self.mesh, self.languages = program.config, program.mesh, program.languages
        self.vocabulary = store.vocabulary
        self.longest = longest_row(self.config.model)
        self.row_multiple = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        labelled = {
            task: loader.streams(task)
            for task, objective in program.objectives.items()
            if objective.kind in WITH_LABELS
        }
        self.labels = loader.labels()
        unlabelled = {task: self._read_or_test(task) for task in program.objectives if task not in labelled}
        streams = unlabelled | labelled_sets(store, self.config.tasks, labelled)
        self.streams = {
            task: tuple(s for s in found if "validation" in s.splits and s.split("validation").documents)
            for task, found in streams.items()
        }
        self.sentences = held_out_sentences(store, self.config.evaluation.pairs)
        self._say_cuts()
        self._after: dict[tuple[float, float], HeldOut] = {}
        self.between: Callable[[], None] = (
            _nothing  # called before each batch; an exception from it ends the evaluation
        )
        self._compile(program)
        if any(self._has_entities(task) for task in program.objectives):
            metric_library("nervaluate")  # a missing library is an error now, not after the first thousand steps

    def _compile(self, program: Program) -> None:
        self.program = program
        whole = NamedSharding(self.mesh, P())
        self._batch_metrics = {
            task: perplexity.make_batch_metrics(program.model, objective, program.context, self.mesh)
            for task, objective in program.objectives.items()
        }
        by_sentence = task_that("embeds", self.config.tasks)
        encode = jax.jit(
            lambda params, rows: program.model(params).sentence_embeddings(rows, task=by_sentence), out_shardings=whole
        )
        self._encode = Fitting(encode, "embedding")
        predictions = jax.jit(self._predict_labels, static_argnums=0, out_shardings=whole)
        self._predictions = Fitting(predictions, "evaluating")
        self._predict = Fitting(jax.jit(self._predict_blanks, out_shardings=whole), "filling blanks in")

    def after(self, steps: int) -> HeldOut:
        """Return a copy with the RoPE bases that the curriculum gives the weights after ``steps`` steps."""
        bases = curriculum.rope_bases(self.config, steps)
        if bases not in self._after:
            program = self.program.with_rope_bases(bases)
            self._after[bases] = self if program.rope_bases is None else copy.copy(self)
            if self._after[bases] is not self:
                self._after[bases]._compile(program)
        return self._after[bases]

    def evaluate(self, params: Any, *, everything: bool = False, tasks: tuple[str, ...] = ()) -> Evaluation:
        """Evaluate every task, and, unless ``tasks`` is given, retrieval and samples.

        Args:
          params: the parameters of the model, on the program's mesh.
          everything: whether to use all held-out rows instead of the first ``config.evaluation.rows`` of each stream of text
            or pairs, and the first ``config.evaluation.examples`` of each labelled set.
          tasks: names of tasks; (): all of them, retrieval and samples too.

        Raises:
          UserError: an embedding is not finite, or the store is corrupt.
        """
        metrics: dict[str, float] = {}
        observed: dict[str, Observed] = {}
        for task in self.config.tasks:
            if not tasks or task in tasks:
                prefix = metric_prefix("eval", task, self.config.tasks)
                found, units = self.task_metrics(task, params, everything)
                metrics |= perplexity.flatten(found, prefix)
                observed |= {f"{prefix}/{name}/{code}": one for (name, code), one in units.items()}
        if tasks:
            return Evaluation(metrics, observed, None, {})
        retrieval = self.retrieval(params) if self.sentences.pairs else None
        if retrieval is not None:
            metrics |= retrieval_metrics(retrieval.matrices, self.sentences)
            observed |= retrieval.observed
        return Evaluation(metrics, observed, retrieval, self.samples(params))

    # ------------------------------------------------------------------------------------------------ tasks

    def task_metrics(
        self, task: str, params: Any, everything: bool = False
    ) -> tuple[dict[str, dict[str, float]], dict[tuple[str, str], Observed]]:
        """Evaluate a task.

        Returns:
          {metric: {language or average: value}} of loss, accuracy, bits per byte, F1, correlation; and
          {(metric, language or source): values from which it is computed}.
        """
        sums: perplexity.Sums = {}
        by_source: dict[str, dict[str, dict[str, float]]] = {}  # {source: its metrics}
        units: Units = {}
        length = self.config.tasks[task]["length"]
        for stream in self.streams[task]:
            of_stream: perplexity.Sums = {}
            shapes = task_shapes(self.program, task, self._batch_rows(task, stream, everything), length)
            self._batch_metrics[task].check(params, shapes, np.int32(0))  # before a batch is read
            for reverse in self._directions(task):
                batches = (to_devices(batch, self.mesh) for batch in self._batches(task, stream, everything, reverse))
                found = perplexity.evaluate_rows(self._batch_metrics[task], params, batches)
                of_stream = perplexity.add_sums(of_stream, perplexity.totals(found, len(self.languages)))
                self._observe(units, task, stream, found)
            sums = perplexity.add_sums(sums, of_stream)
            if stream.source:
                by_source[stream.name] = self._with_bits(
                    task, perplexity.language_metrics(of_stream, self.languages), (stream,)
                )
        metrics = self._with_bits(task, perplexity.language_metrics(sums, self.languages), self.streams[task])
        for name, of_source in by_source.items():
            for metric, values in of_source.items():
                metrics[metric][name] = values[perplexity.MICRO]  # of a pair: both directions
        if self._has_entities(task):
            metrics["f1"] = self._entity_f1(task, params, everything, units)
        if self.program.objectives[task].kind == "scored":
            metrics |= self._correlations(task, params, everything, units)
        if self.program.objectives[task].kind == "questions":
            metrics |= self._answers(task, params, everything, units)
        observed = {key: Observed(*(np.concatenate(part) for part in zip(*parts))) for key, parts in units.items()}
        for code, value in metrics.get("bits_per_byte", {}).items():  # a multiple of the loss
            if ("loss", code) in observed and (loss := metrics["loss"][code]) > 0:
                rows = observed["loss", code]
                observed["bits_per_byte", code] = rows._replace(first=rows.first * (value / loss))
        return {name: values for name, values in metrics.items() if values}, observed

    def _observe(self, units: Units, task: str, stream: Stream, found: perplexity.RowSums) -> None:
        """Add a stream's rows to the values from which the metrics of its languages, and of its source, are computed."""
        for metric, parts in found.items():
            for index in sorted({int(language) for part in parts for language in part.languages}):
                numerator, denominator = perplexity.rows_of(parts, index)
                there = denominator > 0
                numbers = unit_numbers(self._data(task, stream), len(there))[there]
                for name in (self.languages[index], *([stream.name] if stream.source else [])):
                    units.setdefault((metric, name), []).append(Observed(numbers, numerator[there], denominator[there]))

    def _example_numbers(self, task: str, stream: Stream, examples: np.ndarray) -> np.ndarray:
        """Return the unit numbers of a labelled set's examples, whose indices are consecutive."""
        return unit_numbers(self._data(task, stream), len(examples), first=int(examples[0]) if len(examples) else 0)

    def _data(self, task: str, stream: Stream) -> str:
        """Return a description of a stream's held-out rows that differs from those of all other rows."""
        split = stream.split("validation")
        length = self.config.tasks[task]["length"] if stream.kind == "text" else 0  # packed: rows depend on it
        sizes = (split.documents, split.tokens, split.bytes, length)
        return json.dumps([self.vocabulary.fingerprint, self.config.data.prefix, stream.name, *sizes])

    def _with_bits(
        self, task: str, metrics: dict[str, dict[str, float]], streams: tuple[Stream, ...]
    ) -> dict[str, dict[str, float]]:
        """Return the metrics of a task on some streams, with bits per byte if the task masks tokens of plain text."""
        objective = self.program.objectives[task]
        if objective.masks and objective.kind == "text" and "loss" in metrics:
            metrics["bits_per_byte"] = perplexity.bits_per_byte_by_language(metrics["loss"], self._text_sizes(streams))
        return metrics

    def _entity_f1(self, task: str, params: Any, everything: bool, units: Units) -> dict[str, float]:
        """Return F1 by language over all labelled words; words that were cut off a row count as predicted "O"."""
        names = self.labels[task]
        predicted: list[list[str]] = []
        gold: list[list[str]] = []
        languages: list[str] = []
        numbers_of: list[np.ndarray] = []
        for stream, classes, examples in self._predicted(task, params, everything):
            whole = stream.split("validation")["labels"].documents(examples)
            numbers = [in_task_order(labels, stream, names) for labels in whole]
            found = [uncut(row, len(labels), names.index("O")) for row, labels in zip(classes, numbers)]
            ours, right = tag_sentences(found, numbers, names)
            predicted, gold = predicted + ours, gold + right
            languages += [stream.languages[0]] * len(ours)
            numbers_of.append(self._example_numbers(task, stream, examples))
        scores = entity_scores(predicted, gold, languages)
        for language, found_scores in scores.items():
            mine = np.concatenate(numbers_of)[np.array(languages) == language]
            halves = found_scores.predicted + found_scores.gold  # F1 is 2 · right / (predicted + gold)
            units["f1", language] = [Observed(mine, 2 * found_scores.right, halves)]
        return _with_mean({language: found_scores.f1 for language, found_scores in scores.items()})

    def _correlations(self, task: str, params: Any, everything: bool, units: Units) -> dict[str, dict[str, float]]:
        """Return Pearson's and Spearman's correlation of predicted and gold numbers, by language."""
        pairs: dict[str, list[np.ndarray]] = {}
        for stream, numbers, examples in self._predicted(task, params, everything):
            whole = stream.split("validation")["labels"].documents(examples)
            right = np.concatenate(whole).astype(np.int32).view(np.float32)
            pairs.setdefault(stream.languages[0], []).append(np.stack([numbers[: len(right)], right]))
            ids = self._example_numbers(task, stream, examples)
            for name in CORRELATIONS:
                one = Observed(ids, numbers[: len(right)], right)
                units.setdefault((name, stream.languages[0]), []).append(one)
        found = {language: correlations(*np.concatenate(parts, axis=1)) for language, parts in pairs.items()}
        return {
            name: _with_mean({language: one[name] for language, one in found.items() if one}) for name in CORRELATIONS
        }

    def _answers(self, task: str, params: Any, everything: bool, units: Units) -> dict[str, dict[str, float]]:
        """Return exact match and F1 of the answers to questions, by language; see :func:`.answer_scores`."""
        windows: dict[str, list] = {}
        for stream, logits, examples in self._predicted(task, params, everything):
            split = stream.split("validation")
            facts, labels = (split[name].documents(examples) for name in ("answers", "labels"))
            for one, flags, outputs in zip(facts, labels, logits):
                known = unpacked(one)
                known["id"] = f"{stream.name}/{known['id']}"  # sets of several languages may have the same ids
                windows.setdefault(stream.languages[0], []).append((known, flags, outputs))
        rules = self.program.objectives[task].answer_rules  # type: ignore[attr-defined]
        questions = {language: join_windows(of) for language, of in windows.items()}
        found = {language: answer_scores([*of.values()], rules, language) for language, of in questions.items()}
        for language, of in questions.items():
            ids = np.array([unit_numbers(name, 1)[0] for name in of])
            for name, values in scores_by_question([*of.values()], rules, language).items():
                counted = ~np.isnan(values)
                units[name, language] = [Observed(ids[counted], values[counted], np.ones(counted.sum()))]
        names = dict.fromkeys(name for scores in found.values() for name in scores)
        return {name: _with_mean({code: one[name] for code, one in found.items() if name in one}) for name in names}

    def _predicted(self, task: str, params: Any, everything: bool) -> Iterator[tuple[Stream, np.ndarray, np.ndarray]]:
        """Yield (set, predictions ``[rows, …]``, indices of the rows' examples in the set), some rows at a time.

        The rows after the last example are padding.
        """
        for stream in self.streams[task]:
            split, first = stream.split("validation"), 0
            total = min(split.documents, self._most_rows(stream, everything) or split.documents)
            for batch in self._batches(task, stream, everything, False):
                with jax.set_mesh(self.mesh):
                    found = jax.device_get(self._predictions(task, params, to_devices(batch, self.mesh)))
                yield stream, found, np.arange(first, min(first + len(found), total))
                first += len(found)

    def _batches(self, task: str, stream: Stream, everything: bool, reverse: bool) -> Iterator[TaskBatch]:
        """Yield this process's rows of batches of one shape, which the devices share evenly; labels are the task's."""
        for batch in self._stored_batches(task, stream, everything, reverse):
            self.between()
            labels = {"labels": in_task_order(batch["labels"], stream, self.labels[task])} if "labels" in batch else {}
            yield batch | labels

    def _most_rows(self, stream: Stream, everything: bool) -> int | None:
        """Return how many held-out rows of a stream to take at most; None: all."""
        limits = self.config.evaluation
        return None if everything else (limits.examples or None) if stream.kind in WITH_LABELS else limits.rows

    def _stored_batches(self, task: str, stream: Stream, everything: bool, reverse: bool) -> Iterator[TaskBatch]:
        rows, limit = self._batch_rows(task, stream, everything), self._most_rows(stream, everything)
        if self.program.objectives[task].additive:  # the last batch is padded with rows that change no metric
            return self.loader.validation(task, stream.name, rows, limit, reverse)
        # Rows that are compared with each other: only whole batches, without padding rows.
        documents = stream.split("validation").documents
        if rows > min(documents, self.config.tasks[task]["rows"]):
            return iter(())
        batches = self.loader.validation(task, stream.name, rows, None, reverse)
        return itertools.islice(batches, max(min(documents, limit or documents) // rows, 1))

    def _batch_rows(self, task: str, stream: Stream, everything: bool) -> int:
        """Return the number of rows of a batch over all processes, which the devices share evenly."""
        objective, rows = self.program.objectives[task], self.config.tasks[task]["rows"]
        multiple = self.row_multiple * objective.same_language_rows
        if objective.additive:
            rows = max(rows // self.config.training.microbatches, 1)
            return -(-min(rows, self._most_rows(stream, everything) or rows) // multiple) * multiple
        # As large as in training, because a row is compared with all rows of its batch.
        return max(min(rows, stream.split("validation").documents) // multiple * multiple, multiple)

    def _read_or_test(self, task: str) -> tuple[Stream, ...]:
        """Return the streams that a task reads, and test sets: streams of its kind that no task trains on."""
        read, kind = self.loader.streams(task), self.program.objectives[task].kind
        others = (
            s for s in self.store.streams.values() if s.kind == kind and s not in read and "train" not in s.splits
        )
        return (*read, *others)

    def _say_cuts(self) -> None:
        """Warn if held-out examples are longer than the task's rows."""
        for task, objective in self.program.objectives.items():
            for stream in self.streams[task] if objective.kind != "text" else ():
                if cut := cuts([stream.split("validation")], self.config.tasks[task]["length"]):
                    missed = ": entities beyond are missed, in F1" if self._has_entities(task) else ""
                    log.warning("task %s, held-out %s: cuts %s%s", task, stream.name, cut, missed)
        sentences = [document for documents in self.sentences.documents.values() for document in documents]
        if longer := sum(len(document) > self.longest for document in sentences):
            log.warning(
                "retrieval cuts %d of %d held-out sentences to %d tokens, which the model takes",
                longer,
                len(sentences),
                self.longest,
            )

    def _directions(self, task: str) -> tuple[bool, ...]:
        """Return the directions in which to read pairs: both, unless the objective treats the two sides the same way."""
        objective, entry = self.program.objectives[task], self.config.tasks[task]
        directed = objective.kind == "pairs" and not objective.symmetric
        return (False, True) if directed and entry.get("directions", "both") == "both" else (False,)

    def _has_entities(self, task: str) -> bool:
        objective = self.program.objectives[task]
        return objective.kind == "labelled" and objective.per_token and is_entity_tags(self.labels[task])

    def _text_sizes(self, streams: tuple[Stream, ...]) -> dict[str, tuple[int, int]]:
        """Return {language: (ordinary tokens, UTF-8 bytes)} of the held-out text of streams."""
        sizes: dict[str, tuple[int, int]] = {}
        for stream in streams:
            split, language = stream.split("validation"), stream.languages[0]
            added = 1 + len(self.vocabulary.document_prefix(self.config.data.prefix, language))
            tokens, byte_count = sizes.get(language, (0, 0))
            sizes[language] = (tokens + split.tokens - added * split.documents, byte_count + split.bytes)
        return sizes

    # ------------------------------------------------------------------------------------------------ sentences

    def retrieval(self, params: Any) -> Retrieval:
        """Embed the held-out parallel sentences and search each one's translation.

        Raises:
          UserError: an embedding is not finite.
        """
        embeddings = {
            language: embed_documents(
                lambda rows: self._run(self._encode, params, rows),
                documents,
                [self.languages.index(language)] * len(documents),
                longest=self.longest,
                pad_id=self.program.context.pad_id,
                multiple=self.row_multiple,
            )
            for language, documents in self.sentences.documents.items()
        }
        rows = dict(list(aligned_rows(self.sentences).items())[:MAP_LANGUAGES])
        matrices, observed = retrieval_matrices(self.sentences, embeddings)
        return Retrieval(
            self.sentences.languages,
            matrices,
            max(len(pairs) for pairs in self.sentences.pairs.values()),
            {language: embeddings[language][mine] for language, mine in rows.items()},
            {
                language: [self.vocabulary.decode(self.sentences.documents[language][i].tolist()) for i in mine]
                for language, mine in rows.items()
            },
            observed,
        )

    def samples(self, params: Any) -> dict[str, list]:
        """Return fill-in-the-blank samples of each language; {} if no task masks tokens."""
        if not any(objective.masks for objective in self.program.objectives.values()):
            return {}
        return masked_samples(
            lambda rows, positions: self._run(self._predict, params, (rows, positions)),
            self._sample_documents(),
            self.languages,
            self.vocabulary,
            longest=self.longest,
            multiple=self.row_multiple,
            keep=SAMPLES,
        )

    @cached_property
    def wordless(self) -> np.ndarray:
        """``[vocabulary]`` bool: pieces without a letter or digit, which cannot fill a blank."""
        return wordless(self.vocabulary.pieces(range(len(self.program.context.special))))

    def _sample_documents(self) -> dict[str, list[np.ndarray]]:
        documents: dict[str, list[np.ndarray]] = {}
        longest = min(SAMPLE_TOKENS, self.longest)
        for kind in ("text", "pairs"):  # one side of parallel text, if the language has no other text
            for stream in self.store.streams.values():
                if stream.kind != kind or "validation" not in stream.splits:
                    continue
                split = stream.split("validation")
                for language, feature in zip(stream.languages, ("inputs", "targets")):
                    if language not in documents and split.documents:
                        first = split[feature].documents(np.arange(min(split.documents, CANDIDATES)))
                        documents[language] = [document[:longest] for document in first]
        return {language: documents[language] for language in self.languages if language in documents}

    # ------------------------------------------------------------------------------------------------ on the mesh

    def _run(self, function: Callable, params: Any, rows: Any) -> Any:
        """Run a compiled function of (parameters, rows) on rows that every process holds."""
        self.between()
        count, index = self.loader.process_count, self.loader.process_index
        mine = jax.tree.map(lambda leaf: np.split(leaf, count)[index], rows)
        with jax.set_mesh(self.mesh):
            return jax.device_get(function(params, to_devices(mine, self.mesh)))

    def _predict_labels(self, task: str, params: Any, batch: TaskBatch) -> jax.Array:
        objective: Any = self.program.objectives[task]
        return objective.predictions(self.program.model(params), batch["inputs"])

    def _predict_blanks(self, params: Any, batch: tuple[Rows, jax.Array]) -> tuple[jax.Array, jax.Array]:
        special = jnp.asarray(self.program.context.special | self.wordless)
        task = task_that("masks", self.config.tasks)
        return predict_pieces(self.program.model(params), *batch, special, GUESSES, task)


def _nothing() -> None:
    """Do nothing."""


def _with_mean(values: dict[str, float]) -> dict[str, float]:
    """Return {language: value} with the mean over languages; {} if there is none."""
    return {**values, perplexity.MACRO: float(np.mean([*values.values()]))} if values else {}
