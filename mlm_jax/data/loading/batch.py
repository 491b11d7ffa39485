"""Batches: rows of tokens, as NumPy arrays from the loader or JAX arrays for the model."""

from __future__ import annotations

from typing import Any, NamedTuple

Array = Any  # numpy.ndarray on the host, jax.Array on the device


class Rows(NamedTuple):
    """Rows of packed documents, usually of one language each; a JAX pytree, made without JAX.

    Attributes:
      tokens: ``[rows, length]`` int32 token ids.
      segment_ids: ``[rows, length]`` int32; 0 is padding, the documents of a row count from 1.
      positions: ``[rows, length]`` int32, restarting at 0 in every document.
      language: ``[rows]`` int32 index into the run's languages; ``[rows, length]`` if a row holds several languages
        (``tlm``).
    """

    tokens: Array
    segment_ids: Array
    positions: Array
    language: Array


# One task's part of a step: {"inputs": Rows} for text; also {"targets": Rows} for parallel text; also
# {"labels": [rows], [rows, length] or [rows, classes] int32, -1 = ignored} for text with labels.
# A step takes {task name: TaskBatch}.
TaskBatch = dict[str, Any]
Batch = dict[str, TaskBatch]
