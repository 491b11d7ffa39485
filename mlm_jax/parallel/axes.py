"""The axes of a mesh and their sizes; checked without JAX."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mlm_jax.common.errors import UserError

AXES = ("data", "fsdp", "tensor", "sequence")


def mesh_shape(config_mesh: Mapping[str, int], device_count: int) -> dict[str, int]:
    """Return the size of each mesh axis, with -1 replaced by the devices that remain.

    Args:
      config_mesh: ``config.mesh``.
      device_count: the number of devices of all slices together.

    Raises:
      UserError: the sizes do not multiply to ``device_count``, or the slices cannot split the data axis.
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
            remedy=f"choose sizes whose product {'divides' if free else 'is'} {device_count}, such as "
            f"{_fitting(shape, device_count)}",
        )
    for axis in free:
        shape[axis] = device_count // fixed
    slices = int(config_mesh.get("slices", 1))
    if slices < 1:
        raise UserError(f"mesh.slices={slices} is impossible", remedy="use a positive number")
    if shape["data"] % slices:
        raise UserError(
            f"mesh.data={shape['data']} cannot be split over {slices} slices",
            remedy="make it a multiple of mesh.slices",
        )
    return shape


def _fitting(shape: Mapping[str, int], device_count: int) -> str:
    """Return settings with which a mesh that does not fit the devices would: each size as large as still divides them."""
    left, settings = device_count, []
    for axis in ("tensor", "sequence", "fsdp"):
        size = left if shape[axis] == -1 else math.gcd(shape[axis], left)
        left //= size
        settings += [f"--set mesh.{axis}={size}"] if size != shape[axis] else []
    settings += [f"--set mesh.data={left}"] if shape["data"] not in (-1, left) else []
    return " ".join(settings)
