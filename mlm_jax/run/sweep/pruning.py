"""Rules that end weak trials of a sweep early, by the evaluations that the trials have logged so far."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

from mlm_jax.checkpoints.metrics import score
from mlm_jax.report.history import read_events

ENDED_EARLY = "ended early"  # the state of such a trial begins with this text
FACTOR = 3  # of successive halving: one of this many trials passes a rung
OTHERS = 3  # the smallest number of trials for a median
Curve = list[tuple[int, float]]  # (step, score) in the order of steps; a higher score is better
Rule = Callable[[str, Mapping[str, Curve]], str]


def successive_halving(trial: str, curves: Mapping[str, Curve]) -> str:
    """Return the reason to end a trial by asynchronous successive halving; "" if it continues.

    The rungs are the evaluations 1, 3, 9, … A trial that reaches a rung continues if it is among the best third of the trials
    that have reached that rung so far; the first trials at a rung continue.

    Args:
      trial: the name of a running trial.
      curves: the curves of all trials.

    Source: Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning", in the variant that stops trials.
    """
    mine = curves.get(trial, [])
    rung = 1
    while rung * FACTOR <= len(mine):
        rung *= FACTOR
    if len(mine) != rung:
        return ""
    step, here = mine[rung - 1]
    there = sorted((curve[rung - 1][1] for curve in curves.values() if len(curve) >= rung), reverse=True)
    passing = max(len(there) // FACTOR, 1)
    if len(there) < FACTOR or here >= there[passing - 1]:
        return ""
    return f"at step {step:,}: not among the best {passing} of {len(there)}"


def median_rule(trial: str, curves: Mapping[str, Curve]) -> str:
    """Return the reason to end a trial by the median stopping rule; "" if it continues.

    A trial ends if its best evaluation is worse than the median of the other trials' mean scores up to the same step. There
    must be at least three other trials.

    Args:
      trial: the name of a running trial.
      curves: the curves of all trials.

    Source: Golovin et al. 2017, "Google Vizier: A Service for Black-Box Optimization", section 3.2.1.
    """
    if not (mine := curves.get(trial, [])):
        return ""
    step, best = mine[-1][0], max(value for _, value in mine)
    others = [curve for name, curve in curves.items() if name != trial and curve and curve[-1][0] >= step]
    if len(others) < OTHERS:
        return ""
    median = statistics.median(statistics.fmean(value for at, value in curve if at <= step) for curve in others)
    return f"at step {step:,}: worse than the median of {len(others)} others" if best < median else ""


RULES: dict[str, Rule] = {"halving": successive_halving, "median": median_rule}


def curve_of(workdir: Path, key: str) -> Curve:
    """Return the scores of a trial's evaluations, without the one before the first step.

    Args:
      workdir: the workdir of the trial.
      key: the key of the metric, such as ``eval/loss/mean``.

    Raises:
      UserError: the trial's metrics file is damaged.
    """
    evaluations = (event for event in read_events(workdir) if event["step"] and event.get(key) is not None)
    return sorted({event["step"]: score(key, event) for event in evaluations}.items())
