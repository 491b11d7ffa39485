"""Accelerators by name: memory, peak rates and machine sizes, as their manufacturers state them."""

from __future__ import annotations

import dataclasses
from typing import Any

from mlm_jax.common.errors import UserError, nearest

GIB, GB, TERA = 2**30, 1e9, 1e12
CLOUD, NVIDIA = "https://docs.cloud.google.com/tpu/docs/", "https://www.nvidia.com/en-us/"
XLA = "https://github.com/openxla/xla/tree/main/xla/backends/gpu/target_config/specs"  # memory in bytes, of GPUs
DGX = "https://docs.nvidia.com/dgx/"  # one network card for each GPU: 200 Gbit/s in a DGX A100, 400 in later ones


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator, as its manufacturer describes it.

    Attributes:
      name: its name in topologies, such as ``v5e``.
      platform: "tpu" | "gpu" | "cpu".
      kinds: values of ``jax.Device.device_kind``.
      hbm_bytes: bytes of memory that programs can use; 0 if unknown.
      peak_flops: FLOP/s of dense bfloat16 matrix products.
      hbm_bandwidth: bytes/s.
      link_bandwidth: bytes/s that the chip can send over ICI, NVLink or PCIe: half of the bidirectional figure.
      network_bandwidth: bytes/s that it can send to other slices or hosts: its share of the host's network; 0 if unknown.
      chips_per_host: the number of chips per host of the common machine type.
      devices_per_chip: number of ``jax.Device`` of a chip.
      source: pages that state these numbers.
      linked: GPUs in one NVLink network, if it reaches beyond a host; 0: the GPUs of a host.
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
    linked: int = 0


CHIPS = {
    chip.name: chip
    for chip in (
        # A pod of 256 chips of v5e has 6.4 Tbit/s to the network, one of v6e 25.6; v5p has 50 Gbit/s a chip.
        # ICI of v4: 6 links of 50 GB/s each way (Jouppi et al. 2023, table 4); its page gives no figure.
        Chip(
            "v4",
            "tpu",
            ("TPU v4",),
            32 * GIB,
            275 * TERA,
            1200 * GB,
            300 * GB,
            0.0,
            4,
            1,
            CLOUD + "v4, https://arxiv.org/abs/2304.01433",
        ),
        Chip(
            "v5e",
            "tpu",
            ("TPU v5 lite", "TPU v5e"),
            16 * GIB,
            197 * TERA,
            819 * GB,
            200 * GB,
            3.125 * GB,
            8,
            1,
            CLOUD + "v5e",
        ),
        Chip(
            "v5p",
            "tpu",
            ("TPU v5p", "TPU v5"),
            95 * GIB,
            459 * TERA,
            2765 * GB,
            600 * GB,
            6.25 * GB,
            4,
            1,
            CLOUD + "v5p",
        ),
        Chip(
            "v6e",
            "tpu",
            ("TPU v6 lite", "TPU v6e"),
            32 * GIB,
            918 * TERA,
            1638 * GB,
            400 * GB,
            12.5 * GB,
            8,
            1,
            CLOUD + "v6e, " + CLOUD + "tpu7x",
        ),
        Chip(
            "tpu7x",
            "tpu",
            ("TPU7x", "TPU v7x"),
            192 * GIB,
            2307 * TERA,
            7380 * GB,
            600 * GB,
            0.0,
            4,
            2,
            CLOUD + "tpu7x",
        ),
        Chip(
            "A100",
            "gpu",
            ("NVIDIA A100-SXM4-80GB",),
            85_100_068_864,
            312 * TERA,
            2039 * GB,
            300 * GB,
            25 * GB,
            8,
            1,
            f"{NVIDIA}data-center/a100/, {XLA}, {DGX}",
        ),
        Chip(
            "A100-40",
            "gpu",
            ("NVIDIA A100-SXM4-40GB",),
            42_298_834_944,
            312 * TERA,
            1555 * GB,
            300 * GB,
            25 * GB,
            8,
            1,
            f"{NVIDIA}data-center/a100/, {XLA}, {DGX}",
        ),
        Chip(
            "H100",
            "gpu",
            ("NVIDIA H100 80GB HBM3",),
            84_942_979_072,
            989.4 * TERA,
            3350 * GB,
            450 * GB,
            50 * GB,
            8,
            1,
            f"{NVIDIA}data-center/h100/, {XLA}, {DGX}",
        ),
        Chip(
            "H200",
            "gpu",
            ("NVIDIA H200",),
            151_397_597_184,
            989.4 * TERA,
            4800 * GB,
            450 * GB,
            50 * GB,
            8,
            1,
            f"{NVIDIA}data-center/h200/, {XLA}, {DGX}",
        ),
        Chip(
            "B200",
            "gpu",
            ("NVIDIA B200",),
            191_514_411_008,
            2250 * TERA,
            7700 * GB,
            900 * GB,
            50 * GB,
            8,
            1,
            f"{NVIDIA}data-center/dgx-b200/, {XLA}, {DGX}",
        ),
        Chip(
            "GB200",
            "gpu",
            ("NVIDIA GB200",),
            197_897_748_480,
            2500 * TERA,
            8000 * GB,
            900 * GB,
            50 * GB,
            4,
            1,
            f"{NVIDIA}data-center/gb200-nvl72/, {XLA}",
            linked=72,
        ),
        # The next two GPUs are connected by PCIe 4.0 × 16. A machine of eight L4 has 100 Gbit/s (Google's g2-standard-96).
        Chip(
            "L4",
            "gpu",
            ("NVIDIA L4",),
            23_580_639_232,
            121 * TERA,
            300 * GB,
            32 * GB,
            1.5625 * GB,
            8,
            1,
            f"{NVIDIA}data-center/l4/, https://docs.cloud.google.com/compute/docs/gpus",
        ),
        Chip(
            "RTX4090",
            "gpu",
            ("NVIDIA GeForce RTX 4090",),
            25_393_692_672,
            165.2 * TERA,
            1008 * GB,
            32 * GB,
            0.0,
            8,
            1,
            f"{NVIDIA}geforce/graphics-cards/40-series/rtx-4090/",
        ),
        # The T4 has no bfloat16 (its 65 TFLOP/s are for float16): the peak is that of float32. PCIe 3.0; machines of four GPUs
        # have 100 Gbit/s (Google's N1).
        Chip(
            "T4",
            "gpu",
            ("Tesla T4",),
            15_843_721_216,
            8.1 * TERA,
            320 * GB,
            16 * GB,
            3.125 * GB,
            4,
            1,
            f"{NVIDIA}data-center/tesla-t4/, https://docs.cloud.google.com/compute/docs/gpus",
        ),
        # Seven links of 64 GB/s each way to the other GPUs of a host.
        Chip(
            "MI300X",
            "gpu",
            ("AMD Instinct MI300X", "AMD Instinct MI300X OAM"),
            192 * GIB,
            1307.4 * TERA,
            5300 * GB,
            448 * GB,
            50 * GB,
            8,
            1,
            "https://www.amd.com/en/products/accelerators/instinct/mi300/mi300x.html",
        ),
        Chip("cpu", "cpu", ("cpu",), 0.0, 0.0, 0.0, 0.0, 0.0, 1, 1, "simulated devices: no peak to compare with"),
    )
}

# {field of --chip: (field of Chip, whether a chip that is not in CHIPS must have it)}
FIELDS = {
    "hbm": ("hbm_bytes", True),
    "flops": ("peak_flops", True),
    "bandwidth": ("hbm_bandwidth", True),
    "links": ("link_bandwidth", False),
    "network": ("network_bandwidth", False),
    "per_host": ("chips_per_host", False),
}
EXAMPLE = "--chip hbm=24e9,flops=165e12,bandwidth=1e12"
PLATFORMS = {"gpu": ("H100", "A100", "B200"), "cuda": ("H100", "A100", "B200"), "tpu": ("v5e", "v5p", "v6e")}


def find(name: str, specification: str = "") -> Chip:
    """Return the chip of this name, in any case, with the fields that ``--chip`` gives.

    Args:
      name: the name of a chip in :data:`CHIPS`, or a new name.
      specification: "hbm=24e9,flops=165e12,bandwidth=1e12,links=32e9,network=1e9,per_host=8": bytes, FLOP/s and bytes/s.
        A chip that is not in :data:`CHIPS` needs the first three.

    Raises:
      UserError: there is no such chip, or the specification is wrong.
    """
    given = _read(specification) if specification else {}
    known = {chip.lower(): chip for chip in CHIPS}.get(name.lower())
    if known:
        return dataclasses.replace(CHIPS[known], **given | ({"source": f"--chip {specification}"} if given else {}))
    if not specification:
        if name.lower() in PLATFORMS:
            hint = f"name the chip, such as {', '.join(PLATFORMS[name.lower()])}, or give your own: {EXAMPLE}"
        else:
            hint = f"use one of {', '.join(CHIPS)}, or give your own: {EXAMPLE}"
        raise UserError(f"no chip {name!r}{_nearest(name)}", remedy=hint)
    missing = [field for field, (attribute, needed) in FIELDS.items() if needed and attribute not in given]
    if missing:
        raise UserError(f"--chip {specification} lacks {', '.join(missing)}", remedy=f"write {EXAMPLE}")
    defaults: dict[str, Any] = {"link_bandwidth": 32 * GB, "network_bandwidth": 0.0, "chips_per_host": 8}  # PCIe 4.0
    return Chip(name, "gpu", (), devices_per_chip=1, source=f"--chip {specification}", **(defaults | given))


def _nearest(name: str) -> str:
    return "" if name.lower() in PLATFORMS else nearest(name, CHIPS)


def _read(specification: str) -> dict[str, Any]:
    """Return {field of Chip: value} of "hbm=24e9,…"."""
    given: dict[str, Any] = {}
    for part in specification.split(","):
        field, _, text = (piece.strip() for piece in part.partition("="))
        if field not in FIELDS:
            raise UserError(f"--chip has no field {field!r}{nearest(field, FIELDS)}", remedy=f"use {', '.join(FIELDS)}")
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 < value < float("inf"):
            raise UserError(f"--chip: {field} must be a positive number, not {text!r}", remedy=f"write {EXAMPLE}")
        given[FIELDS[field][0]] = int(value) if field == "per_host" else value
    return given


def chip_of(device: Any) -> Chip | None:
    """Return the chip of a ``jax.Device``; None if its kind is not in :data:`CHIPS` or its peak is unknown."""
    for chip in CHIPS.values():
        if chip.peak_flops and device.device_kind in chip.kinds:
            return chip
    return None
