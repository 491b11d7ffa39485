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
