"""Settings with which a step that needs too much memory should fit: those that cost least speed, by formula."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from mlm_jax.parallel.topology import Topology
from mlm_jax.planning.estimate import REMATS, Estimate, Estimator, common_rows
from mlm_jax.planning.prepare import Known

MOST_MICROBATCHES = 32
CHUNKS = (4, 16)  # numbers of parts in which the logits of a row may be computed
SMALLEST_SHARE = 64  # rows are not reduced below this share of their number


@dataclasses.dataclass(frozen=True)
class Change:
    """Settings with which a step should fit.

    Attributes:
      settings: {config key: value}.
      peak: expected bytes on each device.
      slower: expected time per token relative to the present settings (1.0: the same); None if the chip has no peak.
    """

    settings: dict[str, Any]
    peak: float
    slower: float | None

    def __str__(self) -> str:
        pace = "" if self.slower is None or abs(self.slower - 1) < 0.01 else f", {abs(self.slower - 1):.0%} "
        pace += "" if not pace else "slower" if (self.slower or 0) > 1 else "faster"
        flags = " ".join(f"--set {key}={value}" for key, value in self.settings.items())
        return f"{flags} ({self.peak / 1e9:,.1f} GB{pace})"


def changes(
    config: ConfigDict,
    topology: Topology,
    mesh: dict[str, int],
    *,
    temporaries: float | None = None,
    known: Known | None = None,
) -> list[Change]:
    """Return settings with which a step that does not fit should fit: the fastest of each kind, the fastest first.

    One setting is changed if that is enough, otherwise several. Rows are changed only if no other settings are enough, or alone.

    Args:
      config: the config of the run.
      topology: the devices, whose memory the step exceeds.
      mesh: {axis: devices}.
      temporaries: bytes of the temporaries of the present step, if the compiler reports them; estimates are scaled by it.
      known: properties of the run's data, if they are known.
    """
    estimator = Estimator(config, topology, known=known)
    now = estimator(mesh, config.model.remat, config.training.microbatches)
    scale = temporaries / now.temporaries if temporaries else 1.0

    def fitting(trials: Iterator[tuple[dict[str, Any], Estimate, int]]) -> list[Change]:
        found = []
        for settings, guess, tokens in trials:
            peak = guess.arguments + scale * guess.temporaries
            if settings and peak <= topology.capacity:
                found.append(Change(settings, peak, _slower(now, estimator.tokens, guess, tokens)))
        return sorted(found, key=lambda change: (change.slower or 1.0, -change.peak))

    together = fitting(_trials(config, estimator, mesh))
    single = [change for change in together if len(change.settings) == 1]
    best = {next(iter(change.settings)): change for change in reversed(single)}
    chosen = sorted(best.values(), key=lambda change: change.slower or 1.0) or together[:1]
    fewer = fitting(_fewer_rows(config, topology, mesh, known))
    return chosen + fewer[:1]


def _slower(now: Estimate, tokens_now: int, then: Estimate, tokens_then: int) -> float | None:
    if now.roofline is None or then.roofline is None:
        return None
    return (then.roofline.expected_seconds / tokens_then) / (now.roofline.expected_seconds / tokens_now)


def _trials(
    config: ConfigDict, estimator: Estimator, mesh: dict[str, int]
) -> Iterator[tuple[dict[str, Any], Estimate, int]]:
    """Yield settings of recomputation, microbatches, chunk of the output layer and fsdp, with their estimates."""
    model, parts_now = config.model, config.training.microbatches
    per_row = max((one.predicted // max(1, one.rows) for one in estimator.traffic), default=0)
    chunk_now = model.cross_entropy_chunk or per_row
    smaller = [size for share in CHUNKS if 0 < (size := -(-per_row // share)) < chunk_now]
    chunks = [None, *smaller]  # None: the chunk of the config, which may depend on the memory
    rows = common_rows(config) // (mesh["data"] * mesh["fsdp"])
    meshes = [mesh]
    while meshes[-1]["data"] % 2 == 0:  # the rows stay on the same devices, but more devices share the weights
        meshes.append({**meshes[-1], "data": meshes[-1]["data"] // 2, "fsdp": meshes[-1]["fsdp"] * 2})
    for trial_mesh in meshes:
        for remat in REMATS[REMATS.index(model.remat) :]:
            parts = parts_now
            while parts <= MOST_MICROBATCHES and rows % parts == 0:
                for chunk in chunks:
                    settings: dict[str, Any] = {}
                    settings |= {} if chunk is None else {"model.cross_entropy_chunk": chunk}
                    settings |= {} if parts == parts_now else {"training.microbatches": parts}
                    settings |= {} if remat == model.remat else {"model.remat": remat}
                    settings |= {} if trial_mesh == mesh else {"mesh.fsdp": trial_mesh["fsdp"]}
                    yield settings, estimator(trial_mesh, remat, parts, chunk), estimator.tokens
                parts *= 2


def _fewer_rows(
    config: ConfigDict, topology: Topology, mesh: dict[str, int], known: Known | None
) -> Iterator[tuple[dict[str, Any], Estimate, int]]:
    """Yield settings that halve the rows of every task repeatedly, with their estimates."""
    shares = mesh["data"] * mesh["fsdp"] * config.training.microbatches
    share = 2
    while share <= SMALLEST_SHARE and common_rows(config) % (share * shares) == 0:
        trial = config.copy_and_resolve_references()
        trial.tasks = {name: {**entry, "rows": entry["rows"] // share} for name, entry in config.tasks.items()}
        estimator = Estimator(trial, topology, known=known)
        settings = {f"tasks.{name}.rows": entry["rows"] for name, entry in trial.tasks.items()}
        yield settings, estimator(mesh, config.model.remat, config.training.microbatches), estimator.tokens
        share *= 2


def lines(found: list[Change]) -> str:
    """Return the changes as one sentence, or the remaining advice if there are none."""
    if not found:
        return (
            "use more chips, shorter rows or a smaller model: no microbatches, recomputation or fewer rows make it fit"
        )
    return "; or ".join(map(str, found))
