"""The mesh: devices arranged along data, fsdp, tensor and sequence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from mlm_jax.errors import UserError

AXES = ("data", "fsdp", "tensor", "sequence")


def mesh_shape(config_mesh: Mapping[str, int], device_count: int) -> dict[str, int]:
    """Return the size of each mesh axis, with -1 replaced by the devices that remain.

    Raises:
      UserError: the sizes do not multiply to ``device_count``.
    """
    shape = {axis: int(config_mesh[axis]) for axis in AXES}
    free = [axis for axis, size in shape.items() if size == -1]
    fixed = math.prod(size for size in shape.values() if size != -1)
    wanted = " × ".join(f"mesh.{axis}={size}" for axis, size in shape.items())
    if len(free) > 1 or fixed < 1 or any(size < -1 for size in shape.values()):
        raise UserError(f"{wanted} is impossible", remedy="use positive sizes and at most one -1")
    if device_count % fixed or (not free and fixed != device_count):
        raise UserError(
            f"{wanted} does not fit {device_count} devices",
            remedy=f"choose sizes whose product {'divides' if free else 'is'} {device_count}",
        )
    for axis in free:
        shape[axis] = device_count // fixed
    return shape


def make_mesh(config_mesh: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arrange devices in a mesh, along the physical torus where there is one.

    Args:
      config_mesh: ``config.mesh``; ``slices`` > 1 joins slices of a multi-slice TPU job along ``data`` (over DCN).
      devices: all devices of all processes by default.

    Raises:
      UserError: the mesh does not fit the devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = mesh_shape(config_mesh, len(devices))
    slices = int(config_mesh.get("slices", 1))
    if slices > 1:
        if shape["data"] % slices:
            raise UserError(f"mesh.data={shape['data']} cannot be split over {slices} slices")
        inner = (shape["data"] // slices, *(shape[axis] for axis in AXES[1:]))
        sliced = all(hasattr(device, "slice_index") for device in devices)
        if sliced and len({device.slice_index for device in devices}) != slices:
            raise UserError(f"mesh.slices={slices}, but the devices come from another number of slices")
        if sliced:
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
