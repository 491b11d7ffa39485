"""Rows of a batch, read from the store: slices packed into rows, or one document a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from mlm_jax.data.loading.batch import Rows
from mlm_jax.data.loading.order import Slices
from mlm_jax.data.store.ragged import Ragged
from mlm_jax.data.store.two_texts import joined


def read_packed(features: Sequence[Ragged], slices: Slices, language: np.ndarray, length: int, pad_id: int) -> Rows:
    """Read slices of text into rows; segments and positions restart at each document and each slice.

    Args:
      features: ``[streams]``; ``slices.stream`` is an index into them.
      slices: the slices to read; a row without slices is padding.
      language: ``[rows]`` of the result.
      length: tokens a row.
      pad_id: token of padding.

    Returns:
      Rows of ``[rows, length]`` arrays.
    """
    reading = [
        (which, features[stream].values.request(slices.start[which], slices.stop[which]))
        for stream, which in _groups(slices.stream)
    ]
    tokens = np.empty((len(language), length), np.int32)
    used = np.zeros(len(language), np.int64)  # tokens of each row
    np.add.at(used, slices.row, slices.stop - slices.start)
    for short in np.flatnonzero(used < length):
        tokens[short, used[short] :] = pad_id
    for which, result in reading:
        for row, column, part in zip(slices.row[which].tolist(), slices.column[which].tolist(), result()):
            tokens[row, column : column + len(part)] = part
    flat = tokens.reshape(-1)
    documents = np.flatnonzero(flat < 0)  # the complement marks the first token of a document
    flat[documents] = ~flat[documents]
    rows = np.arange(len(language)) * length
    begins = np.unique(np.concatenate([documents, rows, slices.row * length + slices.column]))
    return Rows(tokens, *_segments(begins, used, length), language)


def read_documents(
    features: Sequence[Ragged],
    stream: np.ndarray,
    document: np.ndarray,
    length: int,
    pad: int,
    separator: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Read one document a row; a document that is too long keeps its first values and its last one, which ends it.

    Of two texts with a separator between them, the longer one is cut, and both once they are equally long.

    Args:
      features: ``[streams]``; ``stream`` is an index into them.
      stream: ``[rows]``.
      document: ``[rows]`` index in its stream.
      length: values a row.
      pad: value of padding.
      separator: the value between two texts; None: each document is one text.

    Returns:
      ``[rows, length]`` int32 values, and ``[rows]`` the number of values of each row.
    """
    bounds = np.zeros((len(stream), 2), np.int64)
    groups = list(_groups(stream))
    for which, result in [(w, features[s].offsets.request(document[w], document[w] + 2)) for s, w in groups]:
        bounds[which] = result()
    whole = bounds[:, 1] - bounds[:, 0]
    counts = np.minimum(whole, length)
    needed = counts if separator is None else whole  # if there are two texts, the end of the second one
    values = np.full((len(stream), length), pad, np.int32)
    reading = []
    for number, which in groups:
        start, stop = bounds[which].T
        request = features[number].values.request
        reading.append((which, request(start, start + needed[which]), request(stop - 1, stop)))
    for which, result, closing in reading:
        for row, document_values, last in zip(which.tolist(), result(), closing()):
            if separator is not None and len(document_values) > length:
                document_values = _shortened(document_values, length, separator)
            values[row, : counts[row]] = document_values
            values[row, counts[row] - 1] = last[0] if counts[row] > 1 else document_values[0]
    return values, counts


def _shortened(values: np.ndarray, length: int, separator: int) -> np.ndarray:
    """Return the first ``length`` values of a document; of two texts, with their separator and their end, the values that fit."""
    between = np.flatnonzero(values[:-1] == separator)
    if not len(between) or (np.diff(between) != 1).any():  # a separator is one token, or some in a row
        return values[:length]
    first, second = values[: between[0]].tolist(), values[between[-1] + 1 : -1].tolist()
    return np.array([*joined(first, second, values[between].tolist(), length - 1), values[-1]])


def whole_documents(values: np.ndarray, counts: np.ndarray, language: np.ndarray) -> Rows:
    """Return rows of one document each, from the tokens that :func:`read_documents` returned."""
    column = np.arange(values.shape[1], dtype=np.int32)
    real = column < counts[:, None]  # [rows, length]
    return Rows(values ^ (values >> 31), real.astype(np.int32), np.where(real, column, 0).astype(np.int32), language)


def _segments(begins: np.ndarray, used: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return segment ids, from 1 in every row, and positions; both are 0 in the padding after ``used`` tokens.

    Args:
      begins: sorted indices into ``[rows * length]`` of the first tokens of segments, those of each row's first token
        included.
      used: ``[rows]``.
      length: the length of a row.
    """
    size = len(used) * length
    lengths = np.diff(begins, append=size)
    row = begins // length
    number = np.arange(1, len(begins) + 1) - np.searchsorted(row, np.arange(len(used)))[row]
    segment_ids = np.repeat(number.astype(np.int32), lengths).reshape(-1, length)
    positions = np.repeat(begins.astype(np.int32), lengths)
    positions = np.subtract(_places(size), positions, out=positions).reshape(-1, length)
    for short in np.flatnonzero(used < length):
        segment_ids[short, used[short] :] = 0
        positions[short, used[short] :] = 0
    return segment_ids, positions


@lru_cache(maxsize=8)
def _places(size: int) -> np.ndarray:
    """Return 0 … size - 1; cached: making it for every batch would cost as much as the positions themselves."""
    return np.arange(size, dtype=np.int32)


def _groups(stream: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each stream that occurs, with its indices."""
    order = np.argsort(stream, kind="stable")
    streams, first = np.unique(stream[order], return_index=True)
    yield from zip(streams.tolist(), np.split(order, first[1:]))
