"""Bootstrap intervals of held-out metrics, and of differences between two runs.

A metric is computed from units, such as rows of text or aligned sentences. A resample gives each unit a weight from Poisson(1),
which depends only on the unit's number: the same unit has the same weights in every metric, language and run. Differences between
runs with the same units are therefore paired, although the weights are drawn for each run separately.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlm_jax.common.errors import UserError
from mlm_jax.common.files import write_whole
from mlm_jax.common.foreign_files import check_file, parse_json
from mlm_jax.data.text.languages import pair_languages
from mlm_jax.evaluation.correlation import CORRELATIONS, weighted_correlation

RESAMPLES = 1000
LEVEL = 0.95  # level of the intervals
BLOCK = 1 << 21  # number of weights in memory at once
MEAN = "mean"
FOLDER = "held_out_rows"  # folder in a workdir
MOST_LINE = 128_000_000  # bytes of a metric's values: six million examples
MOST_METRICS, MOST_BYTES = 50_000, 500_000_000  # in a file; the values take less memory than the file
TYPES = {"units": "<u8", "first": "<f4", "second": "<f4"}  # types of the arrays in its files


class Observed(NamedTuple):
    """The values from which a metric of one language is computed: a ratio of sums, or pairs of numbers for a correlation.

    Attributes:
      units: ``[units]`` uint64 number of each unit, the same in every run that measures this unit.
      first: ``[units]`` numerators, or predicted numbers.
      second: ``[units]`` denominators, or gold numbers.
    """

    units: np.ndarray
    first: np.ndarray
    second: np.ndarray


Interval = tuple[float, float]


def unit_numbers(data: str, count: int, first: int = 0) -> np.ndarray:
    """Return ``[count]`` uint64 numbers of the units of a data set from ``first`` on; they depend on the description ``data``."""
    start = int.from_bytes(hashlib.blake2b(data.encode(), digest_size=8).digest(), "little")
    return np.uint64(start) + np.arange(first, first + count, dtype=np.uint64)  # wraps around


def poisson_weights(units: np.ndarray, resamples: int = RESAMPLES, first: int = 0) -> np.ndarray:
    """Return ``[resamples, units]`` uint8 weights of each unit in each resample from ``first`` on, a function of the unit's number.

    Source: Chamandy et al. 2012, "Estimating Uncertainty for Massive Data Streams", section 3: Poisson(1) in place of
    multinomial weights. Random bits are SplitMix64's (Steele et al. 2014).
    """
    with np.errstate(over="ignore"):
        seeds = _mixed(units.astype(np.uint64))
        steps = np.arange(first + 1, first + resamples + 1, dtype=np.uint64)[:, None] * np.uint64(0x9E3779B97F4A7C15)
        bits = _mixed(seeds[None] + steps) >> np.uint64(11)
    shares = bits.astype(np.float64) * 2.0**-53
    return np.searchsorted(_POISSON, shares, side="right").astype(np.uint8)


def _mixed(value: np.ndarray) -> np.ndarray:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


_POISSON = np.cumsum([math.exp(-1) / math.factorial(count) for count in range(16)])  # distribution function


@functools.lru_cache(maxsize=4)
def _cached_weights(units: bytes) -> np.ndarray:
    return poisson_weights(np.frombuffer(units, np.uint64))


def resampled(key: str, observed: Observed) -> np.ndarray:
    """Return a metric's value in each resample, ``[RESAMPLES]``; NaN if a resample has none of its units.

    Args:
      key: the key of the metric, such as ``eval/loss/de``; its name decides between correlation and ratio.
      observed: the values from which the metric is computed.
    """
    name = key.split("/")[-2]
    size = max(BLOCK // RESAMPLES, 1)
    if name in CORRELATIONS:
        count = max(BLOCK // max(len(observed.units), 1), 1)  # of resamples at a time
        blocks = [(start, min(count, RESAMPLES - start)) for start in range(0, RESAMPLES, count)]
        drawn = (poisson_weights(observed.units, length, start) for start, length in blocks)
        return np.concatenate([weighted_correlation(name, observed.first, observed.second, one) for one in drawn])
    top, bottom = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    for start in range(0, len(observed.units), size):
        part = slice(start, start + size)
        weights = _cached_weights(np.ascontiguousarray(observed.units[part], np.uint64).tobytes()).astype(np.float64)
        top += weights @ observed.first[part].astype(np.float64)
        bottom += weights @ observed.second[part].astype(np.float64)
    return np.divide(top, bottom, out=np.full(RESAMPLES, np.nan), where=bottom > 0)


def resample_all(observed: Sequence[Mapping[str, Observed]], languages: Sequence[str]) -> list[dict[str, np.ndarray]]:
    """Return {metric key: value in each resample} for each run.

    Means over languages or pairs are added, and the mean of each language over its pairs.

    Args:
      observed: {metric key: values} of each run, as :func:`read_rows` returns it.
      languages: language codes of all runs.
    """
    found: list[dict[str, np.ndarray]] = [{} for _ in observed]
    for key in dict.fromkeys(key for one in observed for key in one):
        for values, one in zip(found, observed):  # key by key, because runs share the weights of a key's units
            if key in one and len(one[key].units) > 1:
                values[key] = resampled(key, one[key])
    for values, one in zip(found, observed):
        for key, keys in averages(one, languages).items():
            if all(name in values for name in keys):
                values[key] = np.mean([values[name] for name in keys], axis=0)
    return found


def averages(keys: Iterable[str], languages: Sequence[str]) -> dict[str, list[str]]:
    """Return {key of an average: keys of the averaged values}: a metric's mean, and a language's mean over its pairs."""
    found: dict[str, list[str]] = {}
    for key in keys:
        metric, _, name = key.rpartition("/")
        if ":" in name:  # a source such as de:wiki does not count
            continue
        found.setdefault(f"{metric}/{MEAN}", []).append(key)
        for language in pair_languages(name, languages) if name not in languages else ():
            found.setdefault(f"{metric}/{language}", []).append(key)
    return found


def interval(values: np.ndarray, level: float = LEVEL) -> Interval | None:
    """Return the central percentiles of resampled values (Efron and Tibshirani 1993, chapter 13); None without values."""
    return intervals_of({"": values}, level).get("")


def intervals_of(values: Mapping[str, np.ndarray], level: float = LEVEL) -> dict[str, Interval]:
    """Return {metric key: interval} of {metric key: value in each resample}; keys that most resamples lack are left out."""
    found: dict[str, Interval] = {}
    whole = [key for key, one in values.items() if np.isfinite(one).all()]
    shares = [(1 - level) / 2, (1 + level) / 2]
    if whole:  # all at once
        low, high = np.quantile(np.stack([values[key] for key in whole]), shares, axis=1)
        found = {key: (float(a), float(b)) for key, a, b in zip(whole, low, high)}
    for key in values.keys() - found.keys():
        known = values[key][np.isfinite(values[key])]
        if len(known) >= len(values[key]) / 2:
            low, high = np.quantile(known, shares)
            found[key] = (float(low), float(high))
    return found


def intervals(observed: Mapping[str, Observed], languages: Sequence[str]) -> dict[str, Interval]:
    """Return {metric key: 95 % interval}, also of averages; arguments are those of :func:`resample_all`, for one run."""
    return intervals_of(resample_all([observed], languages)[0])


# ---------------------------------------------------------------------------------------------------- in a workdir


def rows_file(workdir: str | Path, step: int) -> Path:
    """Return the file of an evaluation's rows: a JSON object for each metric, with its arrays in base64."""
    return Path(workdir, FOLDER, f"{step}.jsonl")


def save_rows(workdir: str | Path, step: int, observed: Mapping[str, Observed], keep: Iterable[int] = ()) -> None:
    """Write the values from which an evaluation's metrics are computed, and remove those of other steps.

    Args:
      workdir: the workdir of the run.
      step: the step of the evaluation.
      observed: {metric key: values}.
      keep: other steps whose values stay.
    """

    def line(key: str, one: Observed) -> str:
        arrays = {name: np.asarray(part, TYPES[name]).tobytes() for name, part in one._asdict().items()}
        return json.dumps({"key": key} | {name: base64.b64encode(part).decode() for name, part in arrays.items()})

    file = rows_file(workdir, step)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, "".join(f"{line(key, one)}\n" for key, one in observed.items()))
    kept = {rows_file(workdir, other) for other in (step, *keep)}
    for other in file.parent.glob("*.jsonl"):
        if other not in kept:
            other.unlink()


def read_rows(workdir: str | Path, step: int) -> dict[str, Observed]:
    """Return the values from which the metrics of a step's evaluation are computed; {} if the workdir has none.

    Raises:
      UserError: the file is damaged.
    """
    file = rows_file(workdir, step)
    if not file.exists():
        return {}
    check_file(file, MOST_BYTES)
    found = {}
    with file.open("rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(MOST_LINE), b""), start=1):
            try:
                key, one = _read_line(line, file)
            except (UserError, ValueError, KeyError, TypeError) as error:
                remedy = "delete the file; the run's next evaluation writes it again"
                raise UserError("these are not rows of an evaluation", file=file, line=number, remedy=remedy) from error
            found[key] = one
            if len(found) > MOST_METRICS:
                raise UserError(
                    f"these are rows of more than {MOST_METRICS:,} metrics", file=file, remedy="delete the file"
                )
    return found


def _read_line(line: bytes, file: Path) -> tuple[str, Observed]:
    values = parse_json(line, file)
    key = values["key"]
    arrays = [np.frombuffer(base64.b64decode(values[name], validate=True), TYPES[name]) for name in Observed._fields]
    if not isinstance(key, str) or key.count("/") < 2 or len({len(part) for part in arrays}) > 1:
        raise ValueError(key)
    return key, Observed(*arrays)
