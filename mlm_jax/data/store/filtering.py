"""The filters of a config, ``data.filters``: the table of all filters, and which text each step judges.

A new filter is one module in ``filters`` and one row of :data:`FILTERS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError, nearest
from mlm_jax.config.option import options_of
from mlm_jax.config.sources import SEPARATOR, named_sources
from mlm_jax.config.values import BadValue, Entry, several
from mlm_jax.data.store.filters.base import Filter
from mlm_jax.data.store.filters.exact_duplicates import ExactDuplicates
from mlm_jax.data.store.filters.function import Function
from mlm_jax.data.store.filters.identical_sides import IdenticalSides
from mlm_jax.data.store.filters.language import Language
from mlm_jax.data.store.filters.length import Length
from mlm_jax.data.store.filters.length_ratio import LengthRatio
from mlm_jax.data.store.filters.letters import Letters
from mlm_jax.data.store.filters.near_duplicates import NearDuplicates
from mlm_jax.data.store.filters.repeated_lines import RepeatedLines
from mlm_jax.data.text.sources import is_function

FILTERS: dict[str, type[Filter]] = {
    "exact_duplicates": ExactDuplicates,
    "near_duplicates": NearDuplicates,
    "length": Length,
    "letters": Letters,
    "repeated_lines": RepeatedLines,
    "language": Language,
    "length_ratio": LengthRatio,
    "identical_sides": IdenticalSides,
}


class Step(NamedTuple):
    """A step of ``data.filters``.

    Attributes:
      label: number and name of the filter, such as "1 length".
      filter: the filter.
      only: languages, pairs and sources that it judges; () is all.
    """

    label: str
    filter: Filter
    only: tuple[str, ...]

    def is_for(self, stream: str, of: str) -> bool:
        """Return whether the step judges a stream.

        Args:
          stream: its name, such as ``de:wiki``.
          of: its language or pair, such as ``de``.
        """
        return not self.only or not {stream, of, stream.partition(SEPARATOR)[2]}.isdisjoint(self.only)


def steps(config: ConfigDict) -> tuple[Step, ...]:
    """Return the steps of ``data.filters``, in order.

    Raises:
      BadValue: a filter or one of its options does not exist, or ``only`` names text that the config does not have.
      UserError: a library is not installed, or a function does not exist.
    """
    found = []
    for index, given in enumerate(config.data.filters):
        key = f"data.filters[{index}]"
        entry = dict(given) if isinstance(given, Mapping) else {"filter": given}
        name, only = entry.pop("filter"), several(entry.pop("only", ()))
        _check_only(config, f"{key}.only", only)
        label = f"{index + 1} {name}"
        if is_function(name):
            Entry((), "").check(key, entry)
            found.append(Step(label, Function(name), only))
            continue
        if name not in FILTERS:
            raise BadValue(
                key,
                f"{key} is {name!r}{nearest(name, FILTERS)}",
                f"use one of {', '.join(FILTERS)}, or module:function",
            )
        options = options_of(FILTERS[name])
        Entry(tuple(options.values()), "").check(key, entry)
        try:
            found.append(Step(label, FILTERS[name](**entry), only))
        except UserError as error:
            raise BadValue(key, f"{key}: {error.problem}", error.remedy) from error
    return tuple(found)


def functions(config: ConfigDict) -> list[str]:
    """Return the user's own functions that ``data.filters`` names."""
    names = [entry["filter"] if isinstance(entry, Mapping) else entry for entry in config.data.filters]
    return [name for name in names if is_function(name)]


def _check_only(config: ConfigDict, key: str, only: tuple[str, ...]) -> None:
    sources = [source for entries in (config.data.corpora, config.data.parallel) for source in named_sources(entries)]
    known = [*dict.fromkeys(name for source in sources for name in (source.of, source.stream, source.name) if name)]
    for name in only:
        if name not in known:
            raise BadValue(key, f"{key} names {name!r}{nearest(name, known)}", f"the config names {', '.join(known)}")
