"""Settings and made-up rows of our models for comparisons of speed; ``torch_models.py`` has transformers' side."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlm_jax.data.loading.batch import Rows

POST_NORM: dict[str, Any] = {  # layers as in BERT and XLM-R
    "position": "learned",
    "norm_position": "post",
    "norms": ("embedding",),
    "activation": "gelu",
    "biases": ("norm", "attention", "mlp", "head"),
    "global_every": 1,
}


def xlm_roberta(length: int) -> dict[str, Any]:
    """Return the keys of ``config.model`` that make an XLM-R for rows of ``length`` tokens, apart from its sizes."""
    return POST_NORM | {"max_positions": length + 2, "position_offset": 2, "embedding_types": 1}


def random_rows(rows: int, length: int, vocabulary: int) -> Rows:
    """Return rows of random tokens, ``[rows, length]`` each, the same ones at every call; each row is one document."""
    tokens = np.random.default_rng(0).integers(120, vocabulary, (rows, length)).astype(np.int32)
    positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    return Rows(tokens, np.ones_like(tokens), positions, np.zeros(rows, np.int32))
