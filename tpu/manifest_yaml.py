"""Manifests as YAML that people can read: shell lines stand in blocks, as they would in a script."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper, but a text of several lines is a literal block."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def as_yaml(manifest: Mapping[str, Any]) -> str:
    """Return a manifest as YAML, with its keys in the order given."""
    return yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=1000)
