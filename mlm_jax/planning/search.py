"""Search for mesh, microbatches and recomputation: all are estimated by formula, the most promising are compiled."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError
from mlm_jax.parallel.axes import AXES
from mlm_jax.parallel.devices import is_simulated
from mlm_jax.parallel.topology import Topology
from mlm_jax.planning.estimate import REMATS, Estimate, Estimator, applied, common_rows, fits
from mlm_jax.planning.plan import Plan, plan

MICROBATCHES = (1, 2, 4, 8, 16, 32)
SMALL_SLICE = 8  # the largest slice of TPU devices that fsdp may span without a warning
TIE = 0.01  # expected times that differ by less are equal
RULE = (
    "ranked by the time that is expected of a step; within 1 %: the mesh that sends less, then the one of fewer axes, then the "
    "one of less memory; meshes with a warning come last"
)


@dataclasses.dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
      estimates: for each mesh, the best layout among those that fit by formula, in the order of :data:`RULE`.
      tried: number of combinations that were estimated.
      compiled: estimates of the compiled layouts with their plans, in the order of compilation.
      topology: the devices.
      estimator: the estimator that made the estimates.
    """

    estimates: list[Estimate]
    tried: int
    compiled: list[tuple[Estimate, Plan]]
    topology: Topology
    estimator: Estimator

    @property
    def ranked(self) -> list[tuple[Estimate, Plan]]:
        """Return the compiled layouts: plans that fit, in the order of :data:`RULE`, and then the others."""
        return sorted(self.compiled, key=lambda pair: (not pair[1].memory.fits, rank(pair[1], self.topology)))

    @property
    def plans(self) -> list[Plan]:
        """Return the compiled plans that fit, in the order of :data:`RULE`."""
        return [made for _, made in self.ranked if made.memory.fits]


def search(
    config: ConfigDict, topology: Topology, *, confirm: int = 3, report: Callable[[Estimate, Plan], None] | None = None
) -> Found:
    """Estimate every mesh × microbatches × recomputation, and compile the most promising until enough of them fit.

    Args:
      config: the config of the run; its mesh, microbatches and remat are searched.
      topology: the devices.
      confirm: number of compiled plans that must fit, each on another mesh, before the search ends; 0 only estimates.
      report: called with each estimate and its compiled plan.

    Raises:
      UserError: nothing fits, no mesh shares the rows evenly, or ``confirm`` is negative.
    """
    if confirm < 0:
        raise UserError(
            f"--search must be at least 0, not {confirm}",
            remedy="give 0 to estimate only, or the number of plans to compile",
        )
    config = config.copy_and_resolve_references()
    config.mesh.slices = topology.slices
    estimator = Estimator(config, topology)
    candidates = _candidates(estimator)
    if not candidates:
        raise UserError(
            f"no mesh of the {topology.device_count} devices of {topology} shares the rows of every task evenly",
            remedy="make the rows a multiple of the devices",
        )
    hopeful = sorted((one for one in candidates if fits(one, topology)), key=lambda one: rank(one, topology))
    best: dict[tuple[int, ...], Estimate] = {}
    for one in hopeful:
        best.setdefault(_key(one), one)
    compiled: list[tuple[Estimate, Plan]] = []
    settled: set[tuple[int, ...]] = set()  # meshes with a compiled layout that fits
    queue = hopeful
    if not hopeful and not is_simulated(topology):  # the compiler knows better than the formula
        queue = sorted(candidates, key=lambda one: one.peak)[:1]
    while queue and len(settled) < confirm and len(compiled) < 2 * confirm:
        one = queue.pop(0)
        if _key(one) in settled:
            continue
        made = plan(applied(config, one.mesh, one.remat, one.microbatches), topology)
        compiled.append((one, made))
        if report is not None:
            report(one, made)
        if made.memory.fits:
            settled.add(_key(one))
        else:  # layouts of the same mesh that should need at least as much memory are not compiled
            queue = [other for other in queue if _key(other) != _key(one) or other.peak < 0.9 * one.peak]
    found = Found(list(best.values()), len(candidates), compiled, topology, estimator)
    if not found.plans and (confirm or not hopeful):
        raise UserError(
            f"no mesh, microbatches or recomputation make this step fit {topology}",
            remedy="use more chips, fewer rows or a smaller model",
        )
    return found


def meshes(config: ConfigDict, topology: Topology) -> Iterator[dict[str, int]]:
    """Yield {axis: devices} whose product is the topology's devices, and which split rows and heads evenly.

    All but ``data`` are powers of two. ``tensor`` stays within eight devices and divides heads and feed-forward width;
    ``sequence`` is used only if rows are too few for the devices.
    """
    devices, rows = topology.device_count, common_rows(config)
    longest = max(entry["length"] for entry in config.tasks.values())
    powers = [2**power for power in range(devices.bit_length()) if devices % 2**power == 0]
    for tensor in powers:
        if tensor > 8 or config.model.heads % tensor or config.model.mlp_width % tensor:
            continue
        for sequence in powers:
            over_rows = devices // (tensor * sequence)
            if devices % (tensor * sequence) or longest % (128 * sequence) and sequence > 1:
                continue
            if rows % over_rows or (sequence > 1 and rows % (2 * over_rows) == 0 and 2 * over_rows * tensor <= devices):
                continue
            for fsdp in powers:
                if over_rows % (fsdp * topology.slices) == 0:
                    yield dict(zip(AXES, (over_rows // fsdp, fsdp, tensor, sequence), strict=True))


def best(estimator: Estimator) -> Estimate | None:
    """Return the layout that ranks first of all that fit by formula; None if none does."""
    fitting = [one for one in _candidates(estimator) if fits(one, estimator.topology)]
    return min(fitting, key=lambda one: rank(one, estimator.topology), default=None)


def settings(one: Estimate | Plan, topology: Topology) -> str:
    """Return the options that give a run this layout."""
    sizes = one.mesh | ({"slices": topology.slices} if topology.slices > 1 else {})
    mesh = " ".join(f"--set mesh.{axis}={size}" for axis, size in sizes.items())
    return f"{mesh} --set model.remat={one.remat} --set training.microbatches={one.microbatches}"


def warning(mesh: dict[str, int], topology: Topology) -> str:
    """Return a reason against a mesh that its bounds do not show; "" if there is none."""
    if topology.chip.platform == "tpu" and mesh["fsdp"] == topology.linked > SMALL_SLICE:
        return "fsdp spans the slice: libtpu then gathers weights by all-reduce, twice the bytes"
    if mesh["tensor"] * mesh["sequence"] > topology.linked:
        return "tensor and sequence reach beyond a host: each layer waits for the network"
    if mesh["fsdp"] > 1 and mesh["fsdp"] * mesh["tensor"] * mesh["sequence"] > topology.linked:
        return "fsdp reaches beyond a host: weights are gathered over the network"
    return ""


def rank(one: Estimate | Plan, topology: Topology) -> tuple[float, ...]:
    """Return the key by which layouts are sorted, in the order of :data:`RULE`."""
    peak = one.peak if isinstance(one, Estimate) else one.memory.peak
    warned, axes = bool(warning(one.mesh, topology)), sum(size > 1 for size in one.mesh.values())
    if one.roofline is None:
        return warned, peak, axes
    bounds = one.roofline
    return warned, round(math.log(bounds.expected_seconds) / TIE), bounds.links + bounds.network, axes, peak


def _candidates(estimator: Estimator) -> list[Estimate]:
    """Return the estimate of every combination."""
    config = estimator.config
    rows = common_rows(config)
    return [
        estimator(mesh, remat, parts)
        for mesh in meshes(config, estimator.topology)
        for remat in REMATS
        for parts in MICROBATCHES
        if rows // (mesh["data"] * mesh["fsdp"]) % parts == 0
    ]


def _key(one: Estimate) -> tuple[int, ...]:
    return tuple(one.mesh.values())
