"""What the manifest of a store may contain. It may be a stranger's, so it is checked before anything is read or allocated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

FEATURES = {  # {kind of stream: what each of its examples has}
    "text": ("inputs",),
    "pairs": ("inputs", "targets"),
    "labelled": ("inputs", "labels"),  # labels: the class of each text, or of each word
    "multilabelled": ("inputs", "labels"),  # labels: 1 or 0 for each class of each text
    "scored": ("inputs", "labels"),  # labels: a number for each text, as the bits of a float32
    "questions": ("inputs", "labels", "answers"),  # labels: where answers begin and end; answers: bytes of JSON
}
TOKENS = ("inputs", "targets")  # features that hold token ids
WITH_LABELS = tuple(kind for kind, features in FEATURES.items() if "labels" in features)
SPLITS = ("train", "validation")
COUNTS = ("documents", "tokens", "characters", "bytes")  # counts of a split
MOST = 1 << 62  # largest count


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Check the types and the bounds of all values in a manifest that code depends on.

    Raises:
      ValueError: something is missing, of another type, or out of bounds; the message names it.
    """
    vocabulary, languages = _object(manifest, "vocabulary"), _texts(manifest, "languages")
    _require(isinstance(vocabulary.get("fingerprint"), str), "vocabulary.fingerprint", "a text")
    size = _count(vocabulary, "size", "vocabulary.size")
    for name in ("pad_id", "eos_id"):
        _require(type(vocabulary.get(name)) is int and -1 <= vocabulary[name] < size, f"vocabulary.{name}", "an id")
    for name in _object(manifest, "streams"):
        _check_stream(_object(manifest["streams"], name, f"streams.{name}"), f"streams.{name}", languages)
    facts = _object(manifest, "facts")
    skipped = _object(facts, "skipped", "facts.skipped") if "skipped" in facts else {}
    for name in skipped:
        for reason in _object(skipped, name, f"facts.skipped.{name}"):
            _count(skipped[name], reason, f"facts.skipped.{name}.{reason}")
    filtered = _object(facts, "filters", "facts.filters") if "filters" in facts else {}
    for name in filtered:
        for step, counts in _object(filtered, name, f"facts.filters.{name}").items():
            where = f"facts.filters.{name}.{step}"
            _require(isinstance(counts, list) and len(counts) == 3, where, "three counts")
            for index, count in enumerate(counts):
                _count({"count": count}, "count", f"{where}[{index}]")
    files = _object(manifest, "files") if "files" in manifest else {}
    _require(all(isinstance(digest, str) for digest in files.values()), "files", "names with checksums")


def _check_stream(stream: Mapping[str, Any], where: str, languages: Sequence[str]) -> None:
    kind = str(stream.get("kind"))
    _require(kind in FEATURES, f"{where}.kind", f"one of {', '.join(FEATURES)}")
    own = _texts(stream, "languages", f"{where}.languages")
    _require(
        len(own) == (2 if kind == "pairs" else 1) and {*own} <= {*languages},
        f"{where}.languages",
        "of the store's languages",
    )
    _texts(stream, "labels", f"{where}.labels")
    rate = stream["rate"]
    fits = rate is None or (type(rate) in (int, float) and 0 <= rate <= MOST and math.isfinite(rate))
    _require(fits, f"{where}.rate", "a number or null")
    for split in _object(stream, "splits", f"{where}.splits"):
        path = f"{where}.splits.{split}"
        _require(split in SPLITS, path, f"one of {', '.join(SPLITS)}")
        facts = _object(stream["splits"], split, path)
        for name in COUNTS:
            _count(facts, name, f"{path}.{name}")
        features = _object(facts, "features", f"{path}.features")
        _require({*features} == {*FEATURES[kind]}, f"{path}.features", ", ".join(FEATURES[kind]))
        for name in features:
            feature = _object(features, name, f"{path}.features.{name}")
            for count in ("values", "longest"):
                _count(feature, count, f"{path}.features.{name}.{count}")
            for flag in ("per_token", "complemented"):
                _require(isinstance(feature.get(flag), bool), f"{path}.features.{name}.{flag}", "true or false")


def _object(parent: Any, key: str, where: str = "") -> Mapping[str, Any]:
    found = parent.get(key)
    _require(isinstance(found, dict), where or key, "an object")
    return found


def _texts(parent: Mapping[str, Any], key: str, where: str = "") -> Sequence[str]:
    found = parent.get(key)
    _require(isinstance(found, list) and all(isinstance(text, str) for text in found), where or key, "a list of texts")
    return found  # type: ignore[return-value]


def _count(parent: Mapping[str, Any], key: str, where: str) -> int:
    found = parent.get(key)
    _require(type(found) is int and 0 <= found <= MOST, where, "a whole number from 0")
    return found  # type: ignore[return-value]


def _require(fits: bool, where: str, what: str) -> None:
    if not fits:
        raise ValueError(f"{where[:200]} is not {what}")
