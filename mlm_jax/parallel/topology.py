"""Topologies: a kind of chip, the number of chips and their shape, for plans and launchers."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping

from mlm_jax.common.errors import UserError
from mlm_jax.parallel import chips
from mlm_jax.parallel.axes import mesh_shape
from mlm_jax.parallel.chips import Chip

# The shapes of Cloud TPU's slices: up to 64 chips these, and from there on, in three dimensions, ascending multiples of 4
# (https://docs.cloud.google.com/tpu/docs/v5e, v6e, v4, v5p, tpu7x; kubernetes-engine/docs/concepts/plan-tpus).
SQUARE = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
CUBE = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4))
SLICES = {"v5e": SQUARE, "v6e": SQUARE, "v4": CUBE, "v5p": CUBE, "tpu7x": CUBE}
MOST_CHIPS = {"v4": 4096, "v5p": 6144, "tpu7x": 9216}  # of a slice of three dimensions

# JAX takes this share of a GPU's memory unless one of the variables says otherwise (docs.jax.dev, "GPU memory allocation").
GPU_SHARE, SHARE_VARIABLES = 0.75, ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")


@dataclasses.dataclass(frozen=True)
class Topology:
    """A number of chips of one kind: ``v5p:8x8x8``, ``2xv5e:16x16`` (two slices), ``H100:8``, ``H100:4x8``, ``cpu:8``.

    Attributes:
      chip: the kind.
      shape: for TPUs, the chips along each dimension of a slice's torus; for GPUs, ``(GPUs,)`` or ``(hosts, GPUs of each)``.
      slices: number of such slices of TPUs.
      memory: bytes on each device that a program may use, if this machine's devices reported them; 0: by the chip.
    """

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1
    memory: float = 0.0

    @property
    def chips(self) -> int:
        """Return the number of chips."""
        return math.prod(self.shape) * self.slices

    @property
    def device_count(self) -> int:
        """Return the number of ``jax.Device``."""
        return self.chips * self.chip.devices_per_chip

    @property
    def hosts(self) -> int:
        """Return the number of machines; machines of TPUs have the usual number of chips."""
        if self.chip.platform == "gpu" and len(self.shape) == 2:
            return self.shape[0]
        return -(-self.chips // self.chip.chips_per_host) if self.chip.platform != "cpu" else 1

    @property
    def linked(self) -> int:
        """Return the number of consecutive devices that are connected by links: those of a slice, a host, or an NVLink rack."""
        if self.chip.platform == "gpu":
            return min(self.chips, self.chip.linked or self.chips // self.hosts)
        return self.device_count // self.slices

    @property
    def capacity(self) -> float:
        """Return the bytes of memory on each device that a program may use; 0 if that is unknown."""
        if self.memory:
            return self.memory
        share = 1.0
        if self.chip.platform == "gpu":
            share = float(next((os.environ[name] for name in SHARE_VARIABLES if os.environ.get(name)), GPU_SHARE))
        return share * self.chip.hbm_bytes / self.chip.devices_per_chip

    def __str__(self) -> str:
        several = f"{self.slices}x" if self.slices > 1 else ""
        return f"{several}{self.chip.name}:{'x'.join(str(size) for size in self.shape)}"


def check_mesh(config_mesh: Mapping[str, int], topology: Topology) -> None:
    """Check that ``config.mesh`` fits a topology.

    Raises:
      UserError: it does not.
    """
    if config_mesh["slices"] != topology.slices:
        raise UserError(
            f"{topology} has {topology.slices} slice(s), and mesh.slices is {config_mesh['slices']}",
            remedy=f"add --set mesh.slices={topology.slices}",
        )
    mesh_shape(config_mesh, topology.device_count)


def parse(text: str, chip: str = "") -> Topology:
    """Return the topology that ``text`` names, such as ``v5e:4x4``, ``2xv5e:4x4``, ``H100:8`` or ``H100:4x8``.

    Args:
      text: the name.
      chip: the value of ``--chip``, which describes a chip that is not in the table or overrides its numbers.

    Raises:
      UserError: there is no such chip or shape, or the chip does not come in several slices.
    """
    if found := re.fullmatch(r"(v\d\w*?|v5litepod)-(\d+)", text, re.IGNORECASE):  # Cloud TPU's own names
        name, number = found[1].lower().replace("v5litepod", "v5e"), int(found[2])
        count = number // 2 if name in ("v4", "v5p") else number
        raise UserError(
            f"topology {text!r} has no shape; {text} has {count} chips",
            remedy=f"write {name}:{_text(_nearest_shape(name, count))}",
        )
    several, name, shape = re.fullmatch(r"(?:([1-9]\d*)x)?([^:]*):?(.*)", text, re.IGNORECASE).groups()  # type: ignore[union-attr]
    try:
        found_chip = chips.find(name, chip)
    except UserError as error:
        raise UserError(f"topology {text!r}: {error.problem}", remedy=error.remedy) from None
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape.lower()):
        raise UserError(f"topology {text!r} has no shape", remedy="write v5e:4x4, v5p:8x8x8, H100:8, H100:4x8 or cpu:8")
    topology = Topology(found_chip, tuple(int(size) for size in shape.lower().split("x")), int(several or 1))
    if found_chip.platform == "tpu":
        _check_slice(text, topology)
    else:
        _check_hosts(text, topology)
    return topology


def _check_slice(text: str, topology: Topology) -> None:
    """Raise a UserError if Cloud TPU has no slice of this shape."""
    name, shape = topology.chip.name, topology.shape
    dimensions = len(SLICES[name][0])
    if len(shape) != dimensions:
        raise UserError(
            f"topology {text!r}: {name} has shapes of {dimensions} dimension(s)",
            remedy=f"write {name}:{_text(_nearest_shape(name, math.prod(shape)))}",
        )
    if not _exists(name, shape):
        raise UserError(
            f"topology {text!r}: Cloud TPU has no {name} slice of this shape",
            remedy=f"write {name}:{_text(_nearest_shape(name, math.prod(shape)))}",
        )
    if topology.slices > 1 and not topology.chip.network_bandwidth:
        raise UserError(
            f"topology {text!r}: several slices are planned for v5e, v5p and v6e, whose network is known",
            remedy=f"write {text.split('x', 1)[1]}, or give --chip network=BYTES_PER_SECOND",
        )


def _check_hosts(text: str, topology: Topology) -> None:
    """Raise a UserError if the chips (GPUs or simulated devices) do not fill whole hosts."""
    chip, shape = topology.chip, topology.shape
    if topology.slices > 1:
        raise UserError(
            f"topology {text!r}: only TPUs come in slices", remedy=f"write {chip.name}:{topology.slices}x{_text(shape)}"
        )
    if len(shape) > 1 + (chip.platform == "gpu"):
        raise UserError(
            f"topology {text!r}: {chip.name} has shapes of {1 + (chip.platform == 'gpu')} dimension(s)",
            remedy=f"write {chip.name}:{math.prod(shape)}",
        )
    if chip.platform != "gpu":
        return
    most = chip.chips_per_host
    if len(shape) == 1 and shape[0] > most and shape[0] % most:
        whole = shape[0] // most * most
        raise UserError(
            f"topology {text!r} is not a whole number of machines with {most} GPUs each",
            remedy=f"write {chip.name}:{whole} or {chip.name}:{whole + most}",
        )
    if len(shape) == 2 and shape[1] > most:
        hosts = -(-math.prod(shape) // most)
        raise UserError(
            f"topology {text!r}: a host has at most {most} {chip.name}",
            remedy=f"write {chip.name}:{hosts}x{most}, or give --chip per_host={shape[1]}",
        )
    if topology.linked < topology.chips and not chip.network_bandwidth:
        raise UserError(
            f"topology {text!r}: the network between hosts of {chip.name} is not known",
            remedy="give --chip network=BYTES_PER_SECOND: the bytes/s that each GPU can send to other hosts",
        )


def _exists(name: str, shape: tuple[int, ...]) -> bool:
    if shape in SLICES[name]:
        return True
    large = len(shape) == 3 and math.prod(shape) <= MOST_CHIPS[name] and list(shape) == sorted(shape)
    return large and not any(size % 4 for size in shape)


def _nearest_shape(name: str, count: int) -> tuple[int, ...]:
    """Return the shape of a slice whose number of chips is nearest to ``count``, and of those the one nearest to a cube."""
    shapes = list(SLICES.get(name, SQUARE))
    if len(shapes[0]) == 3:
        sizes = range(4, 4 * round(MOST_CHIPS[name] ** 0.5), 4)
        largest = min(MOST_CHIPS[name], 2 * count)
        shapes += [
            (a, b, c)
            for a in sizes
            if a**3 <= largest
            for b in sizes
            if b >= a and a * b * b <= largest
            for c in sizes
            if c >= b and a * b * c <= largest
        ]
    return min(shapes, key=lambda shape: (abs(math.prod(shape) - count), sum(shape)))


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
