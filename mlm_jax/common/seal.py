"""Seals: checksums of JSON values, by which a flipped bit in their file is noticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEAL = "sha256"  # the key of the checksum, next to the values


def sealed(values: Mapping[str, Any], seal: str = SEAL) -> dict[str, Any]:
    """Return JSON values with a checksum of all of them under the key ``seal``, which must not be one of theirs."""
    return {**values, seal: _digest(values)}


def unsealed(values: Mapping[str, Any], seal: str = SEAL) -> dict[str, Any]:
    """Return the values of :func:`sealed`; values that older versions wrote have no checksum and are returned unchecked.

    Raises:
      ValueError: the values have changed since they were sealed.
    """
    content = {key: value for key, value in values.items() if key != seal}
    if seal in values and values[seal] != _digest(content):
        raise ValueError("it has changed since it was written: its checksum differs")
    return content


def _digest(values: Mapping[str, Any]) -> str:
    """Return a checksum of values as JSON, independent of the order of keys and of white space."""
    plain = json.loads(json.dumps(values))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
