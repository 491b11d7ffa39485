"""Chips and how many of them: what a plan computes with, and devices to compile for that need not exist."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlm_jax.common.errors import UserError, nearest, one_line

if TYPE_CHECKING:  # a launcher names topologies without JAX
    import jax

GIB, GB, TERA = 2**30, 1e9, 1e12
CLOUD, NVIDIA = "https://docs.cloud.google.com/tpu/docs/", "https://www.nvidia.com/en-us/data-center/"
DIMENSIONS = {"v4": 3, "v5p": 3, "tpu7x": 3, "v5e": 2, "v6e": 2}  # of a slice's torus; other chips are counted only
INSTALL_TPU = "pip install 'mlm_jax[tpu]'"


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator, as its maker describes it.

    Attributes:
      name: as in a topology.
      platform: "tpu" | "gpu" | "cpu".
      kinds: what ``jax.Device.device_kind`` begins with.
      hbm_bytes: capacity.
      peak_flops: of dense bfloat16 matrix products, in FLOP/s.
      hbm_bandwidth: bytes/s.
      link_bandwidth: bytes/s that the chip can send over ICI or NVLink: half of the bidirectional figure.
      network_bandwidth: bytes/s that it can send to other slices: its share of the host's; 0 where no page says.
      chips_per_host: of the common machine type.
      devices_per_chip: how many ``jax.Device`` a chip is.
      source: where the numbers are from.
    """

    name: str
    platform: str
    kinds: tuple[str, ...]
    hbm_bytes: float
    peak_flops: float
    hbm_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float
    chips_per_host: int
    devices_per_chip: int
    source: str


CHIPS = {
    chip.name: chip
    for chip in (
        # A pod of 256 chips of v5e has 6.4 Tbit/s to the network, one of v6e 25.6; v5p has 50 Gbit/s a chip.
        # ICI of v4: 6 links of 50 GB/s each way (Jouppi et al. 2023, table 4); its page gives no figure.
        Chip("v4", "tpu", ("TPU v4",), 32 * GIB, 275 * TERA, 1200 * GB, 300 * GB, 0.0, 4, 1,
             CLOUD + "v4, https://arxiv.org/abs/2304.01433"),
        Chip("v5e", "tpu", ("TPU v5 lite", "TPU v5e"), 16 * GIB, 197 * TERA, 819 * GB, 200 * GB, 3.125 * GB, 8, 1,
             CLOUD + "v5e"),
        Chip("v5p", "tpu", ("TPU v5p", "TPU v5"), 95 * GIB, 459 * TERA, 2765 * GB, 600 * GB, 6.25 * GB, 4, 1,
             CLOUD + "v5p"),
        Chip("v6e", "tpu", ("TPU v6 lite", "TPU v6e"), 32 * GIB, 918 * TERA, 1638 * GB, 400 * GB, 12.5 * GB, 8, 1,
             CLOUD + "v6e, " + CLOUD + "tpu7x"),
        Chip("tpu7x", "tpu", ("TPU7x", "TPU v7x"), 192 * GIB, 2307 * TERA, 7380 * GB, 600 * GB, 0.0, 4, 2,
             CLOUD + "tpu7x"),
        Chip("A100", "gpu", ("NVIDIA A100",), 80 * GB, 312 * TERA, 2039 * GB, 300 * GB, 0.0, 8, 1, NVIDIA + "a100/"),
        Chip("H100", "gpu", ("NVIDIA H100",), 80 * GB, 989.4 * TERA, 3350 * GB, 450 * GB, 0.0, 8, 1, NVIDIA + "h100/"),
        Chip("H200", "gpu", ("NVIDIA H200",), 141 * GB, 989.4 * TERA, 4800 * GB, 450 * GB, 0.0, 8, 1, NVIDIA + "h200/"),
        Chip("cpu", "cpu", ("cpu",), 0.0, 0.0, 0.0, 0.0, 0.0, 1, 1, "simulated devices: no peak to compare with"),
    )
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Topology:
    """So many chips of one kind: ``v5p:8x8x8``, ``2xv5e:16x16`` (two slices), ``H100:8``, ``cpu:8``.

    Attributes:
      chip: what each of them is.
      shape: chips along each dimension of a slice's torus.
      slices: how many such slices there are.
    """

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def chips(self) -> int:
        """Return how many chips there are."""
        return math.prod(self.shape) * self.slices

    @property
    def device_count(self) -> int:
        """Return how many ``jax.Device`` there are."""
        return self.chips * self.chip.devices_per_chip

    def __str__(self) -> str:
        several = f"{self.slices}x" if self.slices > 1 else ""
        return f"{several}{self.chip.name}:{'x'.join(str(size) for size in self.shape)}"


def parse(text: str) -> Topology:
    """Return the topology that ``text`` names, such as ``v5e:4x4``, ``2xv5e:4x4`` or ``H100:8``.

    Raises:
      UserError: no such chip, or no such shape; or slices of what has none.
    """
    if found := re.fullmatch(r"(v\d\w*?|v5litepod)-(\d+)", text):  # Cloud TPU's own names
        name, number = found[1].replace("v5litepod", "v5e"), int(found[2])
        chips = number // 2 if name in ("v4", "v5p") else number
        raise UserError(f"topology {text!r} has no shape; {text} is {chips} chips",
                        remedy=f"write {name}:{_example_shape(chips, DIMENSIONS.get(name, 2))}")  # fmt: skip
    several, name, shape = re.fullmatch(r"(?:([1-9]\d*)x)?([^:]*):?(.*)", text).groups()  # type: ignore[union-attr]
    names = {known.lower(): known for known in CHIPS}
    if name.lower() not in names:
        raise UserError(
            f"topology {text!r}: no chip {name!r}{nearest(name, CHIPS)}", remedy=f"use one of {', '.join(CHIPS)}"
        )
    chip = CHIPS[names[name.lower()]]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
        raise UserError(f"topology {text!r} has no shape", remedy="write v5e:4x4, v5p:8x8x8, H100:8 or cpu:8")
    sizes = tuple(int(size) for size in shape.split("x"))
    dimensions = DIMENSIONS.get(chip.name, 1)
    if len(sizes) != dimensions:
        raise UserError(f"topology {text!r}: {chip.name} has shapes of {dimensions} dimension(s)",
                        remedy=f"write {chip.name}:{'x'.join('4' * dimensions)}")  # fmt: skip
    slices = int(several or 1)
    if slices > 1 and not chip.network_bandwidth:
        raise UserError(f"topology {text!r}: several slices are planned for v5e, v5p and v6e, whose network is known",
                        remedy=f"write {text.split('x', 1)[1]}")  # fmt: skip
    return Topology(chip, sizes, slices)


def _example_shape(chips: int, dimensions: int) -> str:
    """Return the shape of so many chips that is nearest to a cube or a square, such as "4x8x8"."""
    sizes = []
    for left in range(dimensions, 0, -1):
        root = round(chips ** (1 / left), 6)
        sizes.append(max(size for size in range(1, int(root) + 1) if chips % size == 0))
        chips //= sizes[-1]
    return "x".join(map(str, sorted(sizes)))


def chip_of(device: Any) -> Chip | None:
    """Return what a ``jax.Device`` is; None where its kind is not in :data:`CHIPS` or has no peak."""
    for chip in CHIPS.values():
        if chip.peak_flops and device.device_kind.startswith(chip.kinds):
            return chip
    return None


def devices(topology: Topology) -> Sequence[jax.Device]:
    """Return devices to compile for: of the topology itself on TPU, simulated ones in the place of CPUs and GPUs.

    Raises:
      UserError: libtpu is missing, it does not know the topology, or too few devices are simulated.
    """
    if topology.chip.platform == "tpu":
        return _tpu_devices(topology)
    import jax

    found = jax.devices("cpu")
    if len(found) < topology.device_count:
        raise UserError(
            f"{topology} needs {topology.device_count} simulated devices, and there are {len(found)}",
            remedy=f"set XLA_FLAGS=--xla_force_host_platform_device_count={topology.device_count}",
        )
    return found[: topology.device_count]


def _tpu_devices(topology: Topology) -> Sequence[jax.Device]:
    from jax.experimental import topologies

    from mlm_jax.common.quiet import quiet_stderr

    # There is no machine to ask about its TPUs, and another process may be compiling as well.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        name = str(dataclasses.replace(topology, slices=1))
        with quiet_stderr():  # libtpu says at length that there is no TPU here
            return topologies.get_topology_desc(platform="tpu", topology_name=name, **_options(topology)).devices
    except (RuntimeError, ValueError, NotImplementedError) as error:
        if not libtpu_installed():
            raise UserError(
                f"compiling for {topology} needs libtpu, the compiler of TPUs", remedy=INSTALL_TPU
            ) from error
        raise UserError(f"libtpu does not know the topology {topology}: {one_line(error)}",
                        remedy="use a shape that Cloud TPU offers, such as v5e:4x4 or v5p:4x4x4") from error  # fmt: skip


def libtpu_installed() -> bool:
    """Return whether the compiler of TPUs is installed."""
    import importlib.util

    return importlib.util.find_spec("libtpu") is not None


def _options(topology: Topology) -> dict[str, Any]:
    options: dict[str, Any] = {"num_slices": topology.slices} if topology.slices > 1 else {}
    if topology.chip.name == "v4":
        options["chip_config_name"] = "megacore"  # its two cores are one device
    if topology.chip.name in ("v5e", "v6e"):  # machines of four chips, or of one, as on Colab
        options["chips_per_host_bounds"] = (1, 1, 1) if math.prod(topology.shape) == 1 else (2, 2, 1)
    return options
