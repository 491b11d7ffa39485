"""The metric of a checkpoint's evaluation, and the order of its values."""

from __future__ import annotations

import json
import logging
import math
import zlib
from collections.abc import Mapping
from pathlib import Path

from mlm_jax.checkpoints.contents import MOST_FACTS, brief
from mlm_jax.common.errors import UserError
from mlm_jax.common.foreign_files import read_json

log = logging.getLogger(__name__)

LESS_IS_BETTER = ("loss", "bits_per_byte", "perplexity")  # prefixes of the names of such metrics
CHECKSUM = "crc32"  # among the metrics of a checkpoint; older versions wrote none
ORBAX_METRICS = "metrics"  # Orbax's name of the folder and of the file in it that hold the metric of a checkpoint


def score(select: str, metrics: Mapping[str, float]) -> float:
    """Return a score for the value of a metric such as ``eval/loss/mean``: higher is better; −∞ if there is no such number."""
    value = metrics.get(select, math.nan)
    if math.isnan(value):
        return -math.inf
    return -value if is_less_better(select) else value


def value_of(score: float, select: str) -> float:
    """Return the value of a metric that has this score, the inverse of :func:`score`."""
    return -score if is_less_better(select) else score


def is_less_better(select: str) -> bool:
    """Return whether a smaller value of a metric such as ``eval/loss/mean`` is a better one."""
    return select.split("/")[-2:][0].startswith(LESS_IS_BETTER)


def read_metrics(folder: Path) -> dict[str, float]:
    """Return the metrics of a checkpoint's evaluation; {} if it has none that can be read."""
    file = folder / ORBAX_METRICS / ORBAX_METRICS
    if not file.exists():
        if _was_evaluated(folder):
            log.warning(
                "the metric of checkpoint %s is missing: it is damaged, and counts as not evaluated", folder.name
            )
        return {}
    try:
        found = {str(name): float(value) for name, value in read_json(file).items()}
        metrics = {name: value for name, value in found.items() if name != CHECKSUM}
        if CHECKSUM in found and found != with_checksum(metrics):
            raise ValueError("it has changed since it was written: its checksum differs")
        return metrics
    except (UserError, ValueError, TypeError, AttributeError) as error:
        if folder.is_dir():  # otherwise its run, which is under way, has removed it
            log.warning("the metric of checkpoint %s cannot be read (%s)", folder.name, brief(error))
        return {}


def with_checksum(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return metrics with their checksum as a further number, because Orbax accepts only numbers."""
    return {**metrics, CHECKSUM: float(zlib.crc32(json.dumps(sorted(metrics.items())).encode()))}


def _was_evaluated(folder: Path) -> bool:
    """Return whether a checkpoint was saved with metrics; False if its facts cannot be read (others warn of that)."""
    try:
        return read_json(folder / "facts" / "metadata", most=MOST_FACTS).get("is_measured") is True
    except (UserError, AttributeError):
        return False
