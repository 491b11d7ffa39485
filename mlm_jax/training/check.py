"""Checks of a config that need no data: its program is built in shapes only."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from mlm_jax import model as model_room
from mlm_jax.common.errors import UserError, nearest
from mlm_jax.config.check import check_values
from mlm_jax.config.sources import named_sources
from mlm_jax.config.together import longest_row
from mlm_jax.config.values import BadValue, several
from mlm_jax.data.loading import curriculum
from mlm_jax.data.loading.curriculum import listed
from mlm_jax.data.store.manifest import WITH_LABELS
from mlm_jax.data.text import labelled
from mlm_jax.data.text.languages import languages_of, run_languages
from mlm_jax.objectives import Objective, check_parts, create_objectives
from mlm_jax.objectives.multitask import UNCERTAINTY
from mlm_jax.training import optimizer, schedule

log = logging.getLogger(__name__)

AVERAGES = ("mean", "micro")  # over languages, in the names of metrics
MANY_PIECES = 1 << 24  # more than any vocabulary has; the size of this one may be unknown without data


def check_config(config: ConfigDict) -> None:
    """Check values, objectives, schedules, curriculum, model and optimizer before hours go into preparing data.

    If the config names no languages (they come from an existing store), the last three are checked later.

    Raises:
      UserError: a value does not exist, or values do not fit each other; a BadValue if a single key is the cause.
    """
    check_values(config)
    objectives = create_objectives(config.tasks)
    check_parts(objectives, config.model)
    _check_lengths(config, objectives)
    _check_mask_rates(config, objectives)
    schedule.learning_rate(config.optimizer, config.steps, config.curriculum)
    _check_rows(config, objectives)
    for task, entry in config.tasks.items():
        if entry.get("weight") != UNCERTAINTY:
            try:
                schedule.piecewise_linear(entry.get("weight", 1.0))
            except UserError as error:
                raise BadValue(f"tasks.{task}.weight", f"tasks.{task}.weight: {error.problem}", error.remedy) from error
    languages = run_languages(config) if _names_data(config) else tuple(config.languages)
    check_language_names(languages)
    if not languages:
        return
    check_data(config, objectives)
    labels = {task: 2 for task, objective in objectives.items() if objective.kind in WITH_LABELS}  # the fewest
    _, shapes, axes = model_room.abstract(config, vocabulary_size=MANY_PIECES, languages=languages, labels=labels)
    optimizer.create(config.optimizer, config.steps, shapes, axes, config.curriculum)


def check_data(config: ConfigDict, objectives: Mapping[str, Objective]) -> None:
    """Check that the data that the config names has what each task reads, in each phase of the curriculum.

    If the config names no data, the run uses an existing store, whose streams are known when it is opened.

    Raises:
      UserError: a task or a phase names data that there is not, or a task has nothing to read.
    """
    if not _names_data(config):
        return
    data = config.data
    labelled.check_formats(data.labelled)
    _check_names(config)
    pairs = [*data.parallel, *(name for name in data.mixture_languages.values() if "-" in name)]
    try:
        phases = curriculum.resolve(config, run_languages(config), pairs)
        if not data.mixture:  # the kinds of a user's tasks are known when their first examples are read
            _check_phases(config, objectives, phases)
    except UserError as error:
        if isinstance(error, BadValue):
            raise
        key = "curriculum" if config.curriculum else "mixing.rates" if config.mixing.rates else "mixing.strategy"
        raise BadValue(key, error.problem, error.remedy) from error


def check_language_names(languages: Sequence[str]) -> None:
    """Check that names of languages cannot be confused with other parts of metric names such as ``eval/loss/mean``.

    Raises:
      UserError: a name can be confused with them.
    """
    for language in languages:
        if language in AVERAGES or "/" in language or not language.strip() or not language.isprintable():
            raise UserError(
                f"{language!r} cannot be the name of a language: metrics are called task/loss/LANGUAGE, and the "
                "averages over languages mean and micro",
                remedy="use a code such as en or zh-Hant",
            )


def _check_lengths(config: ConfigDict, objectives: Mapping[str, Objective]) -> None:
    """Check that the model has positions for the rows of every task in every phase."""
    longest = longest_row(config.model)
    for task, objective in objectives.items():
        lengths = {f"tasks.{task}.length": config.tasks[task]["length"]}
        for index, entry in enumerate(config.curriculum):
            given = entry.get("length", {})
            # A plain number applies to tasks that read text.
            everywhere = {task: given} if objective.kind == "text" else {}
            found = (given if isinstance(given, Mapping) else everywhere).get(task)
            lengths |= {f"curriculum[{index}].length": found} if isinstance(found, int) else {}
        for key, length in lengths.items():
            if (row := objective.longest_row(length)) > longest:
                makes = f", which makes rows of {row}" if row != length else ""
                raise BadValue(
                    key,
                    f"{key} is {length}{makes}, but the model takes rows of {longest}",
                    "shorten the task's rows, or raise model.max_positions",
                )


def _check_rows(config: ConfigDict, objectives: Mapping[str, Objective]) -> None:
    """Check that the rows of every phase can be divided by the microbatches and the same-language runs."""
    kinds = {task: objective.kind for task, objective in objectives.items()}
    for index, tasks in enumerate(curriculum.tasks_by_phase(config, kinds)):
        for task, entry in tasks.items():
            parts = config.training.microbatches * entry.get("same_language_rows", 1)
            if entry["rows"] % parts:
                key = f"curriculum[{index}].rows"
                problem = f"{key} is {entry['rows']} for task {task!r}, which its microbatches and same-language runs cannot share"
                raise BadValue(key, problem, f"make it a multiple of {parts}")


def _check_mask_rates(config: ConfigDict, objectives: Mapping[str, Objective]) -> None:
    """Check that the curriculum gives mask rates only to tasks that mask."""
    masking = [task for task, objective in objectives.items() if objective.masks]
    for index, entry in enumerate(config.curriculum):
        rates = entry.get("mask_rate", {})
        named = (
            [task for task in rates if task in objectives] if isinstance(rates, Mapping) else masking or [*objectives]
        )
        for task in named:
            if task not in masking:
                key = f"curriculum[{index}].mask_rate"
                raise BadValue(key, f"{key} names task {task!r}, which masks no tokens", "leave it out")


class _Named(NamedTuple):
    """Training text that the config names: a stream, its language or pair, its name among several sources, and so on."""

    stream: str
    of: str
    source: str
    kind: str
    languages: tuple[str, ...]
    rate: float | None


def _named(config: ConfigDict) -> list[_Named]:
    data, found = config.data, []
    for key, kind in (("corpora", "text"), ("parallel", "pairs")):
        for one in named_sources(data[key]):
            languages = languages_of(config, one.of) if kind == "pairs" else (one.of,)
            found.append(_Named(one.stream, one.of, one.name, kind, languages, one.settings.get("rate")))
    for name, entry in data.labelled.items():
        if "train" in entry:
            found.append(_Named(name, name, "", labelled.kind_of(entry), (entry["language"],), None))
    return found


def _check_phases(config: ConfigDict, objectives: Mapping[str, Objective], phases: Sequence[curriculum.Phase]) -> None:
    """Check that each task has text to read in each phase, and name the languages and pairs whose text a phase leaves out."""
    named = _named(config)
    for task, objective in objectives.items():
        asked = several(config.tasks[task].get("data", ()))
        read = [one for one in named if not asked or {one.stream, one.of} & {*asked}]
        fitting = [one for one in read if one.kind == objective.kind]
        if not fitting or (asked and len(fitting) < len(read)):
            other = next((one for one in read if one.kind != objective.kind), None)
            what = (
                f", but {other.stream!r} is of kind {other.kind}" if asked and other else ", but config.data has none"
            )
            raise BadValue(
                f"tasks.{task}", f"task {task!r} reads {objective.kind}{what}", "give it data, or leave the task out"
            )
        for phase in phases:
            chosen = [
                one for one in fitting if phase.reads(one.stream, one.source, one.languages) and _rate(phase, one)
            ]
            if not chosen:
                raise phase.nothing_to_read(task)
            if phase.strategy == "explicit":
                phase.shares({"-".join(one.languages): 1.0 for one in chosen}, 1.0, {})  # raises an error about a rate
            elif phase.strategy == "mixture":
                raise UserError(
                    f"{phase.name} mixes by the rates of a mixture, but data.mixture is not set",
                    remedy="choose another strategy, or set data.mixture",
                )
            of_phase = {one.of: None for one in fitting if phase.all_languages.issuperset(one.languages)}
            left_out = [*of_phase.keys() - {one.of for one in chosen}]
            if phase.sources and left_out:
                names = listed(sorted(left_out))
                log.warning("%s.sources leaves out all data of %s for task %s", phase.name, names, task)


def _rate(phase: curriculum.Phase, one: _Named) -> float:
    """Return the rate of a source among those of its language or pair; 1 if it has none."""
    of_phase = phase.source_rate(one.stream, one.source)
    return next((rate for rate in (of_phase, one.rate) if rate is not None), 1.0)


def _names_data(config: ConfigDict) -> bool:
    data = config.data
    return any((data.corpora, data.parallel, data.labelled, data.mixture_languages))


def _check_names(config: ConfigDict) -> None:
    """Check that config.data has the streams that tasks name."""
    data = config.data
    named = (
        name for key in ("corpora", "parallel") for one in named_sources(data[key]) for name in (one.of, one.stream)
    )
    known = (*dict.fromkeys(named), *data.labelled, *data.mixture_languages, *data.validation)
    for task, entry in config.tasks.items():
        for key in ("data", "evaluate_on"):
            for name in several(entry.get(key, ())):
                if name not in known:
                    problem = (
                        f"tasks.{task}.{key} names {name!r}, but config.data defines no such set{nearest(name, known)}"
                    )
                    raise BadValue(
                        f"tasks.{task}.{key}", problem, "name keys of data.corpora, data.parallel or data.labelled"
                    )
