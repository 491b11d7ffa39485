"""Options that a dataclass declares: as fields with a default, a kind of values and a sentence, like any config key."""

from __future__ import annotations

import dataclasses
from typing import Any

from mlm_jax.config.values import Key, Kind


def option(default: Any, kind: Kind, doc: str) -> Any:
    """Return the dataclass field of an option.

    Args:
      default: its value if a config does not set it.
      kind: of its values.
      doc: one sentence, for the reference.
    """
    metadata = {"kind": kind, "doc": doc, "default": default}
    if isinstance(default, dict):  # which may not be a default, and has no hash
        return dataclasses.field(default_factory=lambda: dict(default), hash=False, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def options_of(declaring: type) -> dict[str, Key]:
    """Return {name: option} of what a dataclass declares with :func:`option`."""
    return {
        field.name: Key(field.name, field.metadata["default"], field.metadata["kind"], field.metadata["doc"])
        for field in dataclasses.fields(declaring)
        if "kind" in field.metadata
    }
