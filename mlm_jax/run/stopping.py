"""Rules that end weak trials of a sweep early, by the evaluations that the trials have logged so far."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

from mlm_jax.checkpoints.metrics import score
from mlm_jax.report.history import read_events

ENDED_EARLY = "ended early"  # what the state of such a trial begins with
FACTOR = 3  # of successive halving: one of so many trials passes a rung
OTHERS = 3  # trials that the median is taken over at least
Curve = list[tuple[int, float]]  # (step, score), of which more is better, in the order of steps
Rule = Callable[[str, Mapping[str, Curve]], str]


def successive_halving(trial: str, curves: Mapping[str, Curve]) -> str:
    """Return why a trial is to end, or "", by asynchronous successive halving.

    The rungs are the evaluations 1, 3, 9, … A trial that reaches a rung goes on if it is among the best third of the trials
    that have reached that rung by now; the first ones to arrive go on.

    Args:
      trial: that is under way.
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
    """Return why a trial is to end, or "", by the median stopping rule.

    A trial ends if its best evaluation is worse than the median, over at least three others, of their mean score up to the
    same step.

    Args:
      trial: that is under way.
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
    """Return the scores of a trial's evaluations after its first step.

    Args:
      workdir: the workdir of the trial.
      key: the key of the metric, such as ``eval/loss/mean``.

    Raises:
      UserError: its metrics are damaged.
    """
    measured = (event for event in read_events(workdir) if event["step"] and event.get(key) is not None)
    return sorted({event["step"]: score(key, event) for event in measured}.items())
