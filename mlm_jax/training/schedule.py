"""Schedules: the learning rate over a run, and weights that are piecewise linear in the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError, nearest
from mlm_jax.config.together import check_schedule, warmup_and_decay
from mlm_jax.config.values import BadValue
from mlm_jax.objectives.multitask import UNCERTAINTY

Schedule = Callable[[Any], Any]  # step (int or traced) → float32


def learning_rate(
    config: ConfigDict, steps: int, curriculum: Sequence[Mapping[str, Any]] = (), peak: Any = None
) -> Schedule:
    """Return step → learning rate.

    All schedules begin with a linear warm-up from 0, or, for ``wsd``, from ``final_fraction``, as in transformers. Then
    ``wsd`` stays constant and decays as 1 − √ over the last ``decay_steps`` (Hägele et al. 2024); ``cosine`` and ``linear``
    decay until the end of the run; ``rsqrt`` falls as 1/√step; ``constant`` stays constant.

    Args:
      config: ``config.optimizer``.
      steps: the number of steps of the whole run.
      curriculum: ``config.curriculum``; its phases may multiply the rate by a factor, or have a schedule of their own.
      peak: the highest rate of the run's own schedule, which may be traced; ``config.learning_rate`` if not given.

    Raises:
      UserError: the schedule is unknown, or its parts are longer than the run.
    """
    of_run, start, phases = _of_schedule(config, steps, peak), 0, []
    for index, entry in enumerate(curriculum):
        stop = start + entry["steps"]
        if "optimizer" in entry or "rate_factor" in entry:
            phases.append((start, stop, entry.get("rate_factor", 1.0), _of_phase(config, index, entry)))
        start = stop

    def rate(step: Any) -> Any:
        found = of_run(step)
        for start, stop, factor, own in phases:
            in_phase = (jnp.asarray(step) >= start) & (jnp.asarray(step) < stop)
            found = jnp.where(in_phase, factor * (own(step - start) if own else of_run(step)), found)
        return found

    return rate if phases else of_run


def _of_phase(config: ConfigDict, index: int, entry: Mapping[str, Any]) -> Schedule | None:
    """Return a phase's own schedule, from the phase's first step on; None if it has none."""
    if "optimizer" not in entry:
        return None
    key = f"curriculum[{index}].optimizer"
    try:
        return _of_schedule(_own(config, entry), entry["steps"])
    except UserError as error:
        raise BadValue(key, f"{key}: {error.problem}", error.remedy) from error


def _of_schedule(config: ConfigDict, steps: int, peak: Any = None) -> Schedule:
    peak, floor = config.learning_rate if peak is None else peak, config.final_fraction
    if config.schedule not in SHAPES:
        raise BadValue(
            "optimizer.schedule",
            f"no schedule {config.schedule!r}{nearest(config.schedule, SHAPES)}",
            f"use one of {', '.join(SHAPES)}",
        )
    check_schedule(config, steps)
    warmup, decay = warmup_and_decay(config, steps)
    shape, first = SHAPES[config.schedule], floor if config.schedule == "wsd" else 0.0

    def rate(step: Any) -> Any:
        step = jnp.asarray(step, jnp.float32)
        warm = first + (1.0 - first) * jnp.minimum(step / warmup, 1.0) if warmup else 1.0
        return peak * warm * shape(step, warmup, steps, decay, floor)

    return rate


def schedule_line(config: ConfigDict, steps: int, curriculum: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return a line for the log that describes the schedule of ``config.optimizer``, and those of phases that change it.

    Args:
      config: ``config.optimizer``.
      steps: the number of steps of the whole run.
      curriculum: ``config.curriculum``.
    """
    lines = [_described(config, steps)]
    for index, entry in enumerate(curriculum):
        changes = [f"times {entry['rate_factor']:g}"] if "rate_factor" in entry else []
        changes += [_described(_own(config, entry), entry["steps"])] if "optimizer" in entry else []
        lines += [f"curriculum[{index}]: {', '.join(changes)}"] if changes else []
    return f"learning rate: {'; '.join(lines)}"


def _own(config: ConfigDict, entry: Mapping[str, Any]) -> ConfigDict:
    """Return ``config.optimizer`` with the changes of a phase that has a schedule of its own."""
    own = ConfigDict(config)
    own.update({"warmup_steps": 0.0, **entry["optimizer"]})
    return own


def _described(config: ConfigDict, steps: int) -> str:
    warmup, decay = warmup_and_decay(config, steps)
    shares = [
        f" ({value:g} of {steps:,})" if 0 < value < 1 else "" for value in (config.warmup_steps, config.decay_steps)
    ]
    parts = [f"warm-up over {warmup:,} steps{shares[0]}"] + (
        [f"decay over the last {decay:,}{shares[1]}"] if decay else []
    )
    return f"{config.schedule}, at most {config.learning_rate:g}, {', '.join(parts)}"


def _wsd(step: Any, warmup: int, steps: int, decay: int, floor: float) -> jax.Array:
    progress = jnp.clip((step - (steps - decay)) / max(decay, 1), 0.0, 1.0)
    return floor + (1.0 - floor) * (1.0 - jnp.sqrt(progress))


def _progress(step: Any, warmup: int, steps: int) -> jax.Array:
    return jnp.clip((step - warmup) / max(steps - warmup, 1), 0.0, 1.0)


SHAPES = {
    "wsd": _wsd,
    "cosine": lambda step, warmup, steps, decay, floor: (
        floor + (1.0 - floor) * 0.5 * (1.0 + jnp.cos(jnp.pi * _progress(step, warmup, steps)))
    ),
    "linear": lambda step, warmup, steps, decay, floor: floor + (1.0 - floor) * (1.0 - _progress(step, warmup, steps)),
    "rsqrt": lambda step, warmup, steps, decay, floor: jnp.sqrt(max(warmup, 1) / jnp.maximum(step, max(warmup, 1))),
    "constant": lambda step, warmup, steps, decay, floor: 1.0,
}


def piecewise_linear(points: str | float) -> Schedule:
    """Return step → value for ``"0:0,1000:0,2000:1"``, constant outside; a number is constant everywhere.

    Raises:
      UserError: a point is not ``step:value``, a number is negative or not finite, or the steps do not increase.
    """
    if isinstance(points, (int, float)):
        return lambda step: jnp.asarray(points, jnp.float32)
    try:
        pairs = [tuple(map(float, point.split(":"))) for point in points.split(",")]
        steps, values = zip(*((step, value) for step, value in pairs))
    except ValueError as error:
        raise UserError(
            f"{points!r} is not a piecewise linear weight{nearest(points, (UNCERTAINTY,))}",
            remedy='write "step:value,step:value"',
        ) from error
    if not all(0 <= number < math.inf for number in (*steps, *values)):
        raise UserError(
            f"{points!r} has a number that is negative or not finite", remedy="write steps and weights from 0"
        )
    if list(steps) != sorted(set(steps)):
        raise UserError(
            f"the steps of {points!r} do not increase", remedy="write step:weight pairs in order, as in 0:0,1000:1"
        )
    return lambda step: jnp.interp(jnp.asarray(step, jnp.float32), jnp.asarray(steps), jnp.asarray(values))
