"""Bitext mining: find sentences of two monolingual corpora that are translations of each other (BUCC)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from mlm_jax.common.errors import UserError
from mlm_jax.evaluation.retrieval import match


class MinedPair(NamedTuple):
    """A pair of sentences, by index, and its score: how much closer they are to each other than to their neighbours."""

    source: int
    target: int
    score: float


class MiningScores(NamedTuple):
    """Precision, recall and F1 (shares, not percent) of the pairs that score at least ``threshold``."""

    precision: float
    recall: float
    f1: float
    threshold: float


def mine(
    sources: np.ndarray, targets: np.ndarray, score: str = "ratio_margin", *, neighbours: int = 0
) -> list[MinedPair]:
    """Pair sentences up greedily, the best score first and every sentence once (Artetxe & Schwenk 2019, "max").

    Args:
      sources: ``[sources, width]`` embeddings of distinct sentences.
      targets: ``[targets, width]`` embeddings of distinct sentences.
      score: as in :func:`mlm_jax.evaluation.retrieval.match`.
      neighbours: as in :func:`mlm_jax.evaluation.retrieval.match`.

    Returns:
      pairs in decreasing order of score; a threshold on the score trades precision for recall.
    """
    matches = match(sources, targets, score, neighbours=neighbours)
    pairs = np.concatenate(
        [
            np.stack([np.arange(len(matches.forward)), matches.forward], axis=1),
            np.stack([matches.backward, np.arange(len(matches.backward))], axis=1),
        ]
    )  # [sources + targets, 2]
    scores = np.concatenate([matches.forward_scores, matches.backward_scores])
    seen_sources = np.zeros(len(matches.forward), bool)
    seen_targets = np.zeros(len(matches.backward), bool)
    mined = []
    for index in np.argsort(-scores, kind="stable"):
        source, target = pairs[index]
        if not seen_sources[source] and not seen_targets[target]:
            seen_sources[source] = seen_targets[target] = True
            mined.append(MinedPair(int(source), int(target), float(scores[index])))
    return mined


def best_threshold(mined: Sequence[MinedPair], gold: Collection[tuple[int, int]]) -> float:
    """Return the threshold with the highest F1, half-way between the last pair kept and the first pair dropped.

    Choose it on a development set and use it in :func:`mining_scores` on the test set, as BUCC does.

    Args:
      mined: pairs from :func:`mine`.
      gold: (source, target) pairs that are translations.

    Raises:
      UserError: there is no gold pair, or nothing was mined.
    """
    if not gold or not mined:
        raise UserError("choosing a mining threshold needs gold pairs and mined pairs")
    gold = set(gold)
    ordered = sorted(mined, key=lambda pair: -pair.score)
    correct = np.cumsum([(pair.source, pair.target) in gold for pair in ordered])
    scores = np.array([pair.score for pair in ordered])
    f1 = 2 * correct / (np.arange(1, len(ordered) + 1) + len(gold))  # 2PR/(P+R) with P = c/n and R = c/g
    separable = np.append(scores[:-1] > scores[1:], True)  # no threshold falls between equal scores
    last = int(np.where(separable, f1, -1.0).argmax())
    return float(scores[last] + scores[min(last + 1, len(scores) - 1)]) / 2


def mining_scores(mined: Sequence[MinedPair], gold: Collection[tuple[int, int]], threshold: float) -> MiningScores:
    """Measure the pairs that score at least ``threshold`` against the gold pairs.

    Raises:
      UserError: there is no gold pair.
    """
    if not gold:
        raise UserError("bitext mining cannot be measured without gold pairs")
    kept = {(pair.source, pair.target) for pair in mined if pair.score >= threshold}
    correct = len(kept & set(gold))
    precision = correct / len(kept) if kept else 0.0
    recall = correct / len(set(gold))
    f1 = 2 * correct / (len(kept) + len(set(gold)))
    return MiningScores(precision, recall, f1, threshold)
