"""Descriptions of GPUs for XLA's compiler, which then needs no GPU: the fields of its ``GpuTargetConfigProto``.

The numbers are those that a card reports about itself (``cudaGetDeviceProperties``), as collected in XLA's own tests
(https://github.com/openxla/xla/tree/main/xla/backends/gpu/target_config/specs). That folder has no L4, RTX 4090 and T4:
their numbers are from NVIDIA's white papers of Ada and Turing, and from the table of compute capabilities in the CUDA
programming guide. Memory and its bandwidth are those of :data:`mlm_jax.parallel.chips.CHIPS`.
"""

from __future__ import annotations

import dataclasses

from mlm_jax.parallel.chips import Chip

KIB, MIB = 2**10, 2**20


@dataclasses.dataclass(frozen=True)
class Target:
    """One GPU as the compiler sees it.

    Attributes:
      description: the card's own name.
      capability: compute capability (major, minor).
      accelerated: whether its code may use instructions that later GPUs do not have (``sm_90a``).
      cores: streaming multiprocessors.
      units: float32 units of a multiprocessor.
      clock: highest clock rate in GHz.
      l2: bytes of cache.
      shared: bytes of shared memory of a multiprocessor.
      optin: bytes of shared memory that one block can have.
      threads: most threads of a multiprocessor.
    """

    description: str
    capability: tuple[int, int]
    accelerated: bool
    cores: int
    units: int
    clock: float
    l2: int
    shared: int
    optin: int
    threads: int


HOPPER = {
    "capability": (9, 0),
    "accelerated": True,
    "units": 128,
    "shared": 228 * KIB,
    "optin": 227 * KIB,
    "threads": 2048,
}
BLACKWELL = HOPPER | {"capability": (10, 0)}
AMPERE = {
    "capability": (8, 0),
    "accelerated": False,
    "units": 64,
    "shared": 164 * KIB,
    "optin": 163 * KIB,
    "threads": 2048,
}
ADA = {
    "capability": (8, 9),
    "accelerated": False,
    "units": 128,
    "shared": 100 * KIB,
    "optin": 99 * KIB,
    "threads": 1536,
}
TARGETS = {
    "A100": Target("NVIDIA A100-SXM4-80GB", cores=108, clock=1.41, l2=40 * MIB, **AMPERE),  # type: ignore[arg-type]
    "A100-40": Target("NVIDIA A100-SXM4-40GB", cores=108, clock=1.41, l2=40 * MIB, **AMPERE),  # type: ignore[arg-type]
    "H100": Target("NVIDIA H100 80GB HBM3", cores=132, clock=1.98, l2=50 * MIB, **HOPPER),  # type: ignore[arg-type]
    "H200": Target("NVIDIA H200", cores=132, clock=1.98, l2=50 * MIB, **HOPPER),  # type: ignore[arg-type]
    "B200": Target("NVIDIA B200", cores=148, clock=1.965, l2=132_644_864, **BLACKWELL),  # type: ignore[arg-type]
    "GB200": Target("NVIDIA GB200", cores=152, clock=2.062, l2=135_528_448, **BLACKWELL),  # type: ignore[arg-type]
    "L4": Target("NVIDIA L4", cores=58, clock=2.04, l2=48 * MIB, **ADA),  # type: ignore[arg-type]
    "RTX4090": Target("NVIDIA GeForce RTX 4090", cores=128, clock=2.52, l2=72 * MIB, **ADA),  # type: ignore[arg-type]
    "T4": Target("Tesla T4", (7, 5), False, 40, 64, 1.59, 4 * MIB, 64 * KIB, 64 * KIB, 1024),
}
CUDNN = (9, 10)  # the version for which XLA compiles; the installed version does not matter


def target_config(chip: Chip) -> str:
    """Return the text of the ``GpuTargetConfigProto`` of a chip in :data:`TARGETS`."""
    target = TARGETS[chip.name]
    major, minor = target.capability
    capability = f"major: {major} minor: {minor}" + (
        " feature_extension: ACCELERATED_FEATURES" if target.accelerated else ""
    )
    fields = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 48 * KIB,
        "shared_memory_per_core": target.shared,
        "shared_memory_per_block_optin": target.optin,
        "threads_per_core_limit": target.threads,
        "core_count": target.cores,
        "fpus_per_core": target.units,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 2**16 - 1,
        "block_dim_limit_z": 2**16 - 1,
        "registers_per_core_limit": 2**16,
        "registers_per_block_limit": 2**16,
        "memory_bandwidth": int(chip.hbm_bandwidth),
        "device_memory_size": int(chip.hbm_bytes),
        "l2_cache_size": target.l2,
        "clock_rate_ghz": target.clock,
    }
    info = " ".join(f"{name}: {value}" for name, value in fields.items())
    return (
        f"gpu_device_info {{ {info} cuda_compute_capability {{ {capability} }} }}\n"
        f'platform_name: "CUDA"\ndnn_version_info {{ major: {CUDNN[0]} minor: {CUDNN[1]} }}\n'
        f'device_description_str: "{target.description}"\n'
    )
