"""What ``data.corpora`` and ``data.parallel`` name for a language or a pair: one source, or several by name.

A source is files or a function, alone or with settings. A source with a name is a stream of its own, called by both: ``de:wiki``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from mlm_jax.config.values import (
    ABOVE_ZERO,
    REQUIRED,
    SOURCE,
    TEXT,
    BadValue,
    ByName,
    Entry,
    Fits,
    Key,
    Number,
    is_number,
    is_several,
    whole,
)

SEPARATOR = ":"  # between a language or pair and a source of it; no code of a language has one
# Settings that decide what prepare stores; the loader applies the others.
PREPARED = "files", "field", "where", "documents"


def _is_bound(value: Any) -> bool:
    return isinstance(value, str) or is_number(value)


SETTINGS = Entry(
    (
        Key("files", REQUIRED, SOURCE, "Files of the source, or a function that yields its text."),
        Key(
            "rate",
            None,
            Number(0),
            "Weight of the source among those of its language or pair. Give a rate to all of them or "
            "to none; without rates they are weighted by size.",
        ),
        Key(
            "epochs",
            None,
            Number(ABOVE_ZERO),
            "Number of times that the source's text counts in its size, if no rates are given.",
        ),
        Key("field", None, TEXT, 'Field or column that holds the text, by default "text"; "a.b" is b of the object a.'),
        Key(
            "where",
            None,
            ByName(Fits(_is_bound, "a text or a number"), '{"language": "deu_Latn", "language_score": 0.9}'),
            "Other fields that a document must have: a text that is equal, or a number that is at least so large. If a "
            "field is a list, its first value counts.",
        ),
        Key(
            "documents",
            None,
            whole(1),
            "Most documents (or pairs) of the source; if it has more, the hashes of the documents decide which are taken.",
        ),
        Key(
            "tokens",
            None,
            whole(1),
            "Most tokens of the source that training reads: a fixed sample, spread over its text.",
        ),
    ),
    example='{"files": "text/de/books/*.txt", "epochs": 4}',
)


class NamedSource(NamedTuple):
    """A source of a language or a pair.

    Attributes:
      stream: what the store calls it: ``de``, or ``de:wiki`` if it has a name.
      of: the language or pair.
      name: ``wiki``, or "" if it is the only one.
      files: what it is read from.
      settings: the other keys of :data:`SETTINGS` that the config sets.
    """

    stream: str
    of: str
    name: str
    files: Any
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Sources:
    """A source, or a dictionary of several by name, each alone or with settings."""

    example: str
    kind: ClassVar[Entry] = SETTINGS

    @property
    def words(self) -> str:
        """All forms in words."""
        return f"{SOURCE.words}; a dictionary such as {SETTINGS.example}; or several of these by name: {self.example}"

    def check(self, key: str, value: Any) -> None:
        """Raise a BadValue if a source or a setting is not of its kind, or only some sources have a rate."""
        if not isinstance(value, Mapping):
            SOURCE.check(key, value)
            return
        if "files" in value:
            SETTINGS.check(key, value)
            return
        if not value:
            raise BadValue(key, f"{key} names no source", f"write {self.example}")
        settings = {setting.name for setting in SETTINGS.keys}
        for name, entry in value.items():
            if name in settings:
                raise BadValue(f"{key}.{name}", f"{key} has {name!r}, but no 'files'", f"write {SETTINGS.example}")
            if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
                raise BadValue(key, f"{key} calls a source {name!r}", "name it by letters, digits, - and _")
            (SETTINGS if isinstance(entry, Mapping) else SOURCE).check(f"{key}.{name}", entry)
        rated = [name for name, entry in value.items() if isinstance(entry, Mapping) and "rate" in entry]
        if rated and len(rated) < len(value):
            without = next(name for name in value if name not in rated)
            raise BadValue(
                f"{key}.{without}",
                f"{key}.{rated[0]} has a rate, and {key}.{without} has none",
                "give all sources of a language or pair a rate, or none",
            )


def named_sources(entries: Mapping[str, Any]) -> list[NamedSource]:
    """Return the sources of ``data.corpora`` or ``data.parallel``, in their order."""
    found = []
    for of, value in entries.items():
        several = isinstance(value, Mapping) and "files" not in value
        for name, entry in value.items() if several else [("", value)]:
            settings = dict(entry) if isinstance(entry, Mapping) else {"files": entry}
            files = settings.pop("files")
            found.append(NamedSource(f"{of}{SEPARATOR}{name}" if name else of, of, name, files, settings))
    return found


def with_source(entries: Mapping[str, Any], source: NamedSource, files: Any) -> dict[str, Any]:
    """Return ``data.corpora`` or ``data.parallel`` with one more source, which is read from these files."""
    entry = {"files": files, **source.settings} if source.settings else files
    if source.name:
        entry = {**entries.get(source.of, {}), source.name: entry}
    return {**entries, source.of: entry}


def as_prepared(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``data.corpora`` or ``data.parallel`` without the settings that change nothing in the store."""
    found: dict[str, Any] = {}
    for source in named_sources(entries):
        settings = {name: value for name, value in source.settings.items() if name in PREPARED}
        found = with_source(found, source._replace(settings=settings), source.files)
    return found


def are_names_or_rates(value: Any) -> bool:
    """Return whether a value is one name or several, or a dictionary of names and rates that are not all 0."""
    if isinstance(value, Mapping):
        rates = [*value.values()]
        numbers = all(isinstance(rate, (int, float)) and not isinstance(rate, bool) and rate >= 0 for rate in rates)
        return numbers and sum(rates, 0) > 0
    names = [value] if isinstance(value, str) else value
    return is_several(names) and len(names) > 0 and all(isinstance(name, str) for name in names)
