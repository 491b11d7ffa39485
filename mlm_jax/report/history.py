"""Reading ``metrics.jsonl`` as curves: one series of (step, value) for each key, with a limit on the points in memory."""

from __future__ import annotations

import collections
import itertools
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from mlm_jax.checkpoints.metrics import score
from mlm_jax.common.errors import UserError
from mlm_jax.common.foreign_files import MOST_JSON, check_characters, check_file
from mlm_jax.data.text.languages import pair_languages

METRICS_FILE = "metrics.jsonl"
LAST_STEP, LARGEST = 1 << 62, sys.float_info.max  # larger steps and values are invalid
Series = list[tuple[int, float]]
AVERAGES = ("mean", "micro")
MOST_KEYS, MOST_POINTS, MOST_OF_A_KEY = 200_000, 2_000_000, 8192  # in memory: 120 bytes a point, 500 a key


def read_events(workdir: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a run's ``metrics.jsonl`` in order, one at a time; none if there is no such file yet.

    An incomplete last line, as a crash leaves it, is ignored. A value that was not finite is None.

    Raises:
      UserError: a line is not a JSON object with a step, or too long; or the file cannot be read.
    """
    file = Path(workdir) / METRICS_FILE
    if not file.exists():
        return
    check_file(file)
    try:
        with file.open("rb") as stream:
            for number in itertools.count(1):
                if not (line := stream.readline(MOST_JSON + 1)):
                    return
                if len(line) > MOST_JSON:
                    raise UserError(f"a line of more than {MOST_JSON:,} bytes", file=file, line=number)
                if line.endswith(b"\n"):
                    yield _event(line, file, number)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", file=file) from error


def elapsed(events: Iterable[Mapping[str, Any]], starts: Iterable[int]) -> Series:
    """Return (step, seconds of training until then) of a run's events, without the time between its starts.

    Args:
      events: of a run, as :func:`read_events` returns them.
      starts: steps at which the run was started again.
    """
    restarts, seconds, found = set(starts), 0.0, _Curve("time")
    before: tuple[int, float] | None = None
    for event in events:
        if not is_number(event.get("time")):
            continue
        step, time = int(event["step"]), float(event["time"])
        if before is not None and not any(before[0] <= restart < step for restart in restarts if restart):
            seconds += max(time - before[1], 0.0)
        before = (step, time)
        found.add(step, seconds)
        found.shrink(MOST_OF_A_KEY)
    return found.series()


class Evaluations(NamedTuple):
    """The evaluations of a run, seen by one metric.

    Attributes:
      steps: the steps of all evaluations.
      scores: (step, score) of each evaluation that has the metric; a higher score is better.
      best: (score, event) of the best of them, whose checkpoint other verbs take: before the first step nothing is saved, and
        of equals the last one counts. None if no evaluation has the metric.
      last: the event of the last evaluation, whether it has the metric or not; None if there is no evaluation.
    """

    steps: list[int]
    scores: list[tuple[int, float]]
    best: tuple[float, Mapping[str, Any]] | None
    last: Mapping[str, Any] | None


def read_evaluations(workdir: str | Path, select: str) -> Evaluations:
    """Read the evaluations of a run, with the scores of a metric such as ``eval/loss/mean``.

    Raises:
      UserError: for the reasons of :func:`read_events`.
    """
    found = Evaluations([], [], None, None)
    for event in _evaluations(read_events(workdir)):
        found.steps.append(event["step"])
        found = found._replace(last=event)
        if select in event:
            here = score(select, {select: event[select] if is_number(event[select]) else math.nan})
            found.scores.append((event["step"], here))
            if found.best is None or (event["step"] > 0, here) >= (found.best[1]["step"] > 0, found.best[0]):
                found = found._replace(best=(here, event))
    return found


def evaluation_at(workdir: str | Path, step: int) -> dict[str, float]:
    """Return the held-out metrics of a run at a step, NaN for a value that is no number; {} if it was not evaluated there.

    Raises:
      UserError: for the reasons of :func:`read_events`.
    """
    found: Mapping[str, Any] = {}
    for event in _evaluations(read_events(workdir)):
        if event["step"] == step:
            found = event
    evaluated = {key: value for key, value in found.items() if key.startswith("eval/")}
    return {key: float(value) if is_number(value) else math.nan for key, value in evaluated.items()}


def _evaluations(events: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield the events with held-out metrics; of several in a row with the same step, only the last one."""
    evaluations = (event for event in events if any(key.startswith("eval/") for key in event))
    for _, repeated in itertools.groupby(evaluations, key=lambda event: event["step"]):
        yield collections.deque(repeated, maxlen=1)[0]


def is_patience_over(scores: Iterable[float], patience: int) -> bool:
    """Return whether none of the last ``patience`` evaluations is better than the best one before; False if ``patience`` is 0."""
    best, since = -math.inf, -1  # number of evaluations after the best one
    for value in scores:
        since = 0 if value > best else since + 1
        best = max(best, value)
    return bool(patience) and since >= patience


def _event(line: bytes, file: Path, number: int) -> dict[str, Any]:
    try:
        event = json.loads(line)
        check_characters(line, event)
        if type(event["step"]) is not int or not 0 <= event["step"] <= LAST_STEP:
            raise ValueError(f"step {event['step']!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            "this is not a JSON object with a step", file=file, line=number, remedy="delete the line"
        ) from error
    return event


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value is a finite number; JSON may contain integers that are too large for a float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


class _Curve:
    """A series with a limit on its points: if there are too many, neighbours are merged.

    For a held-out metric, the smallest and the largest of merged neighbours are kept, so that the best value stays. For other
    metrics, neighbours are replaced by their mean, because a report draws means.
    """

    __slots__ = ("group", "last", "points", "stride", "waiting")

    def __init__(self, key: str):
        self.points: Series = []
        self.waiting: Series = []  # points that have not been merged yet
        self.last: Series = []
        self.group = 2 if key.startswith("eval/") else 1  # number of points that replace merged neighbours
        self.stride = 1  # number of neighbours for each of these points

    def add(self, step: int, value: float) -> None:
        self.last = [(step, value)]
        if self.stride == 1:
            self.points += self.last
            return
        self.waiting += self.last
        if len(self.waiting) == self.group * self.stride:
            self.points += self._merged(self.waiting)
            self.waiting = []

    def shrink(self, most: int) -> None:
        """Merge neighbours until there are at most ``most`` points."""
        while len(self.points) > most:
            points, size = self._in_order(self.points), 2 * self.group
            self.points = [
                point for start in range(0, len(points), size) for point in self._merged(points[start : start + size])
            ]
            self.stride *= 2

    def series(self) -> Series:
        """Return the points in the order of steps, the last one as it was."""
        return self._in_order([*self.points, *self.waiting, *self.last])

    def _merged(self, points: Series) -> Series:
        if self.group == 2:
            ends = {min(points, key=lambda point: point[1]), max(points, key=lambda point: point[1])}
            return sorted(ends)
        steps, values = zip(*points)
        return [(round(sum(steps) / len(steps)), sum(values) / len(values))]

    @staticmethod
    def _in_order(points: Series) -> Series:
        return sorted(dict(points).items())


def read_history(workdir: str | Path) -> dict[str, Series]:
    """Return {key: [(step, value), …]} in the order of steps, for all numbers in ``metrics.jsonl``.

    If a step was run again after a crash, the values of the last time are returned. If the file has more numbers than may be
    in memory, neighbouring points are merged.

    Raises:
      UserError: there is no such file, it has no event, or for the reasons of :func:`read_events`.
    """
    file = Path(workdir) / METRICS_FILE
    if not file.is_file():
        raise UserError("there are no metrics here", file=file, remedy="name the --workdir of a training run")
    curves: dict[str, _Curve] = {}
    most, crowd = MOST_OF_A_KEY, MOST_POINTS // MOST_OF_A_KEY
    for event in read_events(workdir):
        for key, value in event.items():
            if key in ("step", "time") or not is_number(value):
                continue
            if (curve := curves.get(key)) is None:
                if len(curves) == MOST_KEYS:
                    raise UserError(f"these are more than {MOST_KEYS:,} different metrics", file=file)
                curve = curves[key] = _Curve(key)
            curve.add(event["step"], float(value))
            if len(curve.points) > most:
                curve.shrink(most)
        while len(curves) > crowd:  # room for twice as many keys
            crowd *= 2
            most //= 2
            for curve in curves.values():
                curve.shrink(most)
    if not curves:
        raise UserError("the run has not logged anything yet", file=file, remedy="wait for its first log line")
    return {key: curve.series() for key, curve in curves.items()}


def thin(series: Series, points: int = 300) -> Series:
    """Keep about ``points`` points of a curve, those that preserve its shape.

    The curve is divided into buckets of equal size. From each bucket, the point is kept that spans the largest triangle with the
    point kept before and the mean of the next bucket (Steinarsson 2013, largest triangle three buckets). The first and the last
    point stay.
    """
    if len(series) <= points:
        return list(series)
    data = np.array(series, np.float64)  # [points, 2]
    edges = np.linspace(1, len(data) - 1, points - 1).astype(int)
    kept = [0]
    for start, stop in zip(edges[:-1], edges[1:]):
        following = data[stop : 2 * stop - start + 1].mean(axis=0)
        before, here = data[kept[-1]], data[start:stop]
        area = (before[0] - following[0]) * (here[:, 1] - before[1]) - (before[0] - here[:, 0]) * (
            following[1] - before[1]
        )
        kept.append(start + int(np.abs(area).argmax()))
    kept.append(len(data) - 1)
    return [series[index] for index in kept]


def smooth(series: Series, points: int = 150) -> Series:
    """Average neighbouring points until about ``points`` are left, because a noisy curve is read by its trend."""
    if len(series) <= points:
        return list(series)
    parts = np.array_split(np.array(series, np.float64), points)  # points × [neighbours, 2]
    return [(round(part[:, 0].mean()), float(part[:, 1].mean())) for part in parts]


def curves_by_language(
    history: Mapping[str, Series], languages: Sequence[str]
) -> dict[str, dict[str, dict[str, Series]]]:
    """Group keys such as ``train/loss/de`` and ``eval/ranking/accuracy/de`` by metric.

    Returns:
      {metric: {"train" | "eval": {language or average: series}}}; the metric of a task's own keys is "task/metric".
    """
    known = {*languages, *AVERAGES}
    curves: dict[str, dict[str, dict[str, Series]]] = {}
    for key, series in history.items():
        parts = key.split("/")
        split, middle, last = parts[0], parts[1:-1], parts[-1]
        if split in ("train", "eval") and middle and last in known and middle[-1] != "share":
            curves.setdefault("/".join(middle), {}).setdefault(split, {})[last] = series
    return curves


def retrieval_curves(history: Mapping[str, Series], languages: Sequence[str]) -> dict[str, Series]:
    """Return {language: mean accuracy@1 over the pairs with this language, both directions}, and their ``mean``."""
    prefix = "eval/retrieval_at_1/"
    by_language: dict[str, dict[int, list[float]]] = {}
    for key, series in history.items():
        pair = key.removeprefix(prefix)
        if not key.startswith(prefix) or pair == "mean":
            continue
        for language in pair_languages(pair, languages):
            for step, value in series:
                by_language.setdefault(language, {}).setdefault(step, []).append(value)
    curves = {
        language: [(step, sum(values) / len(values)) for step, values in sorted(by_language[language].items())]
        for language in languages
        if language in by_language
    }
    return {**curves, "mean": history[prefix + "mean"]} if prefix + "mean" in history else curves
