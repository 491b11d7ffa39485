"""Shares of languages in the training text: sampling rates by alpha, and UniMax."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def rates(sizes: Sequence[float] | np.ndarray, alpha: float) -> np.ndarray:
    """Return each language's share of the training text: its share of the corpus ** alpha, normalised to sum to one.

    Args:
      sizes: ``[languages]`` tokens, at least 0; a language of size 0 has share 0, also if alpha is 0.
      alpha: 1 is proportional, 0 uniform.

    Source: Devlin et al. 2019 (multilingual BERT); Conneau and Lample 2019, section 3.1.
    """
    sizes = np.asarray(sizes, np.float64)
    weights = np.where(sizes > 0, (sizes / sizes.sum()) ** alpha, 0.0)
    return weights / weights.sum()


def unimax(sizes: Sequence[float] | np.ndarray, budget: float, epochs: float) -> np.ndarray:
    """Share a budget equally among languages, but repeat no language more than ``epochs`` times.

    Args:
      sizes: ``[languages]`` tokens.
      budget: tokens of the training run.
      epochs: most repetitions of a language's text.

    Returns:
      ``[languages]`` tokens; they sum to the budget, or to ``epochs * sum(sizes)`` if that is less.

    Source: Chung et al. 2023 (UniMax), algorithm 1.
    """
    caps = np.asarray(sizes, np.float64) * epochs
    budgets = np.zeros_like(caps)
    remaining = float(budget)
    for done, index in enumerate(np.argsort(caps, kind="stable")):
        budgets[index] = min(caps[index], remaining / (len(caps) - done))
        remaining -= budgets[index]
    return budgets
