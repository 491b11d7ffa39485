"""The curriculum: a run's phases, each with the mixing, masking and shapes of its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError, nearest
from mlm_jax.config.keys import KEY
from mlm_jax.config.sources import SEPARATOR, named_sources
from mlm_jax.config.together import check_curriculum, phase_strategy
from mlm_jax.config.values import is_several, several
from mlm_jax.data.text.rates import rates as share_rates
from mlm_jax.data.text.rates import unimax

MOST_NAMES = 8  # languages that a message lists


@dataclass(frozen=True)
class Phase:
    """The settings of the steps ``start_step`` … ``stop_step - 1``.

    Attributes:
      index: 0 for the first phase.
      name: its name in messages.
      start_step, stop_step: steps of the run.
      languages: the languages that are read; a pair is read if both of its languages are among them.
      sources: {name of a source, such as "wiki" or "de:wiki": its rate, or None}; {}: all sources.
      strategy: alpha | unimax | explicit | mixture.
      alpha, unimax_epochs, rates: as in ``config.mixing``; each strategy uses one of them.
      mask_rates: {task: rate, or (first, last)} that this phase changes; the key "" applies to every task that masks.
      task_rows: {task: rows a step} that this phase changes; the key "" applies to every task that reads text.
      lengths: {task: tokens a row} that this phase changes; the key "" applies to every task that reads text.
      rope_theta: base of the rotary positions in the layers without a window.
      local_rope_theta: base of the rotary positions in the layers with a window.
    """

    index: int
    name: str
    start_step: int
    stop_step: int
    languages: tuple[str, ...]
    sources: Mapping[str, float | None]
    strategy: str
    alpha: float
    unimax_epochs: float
    rates: Mapping[str, float]
    mask_rates: Mapping[str, float | tuple[float, float]]
    task_rows: Mapping[str, int]
    lengths: Mapping[str, int]
    rope_theta: float
    local_rope_theta: float

    @cached_property
    def all_languages(self) -> frozenset[str]:
        """Its languages as a set: a run may have thousands."""
        return frozenset(self.languages)

    @property
    def rope_bases(self) -> tuple[float, float]:
        """Both bases of the rotary positions."""
        return self.rope_theta, self.local_rope_theta

    def reads(self, stream: str, source: str, languages: Sequence[str]) -> bool:
        """Return whether text is read in this phase.

        Args:
          stream: the name of the stream.
          source: its name among the sources of its language or pair; "" if it is the only one.
          languages: the languages of the stream, one or two.
        """
        of = stream.partition(SEPARATOR)[0]  # its language or pair
        chosen = not self.sources or not self.sources.keys().isdisjoint((stream, source, of))
        return chosen and self.all_languages.issuperset(languages)

    def nothing_to_read(self, task: str) -> UserError:
        """Return the error for a task that has no text in this phase."""
        named = f" of the sources {', '.join(self.sources)}" if self.sources else ""
        return UserError(
            f"{self.name}: task {task!r} has no data in {listed(self.languages)}{named}",
            remedy="add one of its languages to the phase" + ", or one of its sources" * bool(self.sources),
        )

    def source_rate(self, stream: str, source: str) -> float | None:
        """Return the rate that this phase gives a source among the sources of its language or pair, or None."""
        return self.sources.get(stream, self.sources.get(source))

    def mask_rate(self, task: str, default: float) -> float | tuple[float, float]:
        """Return the share of tokens that a task masks, or the shares at the beginning and the end of the phase.

        Args:
          task: its name.
          default: the share if the phase does not change it.
        """
        return self.mask_rates.get(task, self.mask_rates.get("", default))

    def length(self, task: str, kind: str, default: int) -> int:
        """Return a task's tokens a row; a plain number in the phase applies to tasks that read text."""
        return _of_task(self.lengths, task, kind, default)

    def rows(self, task: str, kind: str, default: int) -> int:
        """Return a task's rows a step; a plain number in the phase applies to tasks that read text."""
        return _of_task(self.task_rows, task, kind, default)

    def shares(self, sizes: Mapping[str, float], budget: float, used: Mapping[str, float]) -> dict[str, float]:
        """Return the shares of a task's rows that languages (or pairs) get, summing to one.

        Args:
          sizes: {language or "de-en" pair: tokens of text, or examples of pairs and labelled text}, for those that are read.
          budget: tokens (or examples) that the task takes in this phase.
          used: {language or pair: tokens (or examples) that earlier phases took}: UniMax counts over the whole run.

        Raises:
          UserError: explicit rates leave one out, or UniMax's budget needs more epochs than it allows.
        """
        if self.strategy == "explicit":
            weights = np.array([self._rate(name) for name in sizes])
            if not weights.sum() > 0:
                raise UserError(
                    f"{self.name}: the rates of {', '.join(sizes)} are all 0", remedy="give one of them a rate"
                )
        elif self.strategy == "unimax":
            left = np.array([size * self.unimax_epochs - used.get(name, 0) for name, size in sizes.items()])
            weights = unimax(np.maximum(left, 0), budget, 1)
            if weights.sum() < budget * (1 - 1e-9):
                raise UserError(
                    f"{self.name} takes {budget:.0f} tokens or examples, but unimax_epochs={self.unimax_epochs} "
                    f"leaves {weights.sum():.0f}",
                    remedy="raise mixing.unimax_epochs, lower steps, or mix by alpha",
                )
        else:
            weights = share_rates(list(sizes.values()), self.alpha)
        return dict(zip(sizes, (weights / weights.sum()).tolist()))

    def _rate(self, name: str) -> float:
        if name not in self.rates:
            raise UserError(
                f"{self.name}: the explicit rates have no rate for {name!r}{nearest(name, self.rates)}",
                remedy="give every language and pair that a task reads a rate; 0 leaves it out",
            )
        return self.rates[name]


def resolve(config: ConfigDict, languages: Sequence[str], pairs: Sequence[str] = ()) -> tuple[Phase, ...]:
    """Return the phases of a run, which cover its steps from 0 to ``config.steps`` without gaps.

    Args:
      config: the whole config.
      languages: the languages of the run.
      pairs: "de-en" names that explicit rates may use, besides languages.

    Raises:
      UserError: a phase has values that do not fit each other (:func:`.check_curriculum`), or names a language that is not
        in the run.
    """
    KEY["curriculum"].kind.check("curriculum", config.curriculum)
    check_curriculum(config)
    entries = list(config.curriculum) or [{"steps": config.steps}]
    phases: list[Phase] = []
    for index, entry in enumerate(entries):
        start = phases[-1].stop_step if phases else 0
        phases.append(_phase(config, index, start, dict(entry), tuple(languages), tuple(pairs)))
    return tuple(phases)


def at(phases: Sequence[Phase], step: int) -> Phase:
    """Return the phase of a step; steps past the end belong to the last phase."""
    if step < 0:
        raise ValueError(f"step {step} is before the run")
    return next((phase for phase in phases if step < phase.stop_step), phases[-1])


def tasks_by_phase(config: ConfigDict, kinds: Mapping[str, str]) -> list[dict[str, dict[str, Any]]]:
    """Return ``config.tasks`` of each phase, with its rows a step and its tokens a row.

    Args:
      config: the config of the run.
      kinds: {task: text | pairs | labelled}.
    """
    entries: Sequence[Mapping[str, Any]] = config.curriculum or ({},)
    return [
        {
            task: {
                **given,
                **{
                    option: _of_task(_by_task(entry.get(option, {})), task, kinds[task], given[option])
                    for option in ("rows", "length")
                },
            }
            for task, given in config.tasks.items()
        }
        for entry in entries
    ]


def rope_bases(config: ConfigDict, steps: int) -> tuple[float, float]:
    """Return the bases of the rotary positions with which the weights after ``steps`` steps were last trained.

    Returns:
      ``rope_theta`` and ``local_rope_theta``.
    """
    stop, bases = 0, (config.model.rope_theta, config.model.local_rope_theta)
    for entry in config.curriculum:
        stop = stop + entry["steps"]
        bases = (
            entry.get("rope_theta", config.model.rope_theta),
            entry.get("local_rope_theta", config.model.local_rope_theta),
        )
        if steps <= stop:
            break
    return bases


def _phase(config: ConfigDict, index: int, start: int, entry: dict, languages: tuple, pairs: tuple) -> Phase:
    where = f"curriculum[{index}]"
    name = where if config.curriculum else "the run"  # without a curriculum there is one phase
    strategy = phase_strategy(where, entry, config.mixing.strategy)
    chosen = tuple(entry.get("languages", ())) or languages
    for language in chosen:
        if language not in languages:
            raise UserError(f"{name}: language {language!r} is not in the run{nearest(language, languages)}")
    sources = _sources(config, name, entry.get("sources", ()))
    rates = dict(entry.get("rates", config.mixing.rates)) if strategy == "explicit" else {}
    for key in rates:
        if key not in languages + pairs:
            raise UserError(f"{name}: rates name {key!r}, which is not in the run{nearest(key, languages + pairs)}")
    return Phase(
        index=index,
        name=name,
        start_step=start,
        stop_step=start + entry["steps"],
        languages=tuple(language for language in languages if language in chosen),
        sources=sources,
        strategy=strategy,
        alpha=float(entry.get("alpha", config.mixing.alpha)),
        unimax_epochs=float(entry.get("unimax_epochs", config.mixing.unimax_epochs)),
        rates={key: float(rate) for key, rate in rates.items()},
        mask_rates=_by_task(entry.get("mask_rate", {})),
        lengths=_by_task(entry.get("length", {})),
        task_rows=_by_task(entry.get("rows", {})),
        rope_theta=float(entry.get("rope_theta", config.model.rope_theta)),
        local_rope_theta=float(entry.get("local_rope_theta", config.model.local_rope_theta)),
    )


def _sources(config: ConfigDict, where: str, named: Any) -> dict[str, float | None]:
    """Return {source: its rate, or None} for the sources that a phase names.

    Raises:
      UserError: the data has no source of that name.
    """
    rates: dict[str, float | None] = dict.fromkeys(named if isinstance(named, Mapping) else several(named))
    if isinstance(named, Mapping):
        rates |= {name: float(rate) for name, rate in named.items()}
    data = config.data
    found = [source for entries in (data.corpora, data.parallel) for source in named_sources(entries)]
    named_by = (name for source in found for name in (source.name, source.stream, source.of) if name)
    known = dict.fromkeys([*named_by, *data.labelled])  # a language, a pair and a labelled set stand for all their text
    for name in rates:
        if name not in known and (data.corpora or data.parallel):  # a config without data takes a store as it is
            raise UserError(
                f"{where}: no source is called {name!r}{nearest(name, known)}",
                remedy='give sources names in config.data.corpora: {"de": {"wiki": "text/de/wiki/*.txt"}}',
            )
    return rates


def listed(names: Sequence[str]) -> str:
    """Return languages or pairs for a message: their names, or their number if they are many."""
    return ", ".join(names) if len(names) <= MOST_NAMES else f"{len(names):,} languages"


def _of_task(values: Mapping[str, int], task: str, kind: str, default: int) -> int:
    everywhere = values.get("", default) if kind == "text" else default
    return values.get(task, everywhere)


def _by_task(value: Any) -> dict[str, Any]:
    """Return {task: value}, with the key "" for a value that applies to every task."""
    entries = dict(value) if isinstance(value, Mapping) else {"": value}
    return {task: tuple(entry) if is_several(entry) else entry for task, entry in entries.items()}
