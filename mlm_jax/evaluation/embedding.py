"""Documents of any length as batches of few shapes, and their sentence embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from mlm_jax.data.loading.batch import Rows

SHORTEST = 16  # tokens of the narrowest batch; widths double from here
CPU_TOKENS = 4_096  # tokens of a batch, including padding: on a CPU, the batch should fit into the cache;
ACCELERATOR_TOKENS = 32_768  # on an accelerator, the batch should be large enough to use it fully


class DocumentBatch(NamedTuple):
    """Which documents a batch holds, and its shape.

    Attributes:
      indices: the indices of the documents, at most ``rows``.
      rows: the number of rows of the batch; the rows after the documents are padding.
      length: tokens a row.
    """

    indices: np.ndarray
    rows: int
    length: int


def document_batches(
    lengths: Sequence[int], longest: int, *, multiple: int = 1, tokens: int = 0
) -> Iterator[DocumentBatch]:
    """Sort documents by length into batches, so that there is little padding and few shapes are compiled.

    Widths are powers of two (and ``longest``). Each width has two numbers of rows: as many as ``tokens`` allow, and an
    eighth of that for the last documents.

    Args:
      lengths: ``[documents]`` tokens of each; longer ones are cut to ``longest``.
      longest: the largest number of tokens of a row.
      multiple: the number of rows is a multiple of this, such as the number of devices that share the rows.
      tokens: the largest number of tokens of a batch, unless ``multiple`` needs more; 0: the platform's default.
    """
    tokens = tokens or (CPU_TOKENS if jax.default_backend() == "cpu" else ACCELERATOR_TOKENS)
    cut = np.minimum(np.asarray(lengths, np.int64), longest)
    widths = np.array([_width(int(length), longest) for length in cut], np.int64)
    order = np.argsort(widths, kind="stable")
    for width in np.unique(widths):
        mine = order[widths[order] == width]
        full = max(tokens // int(width) // multiple, 1) * multiple
        few = max(full // 8 // multiple, 1) * multiple
        start = 0
        while start < len(mine):
            rows = full if len(mine) - start > few else few
            yield DocumentBatch(mine[start : start + rows], rows, int(width))
            start += rows


def document_rows(documents: Sequence[np.ndarray], languages: Sequence[int], batch: DocumentBatch, pad_id: int) -> Rows:
    """Put each document of a batch into a row; a document that is too long keeps its first tokens and its last one.

    Args:
      documents: all of them, token ids.
      languages: index of each document's language.
      batch: the documents to take, and the shape.
      pad_id: token of padding.
    """
    tokens = np.full((batch.rows, batch.length), pad_id, np.int32)
    segments = np.zeros(tokens.shape, np.int32)
    language = np.zeros(batch.rows, np.int32)
    for row, index in enumerate(batch.indices):
        document = cut_document(documents[index], batch.length)
        tokens[row, : len(document)] = document
        segments[row, : len(document)] = 1
        language[row] = languages[index]
    positions = np.where(segments > 0, np.arange(batch.length, dtype=np.int32), 0)
    return Rows(tokens, segments, positions, language)


def cut_document(document: np.ndarray, length: int) -> np.ndarray:
    """Return at most ``length`` tokens of a document: its first ones and its last one, which ends it."""
    return document if len(document) <= length else np.append(document[: length - 1], document[-1])


def embed_documents(
    encode: Callable[[Rows], np.ndarray],
    documents: Sequence[np.ndarray],
    languages: Sequence[int],
    *,
    longest: int,
    pad_id: int,
    multiple: int = 1,
) -> np.ndarray:
    """Return ``[documents, width]`` float32 sentence embeddings in the order of the documents.

    Args:
      encode: rows → ``[rows, width]``.
      documents: token ids of each, at least one document.
      languages: index of each document's language.
      longest: the largest number of tokens of a row.
      pad_id: token of padding.
      multiple: the number of rows must be a multiple of this.
    """
    embedded: np.ndarray | None = None
    for batch in document_batches([len(document) for document in documents], longest, multiple=multiple):
        found = np.asarray(encode(document_rows(documents, languages, batch, pad_id)), np.float32)
        if embedded is None:
            embedded = np.empty((len(documents), found.shape[1]), np.float32)
        embedded[batch.indices] = found[: len(batch.indices)]
    if embedded is None:
        raise ValueError("there is no document to embed")
    return embedded


def _width(length: int, longest: int) -> int:
    width = SHORTEST
    while width < length:
        width *= 2
    return min(width, longest)
