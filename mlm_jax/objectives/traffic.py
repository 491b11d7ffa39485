"""The amount of computation of an objective, in rows, positions and products."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Rows, positions and products of one step of a task, from which FLOPs are computed.

    Attributes:
      rows, length: rows of the encoder and their length.
      target_rows, target_length: rows of the decoder and their length; 0 without a decoder.
      predicted: positions that are scored against the vocabulary.
      headed: the number of those positions that pass the masked language modelling head.
      measured: positions that are scored, head included, without a backward pass.
      aligned: rows of the encoder that attend to other rows through cross-lingual attention.
      compared: products of two sentence embeddings.
      classified: vectors that a classifier gets.
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
