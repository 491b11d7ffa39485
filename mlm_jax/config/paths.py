"""Paths in a config: ``~`` is the home folder, and a workdir's own files are named relative to it, so that it can be moved."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mlm_jax.common.addresses import is_local
from mlm_jax.config.keys import KEYS
from mlm_jax.config.values import PATH, Entry, Kind

WORKDIR = "{workdir}"  # begins the path of a file in the workdir, in a config that the workdir contains


def expand_home(config: ConfigDict) -> None:
    """Replace ``~`` at the beginning of each path of a config by the home folder."""
    change_paths(config, os.path.expanduser)


def change_paths(config: ConfigDict | MutableMapping[str, Any], change: Callable[[str], str]) -> None:
    """Replace each path of a config, or of its JSON values, by what ``change`` returns for it."""
    for key in KEYS:
        group, _, name = key.name.rpartition(".")
        place = config.get(group, {}) if group else config
        if name in place and (changed := _changed(key.kind, place[name], change)) != place[name]:
            place[name] = changed


def portable(path: str, workdir: str | Path) -> str:
    """Return a path with ``{workdir}`` in place of the workdir; other paths are returned as they are."""
    if not (is_local(path) and os.path.isabs(path)):
        return path
    file, folder = Path(os.path.realpath(path)), Path(os.path.realpath(workdir))
    return f"{WORKDIR}/{file.relative_to(folder)}" if folder in file.parents else path


def resolved(path: str, workdir: str | Path) -> str:
    """Return a path from :func:`portable` with the workdir as it is called now."""
    inside = path.removeprefix(f"{WORKDIR}/")
    return path if inside == path else os.path.join(os.path.realpath(workdir), inside)


def _changed(kind: Kind, value: Any, change: Callable[[str], str]) -> Any:
    if kind == PATH and isinstance(value, str) and value:
        return change(value)
    if isinstance(kind, Entry) and isinstance(value, Mapping):
        new = {key.name: _changed(key.kind, value[key.name], change) for key in kind.keys if key.name in value}
        return {**value, **new}
    return value
