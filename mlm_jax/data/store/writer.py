"""Write a token store: whole, or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import tensorstore as ts

from mlm_jax.common.addresses import is_local
from mlm_jax.common.disk import REMEDIES, disk_problem
from mlm_jax.common.errors import UserError, nearest, one_line
from mlm_jax.common.files import remove_abandoned, whole_folder
from mlm_jax.common.lock import only_writer, remove_abandoned_lock
from mlm_jax.common.objects import FAILURES, open_keys
from mlm_jax.common.seal import sealed
from mlm_jax.data.store.addresses import quoted
from mlm_jax.data.store.layout import FORMAT, HELD_OUT, MANIFEST, UNFINISHED, sha256
from mlm_jax.data.store.manifest import FEATURES, TOKENS
from mlm_jax.data.store.ragged import (
    FILE_VALUES,
    OFFSETS_BLOCK,
    VALUES_BLOCK,
    Growing,
    create,
    description_checksum,
    unwritten,
)
from mlm_jax.data.store.store import Stream
from mlm_jax.data.vocabulary.pieces import Vocabulary


def remove_leftovers(folder: str | Path) -> None:
    """Remove files that killed writers of a local store left beside it; files that a running process holds stay."""
    if is_local(folder):
        remove_abandoned(Path(folder))
        for path in (folder, f"{folder}.shards"):
            remove_abandoned_lock(path)


class StoreWriter:
    """Writes a store. It is a context manager: the folder appears when the store is complete, or not at all.

    A local store has one writer at a time, which writes a folder beside it and renames it at the end. In a bucket, the manifest is
    written last. Memory grows with the number of streams only: for each array, the values of one file (1 Mi) wait, and one file is
    being written.

    Args:
      folder: folder of the new store. An existing store is replaced; a folder with anything else in it is an error.
      vocabulary: vocabulary of the tokens.
      languages: codes in index order.

    Attributes:
      labels: {stream: names of its classes}, to be set before the end.
      rates: {stream: mixing rate of the seqio mixture}, to be set before the end.
      facts: other facts for the manifest, as JSON, such as fingerprints of sources and counts of skipped lines.
      held_out: hashes of the held-out text, as bytes.
      files: {name: content} of other files beside the arrays; empty ones are not written.
    """

    def __init__(self, folder: str | Path, vocabulary: Vocabulary, languages: Sequence[str]):
        self.folder, self.vocabulary, self.languages = str(folder), vocabulary, tuple(languages)
        self.labels: dict[str, tuple[str, ...]] = {}
        self.rates: dict[str, float] = {}
        self.facts: dict[str, Any] = {}
        self.held_out = b""
        self.files: dict[str, bytes] = {}
        self._held = ExitStack()
        self._streams: dict[str, dict[str, Any]] = {}
        self._arrays: dict[str, Growing] = {}
        self._dtype = np.dtype(np.int16 if vocabulary.size <= 1 << 15 else np.int32)
        self._context = ts.Context({"cache_pool": {"total_bytes_limit": 0}})

    def __enter__(self) -> StoreWriter:
        local = is_local(self.folder)
        try:
            if local:
                final = Path(self.folder)
                foreign = final.exists() and not (final / MANIFEST).exists() and _holds_something(final)
                if not foreign:
                    self._held.enter_context(only_writer(self.folder))
                    self._keys = open_keys(self._held.enter_context(whole_folder(self.folder)))
            else:
                self._keys = open_keys(self.folder)
                ours = any(self._keys.read(name).result().state == "value" for name in (MANIFEST, UNFINISHED))
                foreign = not ours and bool(self._keys.list().result())
            if foreign:
                remedy = "name another folder in data.store"
                raise UserError("this is neither a token store nor an empty folder", file=self.folder, remedy=remedy)
            if not local:
                self._clear()
        except FAILURES as error:
            problem = disk_problem(error)
            message = problem or f"cannot write a token store: {one_line(error)}"
            raise UserError(message, file=self.folder, remedy=REMEDIES.get(problem, "")) from error
        return self

    def _clear(self) -> None:
        """Empty an address. The manifest goes first, so that no half-removed store can be read; UNFINISHED marks it as ours."""
        self._keys.write(UNFINISHED, b"").result()
        self._keys.write(MANIFEST, None).result()
        self._keys.delete_range(ts.KvStore.KeyRange(exclusive_max=UNFINISHED)).result()
        self._keys.delete_range(ts.KvStore.KeyRange(inclusive_min=UNFINISHED + "\0")).result()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._held:  # renames the folder, or removes it after an error; then releases the lock
            self._held.callback(self._abandon)
            if error is not None:
                raise error
            try:
                self._finish()
            except FAILURES as failure:
                raise unwritten(failure, self.folder) from failure

    def _abandon(self) -> None:
        for array in self._arrays.values():
            array.abandon()

    def add(
        self,
        stream: str,
        kind: str,
        languages: Sequence[str],
        split: str,
        features: Mapping[str, Sequence[Sequence[int] | np.ndarray]],
        *,
        characters: int = 0,
        bytes: int = 0,
    ) -> None:
        """Append documents to a split of a stream.

        Args:
          stream: name of the stream, which is new if it has no documents yet.
          kind: one of :data:`.FEATURES`.
          languages: language of the stream; for a pair, those of inputs and targets.
          split: train | validation.
          features: {feature: a sequence of numbers for each document}.
          characters: number of characters of these documents' text.
          bytes: number of bytes of these documents' text, in UTF-8.

        Raises:
          UserError: a document is empty, a token is outside the vocabulary, the features do not match, the stream was
            begun as something else, or the disk is full.
        """
        entry = self._entry(stream, kind, tuple(languages), split)
        if set(features) != set(FEATURES[kind]):
            raise UserError(f"stream {stream!r} of kind {kind} needs {FEATURES[kind]}, not {tuple(features)}")
        counts = {len(documents) for documents in features.values()}
        if len(counts) != 1:
            raise UserError(f"stream {stream!r}: the features have {sorted(counts)} documents, which must be the same")
        lengths = {name: np.fromiter(map(len, docs), np.int64, len(docs)) for name, docs in features.items()}
        if "labels" in features:
            _check_labels(stream, kind, entry["features"]["labels"], lengths["labels"], lengths["inputs"])
        for name, documents in features.items():
            self._append(stream, split, entry, name, documents, lengths[name])
        entry["documents"] += counts.pop()
        entry["tokens"] += int(sum(lengths[name].sum() for name in features if name in TOKENS))
        entry["characters"] += characters
        entry["bytes"] += bytes

    def extend(self, stream: Stream, split: str) -> None:
        """Append a split of a stream of another store with the same vocabulary, in bounded memory.

        Raises:
          UserError: the other store is corrupt, the stream was begun as something else, or the disk is full.
        """
        found = stream.split(split)
        entry = self._entry(stream.name, stream.kind, stream.languages, split)
        for name, facts in entry["features"].items():
            part, path = found[name], f"{quoted(stream.name)}/{split}/{name}"
            if facts["values"] and facts["per_token"] != part.per_token:
                raise UserError(
                    f"stream {stream.name!r} has a label for each token in one store, for each document in another"
                )
            try:
                values = self._growing(f"{path}/values", self._dtype_of(name), VALUES_BLOCK)
                offsets = self._growing_offsets(path)
                base = values.size
                for start in range(1, len(part.offsets), FILE_VALUES):
                    offsets.append(base + part.offsets.read(start, min(start + FILE_VALUES, len(part.offsets))))
                for start in range(0, len(part.values), FILE_VALUES):
                    values.append(part.values.read(start, min(start + FILE_VALUES, len(part.values))))
            except FAILURES as error:
                raise unwritten(error, f"{self.folder}/{path}") from error
            facts |= {
                "values": values.size,
                "longest": max(facts["longest"], part.longest),
                "per_token": part.per_token,
            }
        for size in ("documents", "tokens", "characters", "bytes"):
            entry[size] += getattr(found, size)

    @property
    def streams(self) -> dict[str, tuple[str, ...]]:
        """{stream: splits} of the streams that have documents."""
        return {name: tuple(begun["splits"]) for name, begun in self._streams.items()}

    def _entry(self, stream: str, kind: str, languages: tuple[str, ...], split: str) -> dict[str, Any]:
        """Return the manifest's entry for a split; a new one if the split has no documents yet."""
        if kind not in FEATURES:
            raise UserError(f"stream {stream!r} is of unknown kind {kind!r}{nearest(kind, FEATURES)}")
        for language in languages:
            if language not in self.languages:
                raise UserError(f"stream {stream!r} is of language {language!r}{nearest(language, self.languages)}")
        if len(languages) != (2 if kind == "pairs" else 1):
            raise UserError(f"stream {stream!r} of kind {kind} has {len(languages)} languages")
        begun = self._streams.setdefault(stream, {"kind": kind, "languages": list(languages), "splits": {}})
        if (begun["kind"], begun["languages"]) != (kind, list(languages)):
            raise UserError(f"stream {stream!r} was begun as {begun['kind']} in {begun['languages']}")
        if split not in begun["splits"]:
            features = {
                name: {"values": 0, "longest": 0, "per_token": name in TOKENS, "complemented": name in TOKENS}
                for name in FEATURES[kind]
            }
            begun["splits"][split] = {
                "documents": 0,
                "tokens": 0,
                "characters": 0,
                "bytes": 0,
                "features": features,
            }
        return begun["splits"][split]

    def _append(
        self, stream: str, split: str, entry: dict, name: str, documents: Sequence, lengths: np.ndarray
    ) -> None:
        path = f"{quoted(stream)}/{split}/{name}"
        facts = entry["features"][name]
        if len(lengths) and not lengths.min():
            raise UserError(f"stream {stream!r}: document {entry['documents'] + int(lengths.argmin())} has no {name}")
        values = _concatenate(documents, int(lengths.sum()))
        least = -(1 << 31) if self._streams[stream]["kind"] == "scored" else -1  # of labels
        low, high = (0, self.vocabulary.size) if name in TOKENS else (least, 1 << 31)
        if len(values) and (values.min() < low or values.max() >= high):
            worst = int(values.min() if values.min() < low else values.max())
            raise UserError(f"stream {stream!r}: {name} holds {worst}, which is outside [{low}, {high})")
        ends = np.cumsum(lengths)
        if name in TOKENS:
            starts = ends - lengths
            values[starts] = ~values[starts]
        dtype = self._dtype_of(name)
        try:
            grown, offsets = self._growing(f"{path}/values", dtype, VALUES_BLOCK), self._growing_offsets(path)
            offsets.append(grown.size + ends)
            grown.append(values.astype(dtype))
        except FAILURES as error:
            raise unwritten(error, f"{self.folder}/{path}") from error
        facts["values"] = grown.size
        facts["longest"] = max(facts["longest"], int(lengths.max(initial=0)))

    def _dtype_of(self, feature: str) -> np.dtype:
        return self._dtype if feature in TOKENS else np.dtype(np.int32)

    def _growing_offsets(self, path: str) -> Growing:
        new = f"{path}/offsets" not in self._arrays
        offsets = self._growing(f"{path}/offsets", np.dtype(np.int64), OFFSETS_BLOCK)
        if new:
            offsets.append(np.zeros(1, np.int64))
        return offsets

    def _growing(self, path: str, dtype: np.dtype, block: int) -> Growing:
        if path not in self._arrays:
            self._arrays[path] = create(self._keys / f"{path}/", dtype, block, self._context)
        return self._arrays[path]

    def _finish(self) -> None:
        for array in self._arrays.values():
            array.finish()
        for name, content in self.vocabulary.files().items():
            self._keys.write(f"vocabulary/{name}", content).result()
        if self.held_out:
            self._keys.write(HELD_OUT, self.held_out).result()
        self.files = {name: content for name, content in self.files.items() if content}
        for name, content in self.files.items():
            self._keys.write(name, content).result()
        self._keys.write(MANIFEST, json.dumps(sealed(self._manifest()), indent=1, ensure_ascii=False).encode()).result()
        if not is_local(self.folder):
            self._keys.write(UNFINISHED, None).result()

    def _manifest(self) -> dict[str, Any]:
        for name in self.labels | self.rates:
            if name not in self._streams:
                raise UserError(f"labels or a rate for stream {name!r}, which has no documents", file=self.folder)
        streams = {
            name: entry
            | {
                "splits": dict(sorted(entry["splits"].items())),
                "labels": list(self.labels.get(name, ())),
                "rate": self.rates.get(name),
            }
            for name, entry in self._streams.items()
        }
        facts = ("fingerprint", "size", "pad_id", "eos_id")
        return {
            "format": FORMAT,
            "vocabulary": {fact: getattr(self.vocabulary, fact) for fact in facts},
            "languages": list(self.languages),
            "streams": streams,
            "arrays": {path: description_checksum(self._keys / f"{path}/") for path in self._arrays},
            HELD_OUT: sha256(self.held_out),
            **({"files": {name: sha256(content) for name, content in self.files.items()}} if self.files else {}),
            "facts": self.facts,
        }


def _concatenate(documents: Sequence, size: int) -> np.ndarray:
    """Return the numbers of all documents as a new int32 array."""
    if documents and isinstance(documents[0], np.ndarray):
        return np.concatenate(documents, dtype=np.int32)
    return np.fromiter(chain.from_iterable(documents), np.int32, size)


def _check_labels(stream: str, kind: str, facts: dict[str, Any], labels: np.ndarray, inputs: np.ndarray) -> None:
    """Find from the first documents whether each token has a label, and check that later documents agree."""
    if not len(labels):
        return
    if not facts["values"]:
        facts["per_token"] = kind == "questions" or (kind == "labelled" and not (labels == 1).all())
    each = (facts["longest"] or labels[0]) if kind == "multilabelled" else 1
    wrong = labels != (inputs if facts["per_token"] else each)
    if wrong.any():
        index = int(wrong.argmax())
        wanted = f"one for each token ({inputs[index]})" if facts["per_token"] else f"{each} for each document"
        raise UserError(f"stream {stream!r}: a document has {labels[index]} labels, but the stream has {wanted}")


def _holds_something(path: Path) -> bool:
    return not path.is_dir() or any(path.iterdir())
