"""Searches that use the results of earlier trials: a sweep whose trials Optuna proposes, round by round."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlm_jax.checkpoints.metrics import score
from mlm_jax.common.errors import UserError
from mlm_jax.common.extras import install_command
from mlm_jax.common.files import write_whole
from mlm_jax.common.foreign_files import read_json
from mlm_jax.run.sweep.axes import Range, Settings

PROPOSALS = "proposals.json"  # in the workdir of a sweep: settings of the trials so far


@dataclasses.dataclass(frozen=True)
class OptunaSearch:
    """A search by the tree-structured Parzen estimator, made by ``optuna_search``.

    Source: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization"; Akiba et al. 2019, "Optuna".

    Attributes:
      axes: {config key: values to choose from, or a Range}.
      trials: number of trials in all.
      seed: seed of the draws.
    """

    axes: Mapping[str, Sequence[Any] | Range]
    trials: int
    seed: int = 0

    def propose(self, before: Sequence[tuple[Settings, float | None]], count: int) -> list[Settings]:
        """Return the settings of further trials, the same ones after the same trials.

        Args:
          before: (settings, score) of the trials so far; a higher score is better, and None is that of a failed trial.
          count: number of trials to propose.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():  # that the constant liar, which keeps trials of a round apart, may change
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(seed=self.seed + len(before), constant_liar=True, n_startup_trials=5)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        spaces = {key: distribution(axis) for key, axis in self.axes.items()}
        for settings, scored in before:
            values = {key: as_choice(self.axes[key], settings[key]) for key in self.axes}
            failed = scored is None or not math.isfinite(scored)
            state = optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE
            study.add_trial(
                optuna.trial.create_trial(
                    params=values, distributions=spaces, value=None if failed else scored, state=state
                )
            )
        found: list[Settings] = []
        known = [settings for settings, _ in before]
        for _ in range(100 * count):
            asked = study.ask(spaces).params
            settings = {key: from_choice(axis, asked[key]) for key, axis in self.axes.items()}
            if settings not in known and settings not in found:
                found.append(settings)
            if len(found) == count:
                break
        return found


def optuna_search(axes: Mapping[str, Sequence[Any] | Range], trials: int, seed: int = 0) -> OptunaSearch:
    """Return a search whose trials Optuna proposes by the results of those before; for a config file's ``sweep()``.

    Args:
      axes: {config key: values to choose from, or a Range}.
      trials: number of trials in all.
      seed: seed of the draws.

    Raises:
      UserError: Optuna is not installed.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        remedy = f"{install_command('optuna')}, or draw trials at random with search()"
        raise UserError("Optuna is not installed", remedy=remedy) from error
    return OptunaSearch(axes, trials, seed)


def distribution(axis: Sequence[Any] | Range) -> Any:
    """Return Optuna's distribution of an axis; values to choose from are represented by their index."""
    from optuna import distributions

    if not isinstance(axis, Range):
        return distributions.CategoricalDistribution(tuple(range(len(axis))))
    if axis.whole:
        return distributions.IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return distributions.FloatDistribution(axis.low, axis.high, log=axis.log)


def from_choice(axis: Sequence[Any] | Range, value: Any) -> Any:
    """Return the config value for Optuna's choice."""
    return axis.rounded(value) if isinstance(axis, Range) else axis[value]


def as_choice(axis: Sequence[Any] | Range, value: Any) -> Any:
    """Return Optuna's choice that corresponds to a config value."""
    if isinstance(axis, Range):
        return min(max(value, axis.low), axis.high)  # rounding may have passed an end
    return [json.dumps(one, default=str) for one in axis].index(json.dumps(value, default=str))


def read_proposals(workdir: Path, search: OptunaSearch) -> list[Settings]:
    """Return the trials that were proposed so far; [] if there are none.

    Raises:
      UserError: the file is damaged, or holds the trials of a search with other axes.
    """
    file = workdir / PROPOSALS
    if not file.exists():
        return []
    found = read_json(file)
    if not isinstance(found, list) or not all(_is_proposed(one, search.axes) for one in found):
        raise UserError("these are trials of another search", file=file, remedy="use another --workdir")
    return found


def _is_proposed(settings: Any, axes: Mapping[str, Sequence[Any] | Range]) -> bool:
    """Return whether a value is settings that a search may propose."""
    if not isinstance(settings, dict) or settings.keys() != axes.keys():
        return False
    try:
        choices = [as_choice(axis, settings[key]) for key, axis in axes.items()]
    except (ValueError, TypeError):  # it is none of the values, or no number
        return False
    return all(map(math.isfinite, choices))


def in_rounds(
    search: OptunaSearch,
    workdir: Path,
    at_a_time: int,
    run: Callable[[list[Settings], list[Settings]], tuple[int, list[tuple[float | None, str]]]],
) -> int:
    """Run a search: propose as many trials as run at a time, run them, and propose the next ones by their results.

    Args:
      search: the search.
      workdir: the workdir of the sweep.
      at_a_time: trials of a round.
      run: (all trials so far, those of them to run) → exit code, and (metric, its key) of each trial so far.

    Returns:
      the exit code: that of a round which a signal stopped; 1 if a trial failed; else 0.
    """
    known = read_proposals(workdir, search)
    has_begun = bool(known)
    waiting = list(known)  # an interrupted sweep continues with its unfinished trials
    results: list[tuple[float | None, str]] = []
    while True:
        if not waiting:
            before = [
                (settings, None if value is None else score(key, {key: value}))
                for settings, (value, key) in zip(known, results)
            ]
            waiting = search.propose(before, min(at_a_time, search.trials - len(known)))
            if not waiting:
                return _code_of(results)  # there are no other combinations
            known += waiting
            workdir.mkdir(parents=True, exist_ok=True)
            write_whole(workdir / PROPOSALS, json.dumps(known, indent=1))
        try:
            code, results = run(known, waiting)
        except UserError:
            if not has_begun:  # a corrected search may use this workdir
                (workdir / PROPOSALS).unlink()
                with contextlib.suppress(OSError):  # other files are in it
                    workdir.rmdir()
            raise
        has_begun, waiting = True, []
        if code not in (0, 1):
            return code  # a signal has stopped the sweep
        if len(known) >= search.trials:
            return _code_of(results)


def _code_of(results: Sequence[tuple[float | None, str]]) -> int:
    """Return the exit code of a search: 1 if a trial of any round failed, else 0."""
    return int(any(value is None for value, _ in results))
