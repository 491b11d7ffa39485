"""Keys ``mesh.…``: how devices share the work."""

from __future__ import annotations

from typing import Any

from mlm_jax.config.values import Fits, Key, whole

ABOUT = "How devices share the work."


def _is_axis(value: Any) -> bool:
    return type(value) is int and (value >= 1 or value == -1)


AXIS = Fits(_is_axis, "a whole number from 1, or -1 for all devices that remain (one axis at most)")

KEYS: tuple[Key, ...] = (
    Key("mesh.data", -1, AXIS, "Devices that split the rows and hold whole weights; -1 is all that remain."),
    Key("mesh.fsdp", 1, AXIS, "Devices that split the rows and the weights."),
    Key("mesh.tensor", 1, AXIS, "Devices that split heads, feed-forward width and vocabulary."),
    Key("mesh.sequence", 1, AXIS, "Devices that split the length of a row."),
    Key("mesh.slices", 1, whole(1), "Slices of a multi-slice TPU job, joined over the data axis."),
)
