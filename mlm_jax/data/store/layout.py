"""The token store: ragged arrays of token ids in Zarr 3, on any file system that TensorStore reads.

A store is a folder (or a ``gs://`` or ``s3://`` address)::

    manifest.json                              written last: a folder without it is not a store
    vocabulary/…                               files of the vocabulary
    held_out                                   64-bit hashes of the held-out text that training text was compared with
    dropped.jsonl                              samples of what filters dropped, if there were any
    <stream>/<split>/<feature>/values/         the values of all documents, concatenated
    <stream>/<split>/<feature>/offsets/        documents + 1 numbers: the start of each document, and the end

The first token of a document is stored as its complement ``~id``, which is negative. So any slice of the values shows where
documents start, and packing rows need not read the offsets. ``Ragged.read`` undoes the complement.
"""

from __future__ import annotations

import hashlib

FORMAT = 1
MANIFEST = "manifest.json"
HELD_OUT = "held_out"
DROPPED = "dropped.jsonl"  # samples of what filters dropped
CLEANED = "cleaned"  # in a shard only: verdicts of the filters, for shards that are made later
UNFINISHED = "unfinished"  # in a bucket, where nothing can be renamed: a writer is at work, or was interrupted


def sha256(content: bytes) -> str:
    """Return the checksum of a file, as in the manifest."""
    return hashlib.sha256(content).hexdigest()
