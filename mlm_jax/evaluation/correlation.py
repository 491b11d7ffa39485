"""Pearson's and Spearman's correlation of predicted and gold numbers."""

from __future__ import annotations

import numpy as np

CORRELATIONS = ("pearson", "spearman")


def correlations(predicted: np.ndarray, gold: np.ndarray) -> dict[str, float]:
    """Return {"pearson": r, "spearman": ρ}, as STS is scored (Cer et al. 2017).

    Args:
      predicted: ``[examples]``.
      gold: ``[examples]``.

    Returns:
      {} if all numbers of one side are equal, so that there is no correlation.
    """
    from scipy import stats  # slow to import, and not needed by most runs

    if any(len(np.unique(side)) < 2 for side in (predicted, gold)):
        return {}
    both = np.asarray(predicted, np.float64), np.asarray(gold, np.float64)
    return {"pearson": float(stats.pearsonr(*both)[0]), "spearman": float(stats.spearmanr(*both)[0])}


def weighted_correlation(name: str, predicted: np.ndarray, gold: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the correlation in samples in which each example is repeated by its weight; NaN if it is not defined.

    Args:
      name: "pearson" | "spearman".
      predicted: ``[examples]``.
      gold: ``[examples]``.
      weights: ``[samples, examples]`` whole numbers.

    Returns:
      ``[samples]`` float64.
    """
    weights = weights.astype(np.float64)
    x, y = (np.broadcast_to(np.asarray(side, np.float64), weights.shape) for side in (predicted, gold))
    if name == "spearman":
        x, y = (weighted_ranks(np.asarray(side, np.float64), weights) for side in (predicted, gold))
    count = np.maximum(weights.sum(axis=1, keepdims=True), 1.0)
    x, y = (side - (weights * side).sum(axis=1, keepdims=True) / count for side in (x, y))
    covariance = (weights * x * y).sum(axis=1)
    variances = (weights * x**2).sum(axis=1) * (weights * y**2).sum(axis=1)
    return np.divide(covariance, np.sqrt(variances), out=np.full(len(weights), np.nan), where=variances > 0)


def weighted_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return ``[samples, examples]`` ranks of examples repeated by their weights; equal values share the mean rank."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    sizes = np.add.reduceat(weights[:, order], starts, axis=1)  # [samples, distinct values]
    ranks = np.cumsum(sizes, axis=1) - (sizes - 1) / 2
    return ranks[:, group]
