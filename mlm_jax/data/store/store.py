"""Read a token store, on any file system that TensorStore reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tensorstore as ts

from mlm_jax.common.addresses import is_local
from mlm_jax.common.errors import UserError, nearest, one_line
from mlm_jax.common.files import inside
from mlm_jax.common.foreign_files import MOST_JSON, MOST_TOKENIZER, check_file, check_folder, parse_json
from mlm_jax.common.objects import FAILURES, open_keys
from mlm_jax.common.seal import unsealed
from mlm_jax.config.sources import SEPARATOR
from mlm_jax.data.store.addresses import quoted
from mlm_jax.data.store.layout import FORMAT, HELD_OUT, MANIFEST, sha256
from mlm_jax.data.store.manifest import check_manifest
from mlm_jax.data.store.ragged import (
    DESCRIPTION,
    MAKE_ANEW,
    Flat,
    Ragged,
    corrupt,
    open_flat,
)
from mlm_jax.data.vocabulary.folder import read_vocabulary
from mlm_jax.data.vocabulary.pieces import Vocabulary

MOST_BYTES = 1 << 29  # of a file that is not an array: 64 million hashes of held-out texts
CACHE_BYTES = 256 << 20  # of decoded blocks of all arrays of a store


class Split:
    """The examples of one stream that are for training, or for validation.

    Attributes:
      documents: number of documents.
      tokens: number of tokens, of all features that hold tokens.
      characters, bytes: size of the documents' text, without tokens that prepare added.
    """

    def __init__(self, store: Store, path: str, facts: Mapping[str, Any]):
        self._store, self._path, self._facts = store, path, facts
        self._features: dict[str, Ragged] = {}
        self.documents: int = facts["documents"]
        self.tokens: int = facts["tokens"]
        self.characters: int = facts["characters"]
        self.bytes: int = facts["bytes"]

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features."""
        return tuple(self._facts["features"])

    def values(self, feature: str) -> int:
        """Return the number of values of a feature, without opening it."""
        return self._facts["features"][feature]["values"]

    def longest(self, feature: str) -> int:
        """Return the number of values of a feature's longest document, without opening it."""
        return self._facts["features"][feature]["longest"]

    def __getitem__(self, feature: str) -> Ragged:
        if feature not in self._features:
            facts = self._facts["features"][feature]
            values = self._store._array(f"{self._path}/{feature}/values", facts["values"])
            offsets = self._store._array(f"{self._path}/{feature}/offsets", self.documents + 1)
            self._features[feature] = Ragged(values, offsets, facts)
        return self._features[feature]


@dataclass(frozen=True)
class Stream:
    """The examples of one seqio task.

    Attributes:
      name: name of the task.
      kind: one of :data:`.FEATURES`.
      languages: its language, or the two languages of a pair.
      labels: names of the classes; () for a stream without classes.
      rate: mixing rate in the user's seqio mixture; None: there is none.
      splits: {train | validation: the split}.
    """

    name: str
    kind: str
    languages: tuple[str, ...]
    labels: tuple[str, ...]
    rate: float | None
    splits: dict[str, Split]

    @property
    def source(self) -> str:
        """Name among several sources of the same language or pair; "" if it is the only source."""
        of, _, source = self.name.partition(SEPARATOR)
        return source if of == "-".join(self.languages) else ""

    def split(self, name: str) -> Split:
        """Return a split.

        Raises:
          UserError: there is none of this name.
        """
        if name not in self.splits:
            raise UserError(f"stream {self.name!r} has no {name} examples", remedy="see data.validation in the config")
        return self.splits[name]


class Store:
    """A token store, read lazily.

    Attributes:
      folder: folder or address of the store.
      manifest: the parsed manifest.json.
      streams: {name: Stream}.
      languages: codes in index order.
    """

    def __init__(self, folder: str, keys: ts.KvStore, manifest: dict[str, Any], cache_bytes: int):
        self.folder, self.manifest, self._keys = folder, manifest, keys
        self._context = ts.Context({"cache_pool": {"total_bytes_limit": cache_bytes}})
        self.languages: tuple[str, ...] = tuple(manifest["languages"])
        self.streams = {name: self._stream(name, facts) for name, facts in manifest["streams"].items()}

    @classmethod
    def open(cls, folder: str | Path, cache_bytes: int = CACHE_BYTES) -> Store:
        """Open a store: a local folder, or any address that TensorStore knows (``gs://…``, ``s3://…``, ``file://…``).

        Args:
          folder: folder or address of the store.
          cache_bytes: most bytes of decoded blocks that are kept in memory.

        Raises:
          UserError: there is no store, or its manifest is corrupt or of another format.
        """
        file = f"{folder}/{MANIFEST}"
        keys = open_keys(folder)
        try:
            found = _read(keys, folder, MANIFEST)
        except FAILURES as error:
            raise UserError(f"cannot read the token store: {one_line(error)}", file=file) from error
        if found.state != "value":
            raise UserError(
                "there is no token store here", file=folder, remedy="run mlm-jax prepare with --config and --workdir"
            )
        try:
            manifest = unsealed(_parsed(found.value, file))
            if manifest["format"] != FORMAT:
                raise UserError(
                    f"the token store is of format {manifest['format']}, this version reads {FORMAT}",
                    file=file,
                    remedy=MAKE_ANEW,
                )
            check_manifest(manifest)
            return cls(str(folder), keys, manifest, cache_bytes)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise corrupt(error, file) from error

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the tokens.

        Raises:
          UserError: it is missing or damaged, or its fingerprint is not that of the manifest.
        """
        folder = f"{self.folder}/vocabulary"
        try:
            vocabulary = read_vocabulary(self._vocabulary_file, folder)
        except UserError as error:
            raise UserError(error.problem, file=folder, remedy=MAKE_ANEW) from error
        if vocabulary.fingerprint != self.manifest["vocabulary"]["fingerprint"]:
            raise UserError(
                "the vocabulary is not the one that the store was made with",
                file=folder,
                remedy=MAKE_ANEW,
            )
        return vocabulary

    def _vocabulary_file(self, name: str) -> bytes:
        try:
            found = _read(self._keys, self.folder, f"vocabulary/{name}", MOST_TOKENIZER)
        except FAILURES as error:
            raise corrupt(error, f"{self.folder}/vocabulary/{name}") from error
        if found.state != "value":
            raise FileNotFoundError(name)
        return found.value

    @property
    def held_out(self) -> bytes:
        """Hashes of the held-out text, as :class:`.HeldOut` packs them; b"" if the store has none.

        Raises:
          UserError: they are missing or not as they were written.
        """
        content = _read(self._keys, self.folder, HELD_OUT).value
        if self.manifest.get(HELD_OUT, found := sha256(content)) != found:
            raise corrupt(
                ValueError("it has changed since it was written: its checksum differs"), f"{self.folder}/{HELD_OUT}"
            )
        return content

    def file(self, name: str) -> bytes:
        """Return another file of the store, :data:`DROPPED` or :data:`CLEANED`; b"" if it has none.

        Raises:
          UserError: it is missing or has changed since it was written.
        """
        wanted = self.manifest.get("files", {}).get(name)
        content = _read(self._keys, self.folder, name).value if wanted else b""
        if wanted and sha256(content) != wanted:
            raise corrupt(
                ValueError("it has changed since it was written: its checksum differs"), f"{self.folder}/{name}"
            )
        return content

    def stream(self, name: str) -> Stream:
        """Return a stream.

        Raises:
          UserError: there is none of this name; the nearest is named.
        """
        if name not in self.streams:
            raise UserError(f"the token store has no stream {name!r}{nearest(name, self.streams)}", file=self.folder)
        return self.streams[name]

    def _stream(self, name: str, facts: dict[str, Any]) -> Stream:
        splits = {}
        for split, of_split in facts["splits"].items():
            for step in (split, *of_split["features"]):
                inside(self.folder, step)  # a part of a path
            splits[split] = Split(self, f"{quoted(name)}/{split}", of_split)
        languages, labels = tuple(facts["languages"]), tuple(facts["labels"])
        return Stream(name, facts["kind"], languages, labels, facts["rate"], splits)

    def _array(self, path: str, size: int) -> Flat:
        arrays = self.manifest.get("arrays", {})  # missing in stores of older versions
        checksum = arrays.get(path, "") if isinstance(arrays, Mapping) else ""
        if is_local(self.folder) and (folder := Path(self.folder, path)).is_dir():
            check_folder(folder)
            if (folder / DESCRIPTION).exists():
                check_file(folder / DESCRIPTION, MOST_JSON)
        return open_flat(self._keys / f"{path}/", size, f"{self.folder}/{path}", self._context, checksum)


def _parsed(content: bytes, file: str) -> dict[str, Any]:
    try:
        return parse_json(content, Path(file))
    except UserError as error:
        raise corrupt(ValueError(error.problem), file) from error


def _read(keys: ts.KvStore, folder: str | Path, name: str, most: float = MOST_BYTES) -> Any:
    """Return what TensorStore reads of a file that is not an array; a local file is checked first.

    Raises:
      UserError: the file is not regular, or has more than ``most`` bytes.
    """
    file = Path(folder, name)
    if is_local(folder) and os.path.lexists(file):
        check_file(file, most)
    return keys.read(name).result()
