"""Sizes of the decompressed pages of a Parquet column, read from the headers of the pages.

A page is decompressed as a whole, so its size bounds the memory. PyArrow gives sizes of whole columns only.

Source: Apache Parquet format 2.11 (``PageHeader``); Apache Thrift, compact protocol.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

MOST_HEADER = 1 << 20  # bytes; a header may contain the smallest and the largest value of the page
DEEPEST = 8  # nested structs of a header
TYPE, UNPACKED, PACKED = 1, 2, 3  # fields of PageHeader
# Types of Thrift's compact protocol.
BOOLEANS, BYTE, INTEGERS, DOUBLE, BINARY, LISTS, MAP, STRUCT = (1, 2), 3, (4, 5, 6), 7, 8, (9, 10), 11, 12


def page_sizes(file: BinaryIO, column: Any) -> Iterator[int]:
    """Yield the decompressed size, in bytes, of each page of a column of a row group.

    Args:
      file: the Parquet file.
      column: PyArrow's ``ColumnChunkMetaData``.

    Raises:
      ValueError: a header is damaged.
    """
    starts = [column.data_page_offset, *([column.dictionary_page_offset] if column.has_dictionary_page else [])]
    position = min(starts)
    end = position + column.total_compressed_size
    while position < end:
        file.seek(position)
        header = _Header(file.read(MOST_HEADER))
        fields = header.integers()
        if fields.get(UNPACKED, -1) < 0 or fields.get(PACKED, -1) < 0:
            raise ValueError("a page without a size")
        yield fields[UNPACKED]
        position += header.position + fields[PACKED]


class _Header:
    """Reads one struct in Thrift's compact protocol."""

    def __init__(self, content: bytes):
        self.content, self.position = content, 0

    def integers(self) -> dict[int, int]:
        """Read the struct, and return {field: value} of its integers, without those of nested structs."""
        found: dict[int, int] = {}
        for field, kind in self._fields():
            if kind in INTEGERS:
                value = self._varint()
                found[field] = (value >> 1) ^ -(value & 1)  # zigzag
            else:
                self._skip(kind, DEEPEST)
        return found

    def _fields(self) -> Iterator[tuple[int, int]]:
        field = 0
        while head := self._byte():
            step, kind = head >> 4, head & 15
            if step:
                field += step
            else:
                value = self._varint()
                field = (value >> 1) ^ -(value & 1)
            yield field, kind

    def _skip(self, kind: int, depth: int) -> None:
        if not depth:
            raise ValueError("a page header nested too deeply")
        if kind in BOOLEANS:
            return
        if kind == BYTE:
            self.position += 1
        elif kind in INTEGERS:
            self._varint()
        elif kind == DOUBLE:
            self.position += 8
        elif kind == BINARY:
            size = self._varint()
            self.position += size
        elif kind == STRUCT:
            for _, inner in self._fields():
                self._skip(inner, depth - 1)
        elif kind in LISTS:
            head = self._byte()
            size = self._varint() if head >> 4 == 15 else head >> 4
            for _ in range(min(size, MOST_HEADER)):
                self._skip(BYTE if head & 15 in BOOLEANS else head & 15, depth - 1)
        else:
            raise ValueError(f"a page header with a field of type {kind}")

    def _byte(self) -> int:
        if self.position >= len(self.content):
            raise ValueError("a page header that is cut short")
        self.position += 1
        return self.content[self.position - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a page header with an endless number")
