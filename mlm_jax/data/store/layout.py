"""The token store: ragged arrays of token ids in Zarr 3, on any file system that TensorStore reads.

A store is a folder (or a ``gs://`` or ``s3://`` address)::

    manifest.json                              written last: a folder without it is no store
    vocabulary/…                               what Vocabulary.save wrote
    held_out                                   64-bit hashes of the held-out text, that training text was compared with
    dropped.jsonl                              samples of what filters dropped, if there were any
    <stream>/<split>/<feature>/values/         every document's values, one after another
    <stream>/<split>/<feature>/offsets/        where each document starts, and the end: documents + 1 numbers

The first token of a document is stored as its complement ``~id``, which is negative: a slice of the text says by itself
where its documents start, and packing needs no second look-up. ``Ragged.read`` undoes it.
"""

from __future__ import annotations

import hashlib

FORMAT = 1
MANIFEST = "manifest.json"
HELD_OUT = "held_out"
DROPPED = "dropped.jsonl"  # samples of what filters dropped
CLEANED = "cleaned"  # of a shard: what filters drop, for the shards that are made after it
UNFINISHED = "unfinished"  # at an address that cannot be renamed: a writer is at work, or was interrupted


def digest(content: bytes) -> str:
    """Return the checksum of a file, which the manifest holds."""
    return hashlib.sha256(content).hexdigest()
