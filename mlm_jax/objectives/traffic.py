"""How much an objective makes a model compute, in rows, positions and products."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What goes through the model in one step of a task.

    Attributes:
      rows, length: of the encoder.
      target_rows, target_length: of the decoder; 0 without one.
      predicted: positions that are scored against the vocabulary.
      headed: the number of those positions that pass the masked language modelling head.
      measured: positions that are scored, head included, without a backward pass.
      aligned: rows of the encoder that look at other rows of it through cross-lingual attention.
      compared: products of two sentence embeddings.
      classified: vectors that a classifier sees.
    """

    rows: int
    length: int
    target_rows: int = 0
    target_length: int = 0
    predicted: int = 0
    headed: int = 0
    measured: int = 0
    aligned: int = 0
    compared: int = 0
    classified: int = 0
