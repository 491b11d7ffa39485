"""Devices to compile for: those of a topology, which need not exist on this machine."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from mlm_jax.common.errors import UserError, one_line
from mlm_jax.common.extras import install_command
from mlm_jax.common.quiet import quiet_stderr
from mlm_jax.parallel.gpu_targets import TARGETS, target_config
from mlm_jax.parallel.topology import Topology

INSTALL_TPU = install_command("tpu")
INSTALL_CUDA = install_command("cuda")


def devices(topology: Topology) -> Sequence[jax.Device]:
    """Return devices to compile for: those of the topology if its compiler is installed, otherwise simulated CPU devices.

    Raises:
      UserError: libtpu is missing or does not know the topology, the CUDA plugin does not load, or too few devices are simulated.
    """
    if topology.chip.platform == "tpu":
        return _tpu_devices(topology)
    if not is_simulated(topology):
        return _gpu_devices(topology)
    found = jax.devices("cpu")
    if len(found) < topology.device_count:
        raise UserError(
            f"{topology} needs {topology.device_count} simulated devices, but there are {len(found)}",
            remedy=f"set XLA_FLAGS=--xla_force_host_platform_device_count={topology.device_count}",
        )
    return found[: topology.device_count]


def is_simulated(topology: Topology) -> bool:
    """Return whether CPU devices replace those of the topology, because no compiler for its chips is installed."""
    if topology.chip.platform == "gpu":
        return topology.chip.name not in TARGETS or not cuda_installed()
    return topology.chip.platform == "cpu"


def why_simulated(topology: Topology) -> str:
    """Return why the program is not compiled for the topology's own devices; "" if it is."""
    if topology.chip.platform != "gpu" or not is_simulated(topology):
        return ""
    if topology.chip.name not in TARGETS:
        return f"XLA's compiler has no description of {topology.chip.name} (only of {', '.join(TARGETS)})"
    return f"the compiler for {topology.chip.name} is not installed; {INSTALL_CUDA} installs it, and no GPU is needed"


def cuda_installed() -> bool:
    """Return whether the compiler for NVIDIA's GPUs, JAX's CUDA plugin, is installed."""
    return (
        any(importlib.util.find_spec(f"jax_plugins.xla_cuda{version}") for version in (13, 12)) if _plugins() else False
    )


def libtpu_installed() -> bool:
    """Return whether the compiler for TPUs is installed."""
    return importlib.util.find_spec("libtpu") is not None


def _plugins() -> bool:
    return importlib.util.find_spec("jax_plugins") is not None


def _gpu_devices(topology: Topology) -> Sequence[jax.Device]:
    """Return descriptions of GPUs, with one process on each host."""
    each = topology.chips // topology.hosts
    joined = max(1, topology.linked // each)  # hosts in one NVLink network
    partitions = -(-topology.hosts // joined)
    shape = f"{partitions}x{topology.hosts // partitions}x{each}"
    try:
        with quiet_stderr():
            return topologies.get_topology_desc(
                platform="cuda", topology_name="", target_config=target_config(topology.chip), topology=shape
            ).devices
    except NotImplementedError as error:  # JAX's answer if a plugin is installed, but did not load
        raise UserError(
            f"JAX's CUDA plugin is installed but does not load, so nothing can be compiled for {topology}",
            remedy="python -c 'import jax; jax.devices()' prints which library is missing; "
            f"{INSTALL_CUDA} installs all of them",
        ) from error


def _tpu_devices(topology: Topology) -> Sequence[jax.Device]:
    # There is no TPU machine whose metadata could be queried, and another process may be compiling as well.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        name = str(dataclasses.replace(topology, slices=1))
        with quiet_stderr():  # libtpu prints many lines because there is no TPU here
            return topologies.get_topology_desc(platform="tpu", topology_name=name, **_options(topology)).devices
    except (RuntimeError, ValueError, NotImplementedError) as error:
        if not libtpu_installed():
            raise UserError(
                f"compiling for {topology} needs libtpu, the compiler of TPUs", remedy=INSTALL_TPU
            ) from error
        raise UserError(
            f"libtpu does not know the topology {topology}: {one_line(error)}",
            remedy="use a shape that Cloud TPU offers, such as v5e:4x4 or v5p:4x4x4",
        ) from error


def _options(topology: Topology) -> dict[str, Any]:
    options: dict[str, Any] = {"num_slices": topology.slices} if topology.slices > 1 else {}
    if topology.chip.name == "v4":
        options["chip_config_name"] = "megacore"  # its two cores are one device
    if topology.chip.name in ("v5e", "v6e"):  # machines of four chips, or of one, as on Colab
        options["chips_per_host_bounds"] = (1, 1, 1) if math.prod(topology.shape) == 1 else (2, 2, 1)
    return options
