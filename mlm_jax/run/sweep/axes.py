"""What a config file's ``sweep()`` lists its trials with: grids, random draws, and the names of trials."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mlm_jax.common.errors import UserError

Settings = dict[str, Any]  # of a trial: config key → value
# Characters that a path cannot have, or that Orbax interprets as a glob, so that it could not read checkpoints in the folder.
IN_NAMES = str.maketrans({"/": "_", " ": "", "[": "(", "]": ")", "*": "_", "?": "_"})
LONGEST_NAME = 200  # bytes; file systems take 255


def product(axes: Mapping[str, Iterable[Any]]) -> list[Settings]:
    """Return a trial for every combination of values."""
    return [dict(zip(axes, values)) for values in itertools.product(*axes.values())]


def search(axes: Mapping[str, Sequence[Any] | Range], trials: int, seed: int = 0) -> list[Settings]:
    """Return trials of a random search, the same ones for the same arguments; a smaller ``trials`` gives a prefix of the list.

    Source: Bergstra and Bengio 2012, "Random Search for Hyper-Parameter Optimization".

    Args:
      axes: {config key: values to choose from, or a Range}.
      trials: the number of trials.
      seed: the seed of the draws.

    Raises:
      UserError: there are fewer different trials.
    """
    generator = np.random.default_rng(seed)
    found: dict[str, Settings] = {}
    for _ in range(100 * trials):
        trial = {
            key: axis.draw(generator) if isinstance(axis, Range) else axis[int(generator.integers(len(axis)))]
            for key, axis in axes.items()
        }
        found.setdefault(trial_name(trial), trial)
        if len(found) == trials:
            return [*found.values()]
    raise UserError(
        f"these values have fewer than {trials} different combinations", remedy="ask for fewer trials, or use product()"
    )


@dataclasses.dataclass(frozen=True)
class Range:
    """A uniform distribution of numbers, on a linear or logarithmic scale, rounded to three significant digits.

    Attributes:
      low: the smallest number.
      high: the largest number.
      log: whether the scale is logarithmic.
      whole: whether only whole numbers are drawn.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def draw(self, generator: np.random.Generator) -> float | int:
        """Return a number."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = float(generator.uniform(low, high))
        return self.rounded(math.exp(value) if self.log else value)

    def rounded(self, value: float) -> float | int:
        """Return a number as a trial takes it."""
        return round(value) if self.whole else float(f"{value:.3g}")


def zipped(axes: Mapping[str, Sequence[Any]]) -> list[Settings]:
    """Return a trial for every position in lists of values of the same length.

    Raises:
      UserError: the lists are not equally long.
    """
    if len({len(values) for values in axes.values()}) > 1:
        lengths = ", ".join(f"{len(values)} of {key}" for key, values in axes.items())
        raise UserError(f"zipped value lists are not equally long: {lengths}", remedy="give each key as many values")
    return [dict(zip(axes, values)) for values in zip(*axes.values())]


def chain(*sweeps: Iterable[Settings]) -> list[Settings]:
    """Return the trials of several sweeps, one after another."""
    return [*itertools.chain(*sweeps)]


def trial_name(trial: Settings) -> str:
    """Return the name of a trial's folder, such as "alpha=0.3,seed=1"; the end of a long name is replaced by its hash."""
    short = {key: key.rpartition(".")[2] for key in trial}
    doubled = {name for name in short.values() if [*short.values()].count(name) > 1}
    parts = (f"{key if short[key] in doubled else short[key]}={value}" for key, value in trial.items())
    name = ",".join(parts).translate(IN_NAMES)
    if len(name.encode()) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name.encode()[:LONGEST_NAME].decode(errors='ignore')}…{digest}"
