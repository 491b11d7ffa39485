"""The mesh: devices arranged along data, fsdp, tensor and sequence; and the platform for which a program is traced."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

from mlm_jax.common.errors import UserError
from mlm_jax.parallel.axes import AXES, mesh_shape
from mlm_jax.parallel.chips import chip_of


def make_mesh(config_mesh: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arrange devices in a mesh, along the physical torus if there is one.

    Args:
      config_mesh: ``config.mesh``; ``slices`` > 1 joins slices of a multi-slice TPU job along ``data`` (over DCN).
      devices: all devices of all processes by default.

    Raises:
      UserError: the mesh does not fit the devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = mesh_shape(config_mesh, len(devices))
    slices, found = int(config_mesh.get("slices", 1)), {getattr(device, "slice_index", None) for device in devices}
    # On GPUs, slice_index is the node.
    if found != {None} and len(found) != slices and (slices > 1 or devices[0].platform == "tpu"):
        raise UserError(
            f"mesh.slices={slices}, but the devices are of {len(found)} slices", remedy=f"set mesh.slices={len(found)}"
        )
    if slices > 1:
        inner = (shape["data"] // slices, *(shape[axis] for axis in AXES[1:]))
        if found != {None}:
            grid = mesh_utils.create_hybrid_device_mesh(
                inner, (slices, 1, 1, 1), devices, allow_split_physical_axes=devices[0].platform == "tpu"
            )
        else:  # simulated devices have no slices: consecutive blocks stand for them
            grid = np.array(devices).reshape(slices * inner[0], *inner[1:])
    elif devices[0].platform == "tpu":
        grid = mesh_utils.create_device_mesh(tuple(shape.values()), devices, allow_split_physical_axes=True)
    else:
        grid = np.array(devices).reshape(tuple(shape.values()))
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def platform() -> str:
    """Return "cpu" | "gpu" | "tpu": the platform of the mesh that is set (``jax.set_mesh``), or else JAX's own."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def device_memory(mesh: Mesh | AbstractMesh) -> float:
    """Return the bytes of memory of each of the mesh's devices; infinite if it is not known, and for CPUs.

    Every process must get the same answer, so a measured size is returned only if there is one process.
    """
    if isinstance(mesh, AbstractMesh) or mesh.devices.flat[0].platform == "cpu":
        return math.inf
    device = mesh.devices.flat[0]
    if chip := chip_of(device):
        return chip.hbm_bytes / chip.devices_per_chip
    if jax.process_count() > 1 or device not in jax.devices():
        return math.inf
    return (device.memory_stats() or {}).get("bytes_limit", math.inf)
