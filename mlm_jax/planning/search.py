"""Which mesh, microbatches and recomputation: all are estimated by formula, the most promising are compiled."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import jax
from jax.sharding import AbstractMesh, AxisType
from ml_collections import ConfigDict

from mlm_jax import model as model_room
from mlm_jax.common.errors import UserError
from mlm_jax.parallel.axes import AXES
from mlm_jax.parallel.rules import parameter_shardings
from mlm_jax.parallel.topology import Topology
from mlm_jax.planning.estimate import Estimate, Sizes, estimate, fits, sizes_on
from mlm_jax.planning.plan import Plan, for_platform, plan, planned_labels, prepare
from mlm_jax.training.cost import tokens_of
from mlm_jax.training.flops import Flops, traffic
from mlm_jax.training.optimizer import optimizer_state_shardings

REMATS = ("none", "dots", "full")
MICROBATCHES = (1, 2, 4, 8, 16, 32)


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
      estimates: of each mesh the way that is fastest by formula and fits by formula, the fastest first.
      tried: how many combinations were estimated.
      compiled: those that the compiler was asked about, with its answer, in the order in which it was asked.
    """

    estimates: list[Estimate]
    tried: int
    compiled: list[tuple[Estimate, Plan]]

    @property
    def ranked(self) -> list[tuple[Estimate, Plan]]:
        """Return what was compiled: plans that fit, the fastest bound first, and then the others."""
        bound = lambda made: made.roofline.seconds if made.roofline else 0.0  # noqa: E731
        return sorted(self.compiled, key=lambda pair: (not pair[1].memory.fits, bound(pair[1])))

    @property
    def plans(self) -> list[Plan]:
        """Return the compiled plans that fit, the fastest bound first."""
        return [made for _, made in self.ranked if made.memory.fits]


def search(config: ConfigDict, topology: Topology, *, confirm: int = 3,
           report: Callable[[Estimate, Plan], None] | None = None) -> Found:  # fmt: skip
    """Estimate every mesh × microbatches × recomputation, and compile the most promising until enough of them fit.

    Args:
      config: the run's config; its mesh, microbatches and remat are what is searched.
      topology: what to plan for.
      confirm: compiled plans that fit after which the search ends, each on another mesh; 0 only estimates.
      report: called with each compiled plan as it is made.

    Raises:
      UserError: nothing fits, no mesh shares the rows evenly, or ``confirm`` is negative.
    """
    if confirm < 0:
        raise UserError(f"--search {confirm}: there is no such number of plans", remedy="give 0 to estimate only, or more")
    config = config.copy_and_resolve_references()
    config.mesh.slices = topology.slices
    candidates = _candidates(config, topology)
    if not candidates:
        raise UserError(f"no mesh of the {topology.device_count} devices of {topology} shares the rows of every task evenly",
                        remedy="make the rows a multiple of the devices")  # fmt: skip
    hopeful = sorted((one for one in candidates if fits(one, topology)), key=_time)
    best: dict[tuple[int, ...], Estimate] = {}
    for one in hopeful:
        best.setdefault(_key(one), one)
    compiled: list[tuple[Estimate, Plan]] = []
    settled: set[tuple[int, ...]] = set()  # meshes of which one way fits
    queue = hopeful
    if not hopeful and topology.chip.platform == "tpu":  # where the compiler knows better than the formula
        queue = sorted(candidates, key=lambda one: one.peak)[:1]
    while queue and len(settled) < confirm and len(compiled) < 2 * confirm:
        one = queue.pop(0)
        if _key(one) in settled:
            continue
        made = plan(_applied(config, one.mesh, one.remat, one.microbatches), topology)
        compiled.append((one, made))
        if report is not None:
            report(one, made)
        if made.memory.fits:
            settled.add(_key(one))
        else:  # what should take no less on the same mesh is not asked about
            queue = [other for other in queue if _key(other) != _key(one) or other.peak < 0.9 * one.peak]
    found = Found(list(best.values()), len(candidates), compiled)
    if not found.plans and (confirm or not hopeful):
        raise UserError(f"no mesh, microbatches or recomputation make this step fit {topology}",
                        remedy="use more chips, fewer rows or a smaller model")  # fmt: skip
    return found


def meshes(config: ConfigDict, topology: Topology) -> Iterator[dict[str, int]]:
    """Yield {axis: devices} whose product is the topology's devices, and which split rows and heads evenly.

    All but ``data`` are powers of two. ``tensor`` stays within eight devices and divides heads and feed-forward width;
    ``sequence`` is used only where rows are too few for the devices.
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


class Estimator:
    """Estimates a run's step by formula, for any mesh, recomputation and microbatches.

    Args:
      config: the run's config.
      topology: what to estimate for.

    Raises:
      UserError: the config cannot work, or says too little about its data.
    """

    def __init__(self, config: ConfigDict, topology: Topology):
        self.config, self.topology = for_platform(config, topology, simulated=False), topology
        self.everywhere = AbstractMesh((topology.device_count, 1, 1, 1), AXES, axis_types=(AxisType.Auto,) * len(AXES))
        planned = prepare(self.config, topology, self.everywhere)
        self.program, self.tokens = planned.program, tokens_of(planned.batch)
        context = self.program.context
        self.traffic = [traffic(one, planned.batch[task], context) for task, one in planned.objectives.items()]
        self.axes = model_room.abstract(self.config, vocabulary_size=context.vocabulary_size, labels=planned_labels(config),
                                        languages=self.program.languages)[2]  # fmt: skip
        self._flops: dict[tuple[str, bool], Flops] = {}
        self._sizes: dict[tuple[int, ...], Sizes] = {}

    def __call__(self, mesh: dict[str, int], remat: str, parts: int) -> Estimate:
        """Return the estimate of one way to lay out the step."""
        trial = _applied(self.config, mesh, remat, parts)
        known = (remat, parts > 1)  # a ranking task encodes twice where there are several parts
        if known not in self._flops:
            self._flops[known] = prepare(trial, self.topology, self.everywhere).flops
        return estimate(trial, self.topology, mesh, self.sizes(mesh), self.traffic, self._flops[known], self.tokens)

    def sizes(self, mesh: dict[str, int]) -> Sizes:
        """Return the bytes of the run's state on a mesh."""
        key = tuple(mesh.values())
        if key not in self._sizes:
            abstract = AbstractMesh(key, AXES, axis_types=(AxisType.Auto,) * len(AXES))
            state, config = self.program.state, self.config
            shardings = parameter_shardings(self.axes, state.params, abstract)
            moments = optimizer_state_shardings(self.program.transformation, state.params, shardings)
            placed = lambda leaf, sharding: leaf.update(sharding=sharding)  # noqa: E731
            params = jax.tree.map(placed, state.params, shardings)
            self._sizes[key] = sizes_on(params, jax.tree.map(placed, state.optimizer_state, moments),
                                        params if config.training.ema else {}, mesh)  # fmt: skip
        return self._sizes[key]


def common_rows(config: ConfigDict) -> int:
    """Return the greatest number that divides the rows of every task: what shares it evenly shares them all."""
    return math.gcd(*(entry["rows"] for entry in config.tasks.values()))


def _candidates(config: ConfigDict, topology: Topology) -> list[Estimate]:
    """Return the estimate of every combination."""
    estimator, rows = Estimator(config, topology), common_rows(config)
    return [
        estimator(mesh, remat, parts)
        for mesh in meshes(config, topology)
        for remat in REMATS
        for parts in MICROBATCHES
        if rows // (mesh["data"] * mesh["fsdp"]) % parts == 0
    ]


def _applied(config: ConfigDict, mesh: dict[str, int], remat: str, parts: int) -> ConfigDict:
    trial = config.copy_and_resolve_references()
    trial.mesh.update(mesh)
    trial.model.remat, trial.training.microbatches = remat, parts
    return trial


def _time(one: Estimate) -> tuple[float, float]:
    """Return what to sort by: the bound, and then all work, for kinds of work never overlap wholly."""
    if one.roofline is None:
        return one.peak, 0.0
    bounds = one.roofline
    return bounds.seconds, bounds.matmul + bounds.hbm + bounds.links + bounds.network


def _key(one: Estimate) -> tuple[int, ...]:
    return tuple(one.mesh.values())
