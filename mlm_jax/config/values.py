"""Kinds of values that a config key may take: each kind checks a value, and describes in words the values that it takes.

A kind has one method, ``check(key, value)``, which raises :class:`BadValue`, and ``words``, which the reference and the
remedies print.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mlm_jax.common.errors import UserError, nearest
from mlm_jax.config.words import here

ABOVE_ZERO = 1e-30  # the least value of a number that must be above 0
BELOW_ONE = math.nextafter(1, 0)  # the largest value of a number that must be below 1
FOREVER = math.inf
REQUIRED = ...  # in place of a default: the key must be given


class BadValue(UserError):
    """A value that cannot work. It has the dotted key, so that the reader of the config can find the line that sets it."""

    def __init__(self, key: str, problem: str, remedy: str = ""):
        super().__init__(problem, remedy=remedy)
        self.key = key


class Kind(Protocol):
    """A kind of values."""

    @property
    def words(self) -> str:
        """The values in words, such as "a number from 0 to 1"."""
        ...

    def check(self, key: str, value: Any) -> None:
        """Raise a BadValue if the value is not of this kind; ``key`` is its full name, such as ``curriculum[0].steps``."""
        ...


@dataclass(frozen=True)
class Key:
    """A config key, or a key of a dictionary that is a config key's value.

    Attributes:
      name: dotted for a config key (``model.width``), plain for a key of a dictionary (``layers``).
      default: ``REQUIRED`` if the key must be given, None if another key or the data decides.
      kind: of its values.
      doc: one sentence, or a few short ones, for the reference.
    """

    name: str
    default: Any
    kind: Kind
    doc: str


@dataclass(frozen=True)
class Number:
    """Finite numbers from ``least`` to ``most``, perhaps whole ones only."""

    least: float = -FOREVER
    most: float = FOREVER
    whole: bool = False

    @property
    def words(self) -> str:
        """The bounds in words."""
        least = "" if self.least == -FOREVER else " above 0" if self.least == ABOVE_ZERO else f" from {self.least}"
        most = " to below 1" if self.most == BELOW_ONE else f" to {self.most}" if self.most != FOREVER else ""
        return f"a {'whole ' if self.whole else ''}number{least}{most}"

    def check(self, key: str, value: Any) -> None:
        """Raise a BadValue if the value is not such a number."""
        fits = is_number(value) and self.least <= value <= self.most and abs(value) <= sys.float_info.max
        if not fits or (self.whole and not isinstance(value, int)):
            raise BadValue(key, f"{key} is {value!r}", f"use {self.words}")


@dataclass(frozen=True)
class Line:
    """A constant number, or two numbers: the first and the last of a linear function of the step."""

    kind: Number

    @property
    def words(self) -> str:
        """Both forms in words."""
        return f"{self.kind.words}, or two as (first, last)"

    def check(self, key: str, value: Any) -> None:
        """Raise a BadValue if a number is not of the kind, or if there are not two."""
        if not is_several(value):
            self.kind.check(key, value)
            return
        if len(value) != 2:
            raise BadValue(key, f"{key} is {value!r}", f"use {self.words}")
        for number in value:
            self.kind.check(key, number)


@dataclass(frozen=True)
class Choice:
    """One of some names."""

    names: tuple[str, ...]

    @property
    def words(self) -> str:
        """The names."""
        return f"one of {', '.join(self.names)}"

    def check(self, key: str, value: Any) -> None:
        """Raise a BadValue if the value is none of the names."""
        if value not in self.names:
            raise BadValue(key, f"{key} is {value!r}{nearest(value, self.names)}", f"use {self.words}")


@dataclass(frozen=True)
class Some:
    """Several of some names, in a tuple."""

    names: tuple[str, ...]

    @property
    def words(self) -> str:
        """The names."""
        return f"any of {', '.join(self.names)}"

    def check(self, key: str, value: Any) -> None:
        """Raise a BadValue if the value holds another name."""
        for name in value:
            if name not in self.names:
                raise BadValue(key, f"{key} names {name!r}{nearest(name, self.names)}", f"name {self.words}")


@dataclass(frozen=True)
class Fits:
    """Values that a function accepts.

    Attributes:
      accepts: function that returns whether a value is of this kind.
      words: the values in words.
    """

    accepts: Callable[[Any], bool]
    words: str

    def check(self, key: str, value: Any) -> None:
        """Raise a BadValue if the function does not accept the value."""
        if not self.accepts(value):
            raise BadValue(key, f"{key} is {value!r}", f"write {self.words}")


@dataclass(frozen=True)
class Entries:
    """A tuple whose entries a function accepts."""

    accepts: Callable[[Any], bool]
    words: str

    def check(self, key: str, value: Any) -> None:
        """Raise a BadValue if the function does not accept an entry."""
        for entry in value:
            if not self.accepts(entry):
                raise BadValue(key, f"{key} has the entry {entry!r}", f"write {self.words}")


@dataclass(frozen=True)
class Each:
    """A tuple, whose entries are all of one kind."""

    kind: Kind

    @property
    def words(self) -> str:
        """The entries in words."""
        return f"a tuple; each entry is {self.kind.words}"

    def check(self, key: str, value: Any) -> None:
        """Raise a BadValue of ``key[index]`` if an entry is not of the kind."""
        for index, entry in enumerate(value):
            self.kind.check(f"{key}[{index}]", entry)


@dataclass(frozen=True)
class ByName:
    """A dictionary, whose values are all of one kind."""

    kind: Kind
    example: str

    @property
    def words(self) -> str:
        """The values in words."""
        return f"a dictionary such as {self.example}; each value is {self.kind.words}"

    def check(self, key: str, value: Any) -> None:
        """Raise a BadValue of ``key.name`` if a value is not of the kind."""
        if not isinstance(value, Mapping):
            raise BadValue(key, f"{key} is {value!r}", f"write {self.example}")
        for name, entry in value.items():
            self.kind.check(f"{key}.{name}", entry)


@dataclass(frozen=True)
class OneOrByName:
    """One value for all, or a dictionary with a value for each name."""

    kind: Kind
    example: str

    @property
    def words(self) -> str:
        """Both forms in words."""
        return f"{self.kind.words}, or a dictionary such as {self.example}"

    def check(self, key: str, value: Any) -> None:
        """Raise a BadValue if a value is not of the kind."""
        (ByName(self.kind, self.example) if isinstance(value, Mapping) else self.kind).check(key, value)


@dataclass(frozen=True)
class Entry:
    """A dictionary with declared keys.

    Attributes:
      keys: keys that it may have.
      example: an example for messages and the reference.
      open: whether other keys are allowed, which are checked elsewhere.
      empty: whether {} is allowed, which means "none".
      renamed: {old name of a key: its name now}.
    """

    keys: tuple[Key, ...]
    example: str
    open: bool = False
    empty: bool = False
    renamed: tuple[tuple[str, str], ...] = ()

    @property
    def words(self) -> str:
        """An example, and the form that leaves it out."""
        return f"a dictionary such as {self.example}" + (", or {} for none" if self.empty else "")

    def check(self, key: str, value: Any) -> None:
        """Raise a BadValue if a key is unknown or missing, or if its value is not of its kind."""
        if not isinstance(value, Mapping):
            raise BadValue(key, f"{key} is {value!r}", f"write {self.example}")
        if self.empty and not value:
            return
        known = {entry.name: entry for entry in self.keys}
        for old, new in self.renamed:
            if old in value:
                raise BadValue(f"{key}.{old}", f"{key}.{old} is now called {new!r}", f"rename it to {key}.{new}")
        for name in value:
            if name not in known and not self.open:
                raise BadValue(
                    f"{key}.{name}",
                    f"{key} has an unknown key {name!r}{nearest(name, known) or here(name)}",
                    f"its keys are {', '.join(known)}",
                )
        for name, entry in known.items():
            if entry.default is REQUIRED and name not in value:
                raise BadValue(key, f"{key} has no {name!r}", f"write {self.example}")
        for name, entry in known.items():
            if name in value:
                entry.kind.check(f"{key}.{name}", value[name])


def whole(least: float = -FOREVER, most: float = FOREVER) -> Number:
    """Return the kind of whole numbers from ``least`` to ``most``."""
    return Number(least, most, whole=True)


def choice(*names: str) -> Choice:
    """Return the kind that is one of these names."""
    return Choice(names)


def some(*names: str) -> Some:
    """Return the kind that is several of these names."""
    return Some(names)


def is_number(value: Any) -> bool:
    """Return whether a value is a number; True and False are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_several(value: Any) -> bool:
    """Return whether a value is a tuple or a list."""
    return isinstance(value, (tuple, list))


def are_names(value: Any) -> bool:
    """Return whether a value is a tuple of strings."""
    return is_several(value) and all(isinstance(name, str) for name in value)


def is_row(value: Any) -> bool:
    """Return whether a value is a row of a table: a name or regular expression, and what goes with it."""
    return is_several(value) and len(value) == 2 and isinstance(value[0], str)


def several(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of a key as a tuple; a single name may be given as a string."""
    return (names,) if isinstance(names, str) else tuple(names)


def is_flag(value: Any) -> bool:
    """Return whether a value is True or False."""
    return isinstance(value, bool)


def is_text(value: Any) -> bool:
    """Return whether a value is a string."""
    return isinstance(value, str)


def _is_source(value: Any) -> bool:
    return isinstance(value, str) or (are_names(value) and len(value) > 0)


def _is_one_or_several(value: Any) -> bool:
    return isinstance(value, str) or are_names(value)


FLAG = Fits(is_flag, "True or False")
TEXT = Fits(is_text, "a string")
PATH = Fits(is_text, "a path; ~ is the home folder")
NAMES = Fits(are_names, 'a tuple of names: ("a", "b")')
NAME_OR_NAMES = Fits(_is_one_or_several, 'a name, or a tuple of names: ("a", "b")')
SOURCE = Fits(_is_source, "a glob such as 'text/en/*.txt', a tuple of them, or 'module:function'")
