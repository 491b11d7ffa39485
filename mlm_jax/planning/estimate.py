"""Memory and time of a step by formula: a rough estimate, in a second for hundreds of meshes; to compile one takes minutes.

The bytes of the state are exact, because its shards are known. Activations follow from what ``model.remat`` keeps of a layer.
Collectives follow from the sharding: weights are gathered over ``fsdp`` for each pass, activations summed over ``tensor``, keys and
values gathered over ``sequence``, gradients summed over ``data`` and ``fsdp``. Only the compiler decides whether a step fits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType
from ml_collections import ConfigDict

from mlm_jax import model as model_room
from mlm_jax.objectives.cross_entropy import logit_bytes, positions_that_fit
from mlm_jax.objectives.traffic import Traffic
from mlm_jax.parallel.axes import AXES
from mlm_jax.parallel.rules import parameter_shardings
from mlm_jax.parallel.topology import Topology
from mlm_jax.planning.prepare import Known, for_platform, planned_labels, prepare
from mlm_jax.planning.roofline import Roofline, roofline
from mlm_jax.training.cost import tokens_of
from mlm_jax.training.flops import Flops, traffic
from mlm_jax.training.optimizer import optimizer_state_shardings
from mlm_jax.training.step import LOGITS_SHARE

REMATS = ("none", "dots", "full")  # the least recomputation first

# Values that a layer keeps for its backward pass besides the results of its matrix products, in widths of the residual stream:
# norms and their float32 inputs, rotated queries and keys, gates, attention's transposed arguments. The number is from a compiled
# 22-layer encoder without recomputation on v5e:4x4, whose temporaries were 17.8 GiB.
OTHER_WIDTHS = 20


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The memory and time on each device of one layout of a step.

    Attributes:
      mesh: {axis: devices}.
      remat, microbatches: settings of the step.
      arguments: bytes of state and batch.
      temporaries: bytes of gradients, activations and gathered weights.
      roofline: the bounds; None if the chip has no peak.
    """

    mesh: dict[str, int]
    remat: str
    microbatches: int
    arguments: float
    temporaries: float
    roofline: Roofline | None

    @property
    def peak(self) -> float:
        """Return the total bytes of HBM."""
        return self.arguments + self.temporaries


def fits(guess: Estimate, topology: Topology) -> bool:
    """Return whether a step fits by formula."""
    return not topology.capacity or guess.peak <= topology.capacity


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Bytes of a run's parameters and state on each device of a mesh.

    Attributes:
      state: bytes of parameters, optimizer state and average.
      gradients: bytes of the gradients, which are float32 and sharded as the parameters.
      layers: number of elements of the layers' parameters, divided over ``tensor`` but not over ``fsdp``.
      table: number of elements of the output table, divided in the same way.
    """

    state: float
    gradients: float
    layers: float
    table: float


def estimate(
    config: ConfigDict,
    topology: Topology,
    mesh: Mapping[str, int],
    sizes: Sizes,
    traffic: list[Traffic],
    flops: Flops,
    tokens: int,
) -> Estimate:
    """Return the estimate of a step of this config on this mesh.

    Args:
      config: a config with the remat and the microbatches to estimate, and a ``model.dtype`` other than "auto".
      topology: the devices.
      mesh: {axis: devices}.
      sizes: the sizes of the run on this mesh.
      traffic: the traffic through the model, for each task.
      flops: the FLOPs of all devices.
      tokens: the number of tokens of a step.
    """
    model, remat, parts = config.model, config.model.remat, config.training.microbatches
    width, bytes_each = model.width, 4 if model.dtype == "float32" else 2
    data, fsdp, tensor, sequence = (mesh[axis] for axis in ("data", "fsdp", "tensor", "sequence"))
    rows_over = data * fsdp
    layers = sum(entry["layers"] for entry in (*model.encoder, *model.decoder))
    here = (
        sum(each.rows * each.length + each.target_rows * each.target_length for each in traffic) / rows_over / sequence
    )
    predicted = sum(each.predicted for each in traffic) / rows_over

    products, everything = layer_bytes(model, tensor)
    kept = {"none": everything, "dots": products, "full": width * bytes_each}[remat] * layers * here / parts
    working = 0.0 if remat == "none" else everything * here / parts
    vocabulary = sizes.table / width

    def chunk_of(each: Traffic) -> float:
        """Return the number of positions, over all rows, whose logits are in memory at once."""
        positions = math.ceil(each.predicted / max(1, each.rows))
        if not model.cross_entropy_chunk and topology.chip.hbm_bytes:
            memory = topology.chip.hbm_bytes / topology.chip.devices_per_chip * LOGITS_SHARE
            size = logit_bytes(bytes_each, topology.chip.platform) * each.rows / rows_over / parts * vocabulary
            positions = positions_that_fit(max(1, positions), size, memory)
        return each.rows * min(model.cross_entropy_chunk or positions, positions)

    chunk = max(map(chunk_of, traffic), default=0.0) / rows_over / parts
    # The table, its gradient twice (the sum so far and the part of a chunk), and a chunk's logits.
    output = sizes.table * (bytes_each + 8) + logit_bytes(bytes_each, topology.chip.platform) * chunk * vocabulary
    gathered = 2 * bytes_each * sizes.layers / max(1, layers) * (fsdp > 1)
    gradients = sizes.gradients * (1 if parts == 1 else 2)
    temporaries = gradients + kept + max(output, working + gathered)

    passes = 3 if remat == "full" else 2  # forward, backward, and forward again
    kv_width = 2 * (model.kv_heads or model.heads) * (model.head_width or width // model.heads) / tensor
    sent = {  # bytes that a ring over the axis sends, without the factor (n − 1)/n
        "data": 2 * sizes.gradients,
        # Weights, gathered for each pass, and their float32 gradients, scattered.
        "fsdp": parts * bytes_each * (passes * sizes.layers + sizes.table) + 4 * (sizes.layers + sizes.table),
        "tensor": 2 * 2 * passes * layers * here * width * bytes_each,
        "sequence": passes * layers * here * sequence * kv_width * bytes_each,
    }
    links, network = _over(sent, mesh, topology)
    hbm = 2 * (
        sizes.state
        + (passes + 1) * everything * layers * here
        + 3 * 4 * predicted * vocabulary
        + parts * passes * bytes_each * (sizes.layers + sizes.table)
    )
    bounds = (
        roofline(topology, flops, hbm=hbm, links=links, network=network, tokens=tokens)
        if topology.chip.peak_flops
        else None
    )
    return Estimate(dict(mesh), remat, parts, sizes.state, temporaries, bounds)


def _over(sent: Mapping[str, float], mesh: Mapping[str, int], topology: Topology) -> tuple[float, float]:
    """Return the bytes that each device sends over links and over the network.

    Args:
      sent: {axis: bytes that a ring over its devices sends, without the factor (n − 1)/n}.
      mesh: {axis: devices}; devices along the last axis are consecutive.
      topology: the devices; it has the number of consecutive devices that are linked.
    """
    links = network = 0.0
    stride = 1
    for axis, count in reversed([*mesh.items()]):
        near = max(1, min(count, topology.linked // stride))  # number of linked devices along this axis
        ring = sent[axis] * (count - 1) / count
        if topology.slices > 1 and near < count:  # reduced within each slice, and then between slices
            links += sent[axis] * (near - 1) / near
            network += sent[axis] * (topology.slices - 1) / topology.slices
        elif near < count:
            links, network = links + ring * (near - 1) / near, network + ring / near
        else:
            links += ring
        stride *= count
    return links, network


def layer_bytes(model: ConfigDict, tensor: int) -> tuple[float, float]:
    """Return (bytes of the results of one token's matrix products, bytes of all that a layer keeps of a token) on each device."""
    bytes_each = 4 if model.dtype == "float32" else 2
    head_width = model.head_width or model.width // model.heads
    gates = 2 if "glu" in model.activation else 1
    split = (model.heads + 2 * (model.kv_heads or model.heads)) * head_width + gates * model.mlp_width
    products = bytes_each * (split / tensor + 2 * model.width)
    return products, products + bytes_each * OTHER_WIDTHS * model.width


def sizes_on(params: Any, optimizer_state: Any, average: Any, mesh: Mapping[str, int]) -> Sizes:
    """Return the sizes of a state whose leaves have shardings on this mesh.

    Args:
      params: parameters as ``ShapeDtypeStruct`` with shardings.
      optimizer_state: optimizer state in the same form.
      average: average of the weights in the same form; {} if the run keeps none.
      mesh: {axis: devices}.
    """

    def each(leaf: Any) -> float:
        return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    def whole_over_fsdp(leaf: Any) -> float:
        axes = [axis for part in leaf.sharding.spec for axis in ((part,) if isinstance(part, str) else part or ())]
        # Language-indexed weights stay sharded: a device gathers only those of its rows' languages.
        return math.prod(leaf.sharding.shard_shape(leaf.shape)) * (mesh["fsdp"] if "fsdp" in axes else 1)

    layers = [leaf for name in ("encoder", "decoder") for leaf in jax.tree.leaves(params.get(name, {}))]
    table = params.get("output", params["embedding"])
    state = sum(each(leaf) for leaf in jax.tree.leaves((params, optimizer_state, average)))
    gradients = sum(each(leaf) for leaf in jax.tree.leaves(params))
    return Sizes(state, gradients, sum(whole_over_fsdp(leaf) for leaf in layers), whole_over_fsdp(table))


class Estimator:
    """Estimates a run's step by formula, for any mesh, recomputation, microbatches and chunk of the output layer.

    Args:
      config: the config of the run.
      topology: the devices.
      known: properties of the data; None if only the config is known.

    Attributes:
      config: the config, with the choices for the topology's platform.
      program: the program of the run, as shapes.
      tokens, flops: tokens and FLOPs of a step with the settings of the config.
      traffic: the traffic through the model, for each task.

    Raises:
      UserError: the config is invalid, or has too little information about its data.
    """

    def __init__(self, config: ConfigDict, topology: Topology, known: Known | None = None):
        self.config, self.topology = for_platform(config, topology, simulated=False), topology
        self.everywhere = AbstractMesh((topology.device_count, 1, 1, 1), AXES, axis_types=(AxisType.Auto,) * len(AXES))
        self.known = known
        planned = prepare(self.config, topology, self.everywhere, known)
        self.program, self.tokens, self.flops = planned.program, tokens_of(planned.batch), planned.flops
        context = self.program.context
        self.traffic = [traffic(one, planned.batch[task], context) for task, one in planned.objectives.items()]
        self.axes = model_room.abstract(
            self.config,
            vocabulary_size=context.vocabulary_size,
            languages=self.program.languages,
            labels=known.labels if known else planned_labels(config),
        )[2]
        self._flops: dict[tuple[str, bool], Flops] = {}
        self._sizes: dict[tuple[int, ...], Sizes] = {}

    def __call__(self, mesh: dict[str, int], remat: str, parts: int, chunk: int | None = None) -> Estimate:
        """Return the estimate of one layout of the step; without ``chunk``, that of the config is used."""
        trial = applied(self.config, mesh, remat, parts)
        if chunk is not None:
            trial.model.cross_entropy_chunk = chunk
        layout = (remat, parts > 1)  # a ranking task encodes twice if there are several parts
        if layout not in self._flops:
            self._flops[layout] = prepare(trial, self.topology, self.everywhere, self.known).flops
        return estimate(trial, self.topology, mesh, self.sizes(mesh), self.traffic, self._flops[layout], self.tokens)

    def sizes(self, mesh: dict[str, int]) -> Sizes:
        """Return the bytes of the run's state on a mesh."""
        key = tuple(mesh.values())
        if key not in self._sizes:
            abstract = AbstractMesh(key, AXES, axis_types=(AxisType.Auto,) * len(AXES))
            state, config = self.program.state, self.config
            shardings = parameter_shardings(self.axes, state.params, abstract)
            moments = optimizer_state_shardings(self.program.transformation, state.params, shardings)

            def placed(leaf: Any, sharding: Any) -> Any:
                return leaf.update(sharding=sharding)

            params = jax.tree.map(placed, state.params, shardings)
            self._sizes[key] = sizes_on(
                params,
                jax.tree.map(placed, state.optimizer_state, moments),
                params if config.training.ema else {},
                mesh,
            )
        return self._sizes[key]


def common_rows(config: ConfigDict) -> int:
    """Return the greatest common divisor of all tasks' rows: devices whose number divides it can share the rows of each task."""
    return math.gcd(*(entry["rows"] for entry in config.tasks.values()))


def applied(config: ConfigDict, mesh: dict[str, int], remat: str, parts: int) -> ConfigDict:
    """Return a copy of the config with this mesh, recomputation and number of microbatches."""
    trial = config.copy_and_resolve_references()
    trial.mesh.update(mesh)
    trial.model.remat, trial.training.microbatches = remat, parts
    return trial
