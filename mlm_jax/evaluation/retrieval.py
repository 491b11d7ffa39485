"""Retrieval: how often a sentence's translation is its nearest neighbour in the other language.

Similarities are computed block by block, so that memory does not grow with the square of the number of sentences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mlm_jax.common.errors import UserError, nearest

SCORES = ("cosine", "csls", "ratio_margin")
NEIGHBOURS = {"cosine": 1, "csls": 10, "ratio_margin": 4}  # k in Conneau et al. 2018 (MUSE) and Hu et al. 2020 (XTREME)
BLOCK = 4096  # sentences of each side in a block of similarities: 64 MiB
LEAST_NEIGHBOURHOOD = 0.01  # below this mean similarity of the neighbourhood, the ratio is continued linearly


class Matches(NamedTuple):
    """The best match of every sentence, from each side.

    Attributes:
      forward: ``[sources]`` index of each source's best target.
      forward_scores: ``[sources]`` its score.
      backward: ``[targets]`` index of each target's best source.
      backward_scores: ``[targets]`` its score.
    """

    forward: np.ndarray
    forward_scores: np.ndarray
    backward: np.ndarray
    backward_scores: np.ndarray


def match(
    sources: np.ndarray, targets: np.ndarray, score: str = "csls", *, neighbours: int = 0, block: int = BLOCK
) -> Matches:
    """Find every sentence's best match in the other language.

    Args:
      sources: ``[sources, width]`` embeddings; they need not be normalised.
      targets: ``[targets, width]`` embeddings.
      score: ``cosine``; ``csls`` = 2 cos(x, y) − r(x) − r(y), r the mean cosine to the k nearest neighbours on the
        other side (Conneau et al. 2018, equation 3); or ``ratio_margin`` = cos(x, y) / ((r(x) + r(y)) / 2) among the k
        nearest (Artetxe & Schwenk 2019, as in XTREME).
      neighbours: k; 0: the usual k, 10 for CSLS and 4 for the ratio margin.
      block: sentences of either side whose similarities exist at once.

    Raises:
      UserError: there is no such score, a side is empty, widths differ, or an embedding is not finite.
    """
    if score not in SCORES:
        raise UserError(
            f"no retrieval score {score!r}{nearest(score, SCORES)}", remedy=f"choose from {', '.join(SCORES)}"
        )
    sources, targets = normalize(sources), normalize(targets)
    if sources.shape[1] != targets.shape[1]:
        raise UserError(f"embeddings of widths {sources.shape[1]} and {targets.shape[1]} cannot be compared")
    k = neighbours or NEIGHBOURS[score]
    forward, forward_near = nearest_neighbours(sources, targets, k, block)
    backward, backward_near = nearest_neighbours(targets, sources, k, block)
    if score == "cosine":
        return Matches(forward[:, 0], forward_near[:, 0], backward[:, 0], backward_near[:, 0])
    source_mean, target_mean = forward_near.mean(axis=1), backward_near.mean(axis=1)  # r(x) [sources], r(y) [targets]
    if score == "csls":
        best, value = _best_penalised(sources, targets, target_mean, block)
        back, back_value = _best_penalised(targets, sources, source_mean, block)
        return Matches(best, value - source_mean, back, back_value - target_mean)
    return Matches(
        *_best_margin(forward, forward_near, source_mean, target_mean),
        *_best_margin(backward, backward_near, target_mean, source_mean),
    )


def accuracy_at_1(
    sources: np.ndarray, targets: np.ndarray, score: str = "csls", *, neighbours: int = 0
) -> tuple[float, float]:
    """Return the share of aligned sentences whose translation is the best match: (source → target, target → source).

    Args:
      sources: ``[sentences, width]``.
      targets: ``[sentences, width]``; row i translates row i of ``sources``.
      score: as in :func:`match`.
      neighbours: as in :func:`match`.

    Raises:
      UserError: as in :func:`match`, or the sides are of different lengths.
    """
    forward, backward = hits_at_1(sources, targets, score, neighbours=neighbours)
    return float(forward.mean()), float(backward.mean())


def hits_at_1(
    sources: np.ndarray, targets: np.ndarray, score: str = "csls", *, neighbours: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return which sentences find their translation, ``[sentences]`` bool each: (source → target, target → source).

    Arguments and errors are those of :func:`accuracy_at_1`.
    """
    if len(sources) != len(targets):
        raise UserError(f"{len(sources)} sentences cannot be aligned with {len(targets)}")
    matches = match(sources, targets, score, neighbours=neighbours)
    right = np.arange(len(sources))
    return matches.forward == right, matches.backward == right


def nearest_neighbours(
    queries: np.ndarray, database: np.ndarray, k: int, block: int = BLOCK
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest rows of ``database`` by dot product, the nearest first.

    Args:
      queries: ``[queries, width]``.
      database: ``[database, width]``.
      k: number of neighbours, at most the rows of ``database``.
      block: rows of either side whose similarities exist at once.

    Returns:
      indices ``[queries, k]`` int64 and similarities ``[queries, k]`` float32.
    """
    k = min(k, len(database))
    indices = np.empty((len(queries), k), np.int64)
    similarities = np.empty((len(queries), k), np.float32)
    for rows in _blocks(len(queries), block):
        near = np.empty((rows.stop - rows.start, 0), np.float32)
        index = np.empty(near.shape, np.int64)
        for columns in _blocks(len(database), block):
            found = queries[rows] @ database[columns].T  # [block, block]
            kept = _largest(found, k)
            near = np.concatenate([near, np.take_along_axis(found, kept, axis=1)], axis=1)
            index = np.concatenate([index, kept + columns.start], axis=1)
            kept = _largest(near, k)
            near, index = np.take_along_axis(near, kept, axis=1), np.take_along_axis(index, kept, axis=1)
        similarities[rows], indices[rows] = near, index
    return indices, similarities


def normalize(embeddings: np.ndarray) -> np.ndarray:
    """Scale ``[sentences, width]`` embeddings to length 1, in float32; zero stays zero.

    Raises:
      UserError: there are no embeddings, they are not a matrix, or one is not finite.
    """
    embeddings = np.asarray(embeddings, np.float32)
    if embeddings.ndim != 2 or not len(embeddings):
        raise UserError(f"retrieval needs a matrix of sentence embeddings, not an array of shape {embeddings.shape}")
    if not np.isfinite(embeddings).all():
        raise UserError("a sentence embedding is not finite", remedy="evaluate a checkpoint from before the divergence")
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(lengths, np.finfo(np.float32).tiny)


def ratio_margin(cosine: np.ndarray, neighbourhood: np.ndarray) -> np.ndarray:
    """Return cosine / b, b the neighbourhood's similarity; if b is below 0.01, its finite continuation 1 + (cosine − b) / 0.01."""
    return 1.0 + (cosine - neighbourhood) / np.maximum(neighbourhood, LEAST_NEIGHBOURHOOD)


def mean_accuracy(matrix: Sequence[Sequence[float]] | np.ndarray, axis: int | None = None) -> np.ndarray:
    """Return the mean of an accuracy matrix, or of one source or target, without the diagonal and pairs without a value."""
    matrix = np.asarray(matrix, np.float64)
    known = np.isfinite(matrix)
    total = np.where(known, matrix, 0.0).sum(axis=axis)
    return np.divide(total, known.sum(axis=axis), out=np.full_like(total, np.nan), where=known.sum(axis=axis) > 0)


def _best_penalised(
    queries: np.ndarray, database: np.ndarray, penalty: np.ndarray, block: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return argmax_j and max_j of 2 q·d_j − penalty_j, ``[queries]`` each."""
    best = np.zeros(len(queries), np.int64)
    value = np.full(len(queries), -np.inf, np.float32)
    for rows in _blocks(len(queries), block):
        for columns in _blocks(len(database), block):
            scores = 2.0 * (queries[rows] @ database[columns].T) - penalty[columns]  # [block, block]
            index = scores.argmax(axis=1)
            found = np.take_along_axis(scores, index[:, None], axis=1)[:, 0]
            better = found > value[rows]
            best[rows] = np.where(better, index + columns.start, best[rows])
            value[rows] = np.where(better, found, value[rows])
    return best, value


def _best_margin(
    candidates: np.ndarray, cosines: np.ndarray, own_mean: np.ndarray, other_mean: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    neighbourhood = (own_mean[:, None] + other_mean[candidates]) / 2  # [queries, k]
    margins = ratio_margin(cosines, neighbourhood)
    choice = margins.argmax(axis=1)[:, None]
    return np.take_along_axis(candidates, choice, axis=1)[:, 0], np.take_along_axis(margins, choice, axis=1)[:, 0]


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Return the columns of the k largest values of each row, largest first; of equal values, the earlier column first."""
    k = min(k, values.shape[1])
    if k == 1:
        return values.argmax(axis=1)[:, None]
    columns = np.sort(np.argpartition(-values, k - 1, axis=1)[:, :k], axis=1)
    order = np.argsort(-np.take_along_axis(values, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)


def _blocks(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
