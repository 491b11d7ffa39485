"""Held-out parallel sentences of all language pairs, each sentence once, ready for retrieval."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from mlm_jax.data.store.store import Store
from mlm_jax.evaluation.bootstrap import Observed
from mlm_jax.evaluation.retrieval import SCORES, hits_at_1, mean_accuracy

MANY_LANGUAGES = 16  # with more languages, only pairs that have parallel text of their own are evaluated


@dataclasses.dataclass(frozen=True)
class ParallelSentences:
    """Sentences by language, and the pairs that are translations of each other.

    Attributes:
      documents: {language: token ids of each distinct sentence}.
      pairs: {(first, second): ``[pairs, 2]`` indices of their sentences}; every sentence occurs once in a pair.
    """

    documents: Mapping[str, Sequence[np.ndarray]]
    pairs: Mapping[tuple[str, str], np.ndarray]

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages that have parallel text."""
        return tuple(self.documents)

    @cached_property
    def meanings(self) -> dict[str, np.ndarray]:
        """{language: ``[sentences]`` uint64 numbers}, the same number for sentences that are joined by translations."""
        starts = dict(zip(self.languages, itertools.accumulate(map(len, self.documents.values()), initial=0)))
        documents = [document for of_language in self.documents.values() for document in of_language]
        parents = list(range(len(documents)))

        def root(node: int) -> int:
            while parents[node] != node:
                parents[node] = node = parents[parents[node]]
            return node

        for (a, b), rows in self.pairs.items():
            for i, j in rows.tolist():
                one, other = root(starts[a] + i), root(starts[b] + j)
                parents[max(one, other)] = min(one, other)
        digests = (hashlib.blake2b(documents[root(node)].tobytes(), digest_size=8) for node in range(len(documents)))
        numbers = np.array([int.from_bytes(digest.digest(), "little") for digest in digests], np.uint64)
        return {code: numbers[start : start + len(self.documents[code])] for code, start in starts.items()}


def held_out_sentences(store: Store, limit: int) -> ParallelSentences:
    """Read the first ``limit`` held-out pairs of every parallel stream.

    A sentence that occurs twice in its stream is left out, since it has two translations. Two languages without parallel
    text of their own are aligned through a third language, if it has the same sentence for both.

    Args:
      store: the token store.
      limit: the largest number of pairs of a stream.

    Raises:
      UserError: the store is corrupt.
    """
    known: dict[str, dict[bytes, int]] = {}
    documents: dict[str, list[np.ndarray]] = {}
    partners: dict[tuple[str, str], dict[int, int]] = {}

    def number(language: str, document: np.ndarray) -> int:
        index = known.setdefault(language, {}).setdefault(document.tobytes(), len(known[language]))
        if index == len(documents.setdefault(language, [])):
            documents[language].append(document)
        return index

    for stream in store.streams.values():
        if stream.kind != "pairs" or "validation" not in stream.splits:
            continue
        split, (first, second) = stream.split("validation"), stream.languages
        rows = np.arange(min(split.documents, limit))
        sides = [split[feature].documents(rows) for feature in ("inputs", "targets")] if len(rows) else [[], []]
        for source, target in zip(*sides):
            i, j = number(first, source), number(second, target)
            forward, backward = partners.setdefault((first, second), {}), partners.setdefault((second, first), {})
            if i not in forward and j not in backward:
                forward[i], backward[j] = j, i
    order = [language for language in store.languages if language in documents]
    found = {(a, b): partners[a, b] for a, b in _combinations(order) if (a, b) in partners}
    if len(order) <= MANY_LANGUAGES:
        found |= {(a, b): joined for a, b in _combinations(order) if (joined := _join(a, b, order, partners, found))}
    pairs = {key: np.array(sorted(table.items()), np.int64) for key, table in found.items()}
    return ParallelSentences({language: documents[language] for language in order}, pairs)


def retrieval_matrices(
    sentences: ParallelSentences, embeddings: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, Observed]]:
    """Search each sentence's translation.

    Args:
      sentences: the parallel sentences.
      embeddings: {language: ``[sentences, width]``} in the order of ``sentences.documents``.

    Returns:
      {score: ``[languages, languages]`` accuracy@1, source × target}, NaN for pairs without parallel text; and
      {``eval/retrieval_at_1/de-en``: which sentences CSLS finds}. Sentences that translate each other are one unit.

    Raises:
      UserError: an embedding is not finite.
    """
    index = {language: position for position, language in enumerate(sentences.languages)}
    matrices = {score: np.full((len(index), len(index)), np.nan) for score in SCORES}
    observed: dict[str, Observed] = {}
    for (a, b), rows in sentences.pairs.items():
        left, right = embeddings[a][rows[:, 0]], embeddings[b][rows[:, 1]]
        for score, matrix in matrices.items():
            hits = hits_at_1(left, right, score)
            matrix[index[a], index[b]], matrix[index[b], index[a]] = (found.mean() for found in hits)
            if score == "csls":
                for direction, found in zip((f"{a}-{b}", f"{b}-{a}"), hits):
                    one = Observed(sentences.meanings[a][rows[:, 0]], found, np.ones(len(found)))
                    observed[f"eval/retrieval_at_1/{direction}"] = one
    return matrices, observed


def retrieval_metrics(matrices: Mapping[str, np.ndarray], sentences: ParallelSentences) -> dict[str, float]:
    """Return ``eval/retrieval_at_1/de-en`` (CSLS) of each measured direction and averages of every score.

    Those of CSLS are ``eval/retrieval_at_1/mean`` (over directions) and ``eval/retrieval_at_1/micro`` (over sentences);
    those of the others begin with ``eval/retrieval_at_1_cosine`` and ``eval/retrieval_at_1_ratio_margin``.
    """
    csls, languages = matrices["csls"], sentences.languages
    index = {language: position for position, language in enumerate(languages)}
    counts = np.zeros_like(csls)  # sentences searched for
    for (a, b), rows in sentences.pairs.items():
        counts[index[a], index[b]] = counts[index[b], index[a]] = len(rows)
    metrics = {
        f"eval/retrieval_at_1/{languages[i]}-{languages[j]}": float(csls[i, j])
        for i, j in np.argwhere(np.isfinite(csls))
    }
    for score, matrix in matrices.items():
        if np.isfinite(matrix).any():
            name = "retrieval_at_1" if score == "csls" else f"retrieval_at_1_{score}"
            metrics[f"eval/{name}/mean"] = float(mean_accuracy(matrix))
            metrics[f"eval/{name}/micro"] = float(np.nansum(matrix * counts) / counts[np.isfinite(matrix)].sum())
    return metrics


def aligned_rows(sentences: ParallelSentences) -> dict[str, np.ndarray]:
    """Return {language: ``[sentences]`` indices} of sentences that exist in as many languages as possible, aligned.

    All languages are aligned with the one that has the most pairs; languages that have no pair with it are left out.
    """
    partners: dict[str, dict[str, dict[int, int]]] = {language: {} for language in sentences.languages}
    for (a, b), pairs in sentences.pairs.items():
        partners[a][b] = dict(pairs.tolist())
        partners[b][a] = {j: i for i, j in pairs.tolist()}
    pivot = max(partners, key=lambda language: sum(map(len, partners[language].values())))
    common = sorted(set.intersection(*(set(table) for table in partners[pivot].values())))
    rows = {language: np.array([table[i] for i in common], np.int64) for language, table in partners[pivot].items()}
    rows[pivot] = np.array(common, np.int64)
    return {language: rows[language] for language in sentences.languages if language in rows}


def _join(a: str, b: str, languages: Sequence[str], partners: Mapping, found: Mapping) -> dict[int, int]:
    """Align two languages through the third one that gives the most pairs; {} if it aligns less than half of a side's sentences."""
    if (a, b) in found:
        return found[a, b]
    best: dict[int, int] = {}
    for pivot in languages:
        left, right = partners.get((pivot, a), {}), partners.get((pivot, b), {})
        common = left.keys() & right.keys()
        if len(common) > max(len(best), min(len(left), len(right)) // 2):
            best = {left[i]: right[i] for i in common}
    return best


def _combinations(languages: Sequence[str]) -> list[tuple[str, str]]:
    return [(a, b) for position, a in enumerate(languages) for b in languages[position + 1 :]]
