"""What travels from the loader to the model: rows of tokens, as NumPy or JAX arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

Array = Any  # numpy.ndarray on the host, jax.Array on the device


class Rows(NamedTuple):
    """Rows of packed documents, a row of one language as a rule; a JAX pytree that needs no JAX to build.

    Attributes:
      tokens: ``[rows, length]`` int32 token ids.
      segment_ids: ``[rows, length]`` int32; 0 is padding, the documents of a row count from 1.
      positions: ``[rows, length]`` int32, restarting at 0 in every document.
      language: ``[rows]`` int32 index into the run's languages; ``[rows, length]`` where a row holds several (``tlm``).
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
