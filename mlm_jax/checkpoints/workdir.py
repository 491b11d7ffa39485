"""The config of a workdir as JSON, and the keys of it that a continued run may change."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError
from mlm_jax.common.files import write_whole
from mlm_jax.common.foreign_files import read_json
from mlm_jax.config import default_config, renamed_options
from mlm_jax.config.data_file import tuples
from mlm_jax.config.paths import change_paths, portable, resolved
from mlm_jax.config.together import steps_of
from mlm_jax.data.store.freshness import check_unchanged

log = logging.getLogger(__name__)

CONFIG = "config.json"
FEW_KEYS, BRIEF = 5, 40  # keys whose values a message shows, and the characters of one
# Keys (or groups of keys) that may differ when a run is continued. They do not affect the steps already done; or the user changes
# them on purpose (steps, and the learning rate after a gradient that was not finite).
MAY_CHANGE = (
    "steps",
    "checkpoint.",
    "evaluation.",
    "mesh.",
    "training.log_every",
    "training.profile",
    "training.wandb",
    "training.microbatches",
    "training.nonfinite",
    "optimizer.learning_rate",
    "data.store",
    "data.workers",
    "data.max_document_bytes",
    "vocabulary.path",  # its content is compared instead, with the vocabularies of the token store and of the checkpoint
    "model.attention",
    "model.remat",
    "model.scan_layers",
    "model.cross_entropy_chunk",
)


def config_json(config: ConfigDict, workdir: str | Path | None = None) -> dict[str, Any]:
    """Return a config as plain JSON values (tuples as lists).

    Args:
      config: the config.
      workdir: the workdir that will contain the values: paths in it are then written relative to it, so that it can be moved.
    """
    values = json.loads(json.dumps(config.to_dict(), default=list))
    if workdir is not None:
        change_paths(values, partial(portable, workdir=workdir))
    return values


def config_from_json(values: Mapping[str, Any], workdir: str | Path | None = None) -> ConfigDict:
    """Return a config from :func:`config_json`; keys that this version does not know are left out.

    Args:
      values: the JSON values.
      workdir: the workdir that contains the values; None: paths relative to it are left as they are.

    Raises:
      UserError: a value is of another type than the key's.
    """
    config = default_config()
    _fill(config, values, "config")
    config.tasks = {
        task: renamed_options(options) if isinstance(options, Mapping) else options
        for task, options in config.tasks.items()
    }  # runs of older versions can be continued
    if workdir is not None:
        change_paths(config, partial(resolved, workdir=workdir))
    return config


def _fill(config: ConfigDict, values: Any, room: str) -> None:
    if not isinstance(values, Mapping):
        raise UserError(f"{room} is {_brief(values)}, which is not a table of keys")
    for key, value in values.items():
        if key not in config:
            log.warning("the checkpoint's config key %r is not known to this version", key)
        elif isinstance(config[key], ConfigDict):
            _fill(config[key], value, f"{room}.{key}")
        else:
            try:
                config[key] = tuples(value)
            except (TypeError, RecursionError) as error:
                raise UserError(
                    f"{room}.{key} is {_brief(value)}, which is of another type than its default"
                ) from error


def check_workdir(workdir: str | Path, config: ConfigDict) -> None:
    """Check that a workdir is new or belongs to this config.

    Raises:
      UserError: it belongs to another config (the message lists the keys that differ), or its checkpoints could not be read.
    """
    file = Path(workdir) / CONFIG
    check_no_wildcards(workdir)
    mine = config_json(config)
    if file.exists():
        try:
            # A key that is newer than the run has its default.
            theirs = config_json(config_from_json(read_json(file), workdir))
        except UserError as error:
            raise UserError(error.problem, file=file, remedy="delete it if the workdir is yours") from error
        different = changed_keys(theirs, mine)
        if different:
            few = len(different) <= FEW_KEYS
            listed = (
                f"{key} ({_brief(a)} there, {_brief(b)} here)" if few else key for key, (a, b) in different.items()
            )
            raise UserError(
                f"this workdir belongs to another config; these keys differ: {', '.join(listed)}",
                file=file,
                remedy="set them back, or use a new workdir, with checkpoint.init to start from these weights",
            )


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= BRIEF else f"{text[: BRIEF - 1]}…"


def check_store(workdir: str | Path, config: ConfigDict, store: str | Path) -> None:
    """Check that the store on which a workdir's checkpoints were trained would not be replaced.

    Raises:
      UserError: the workdir has checkpoints, and the store does not, or no longer, fit the config.
    """
    if has_checkpoints(workdir):
        check_unchanged(config, store)


def check_no_wildcards(workdir: str | Path) -> None:
    """Refuse a workdir whose checkpoints could not be read: Orbax takes the path of a checkpoint for a glob.

    Raises:
      UserError: the path holds ``[``, ``*`` or ``?``.
    """
    path = os.path.realpath(workdir)
    if found := sorted(set("[*?") & set(path)):
        raise UserError(
            f"a workdir with {' or '.join(found)} in its path: its checkpoints could not be read",
            file=path,
            remedy="give a workdir without these characters",
        )


def has_checkpoints(workdir: str | Path) -> bool:
    """Return whether a run of this workdir has saved a checkpoint, intact or damaged."""
    return bool(saved_steps(workdir))


def saved_steps(workdir: str | Path) -> list[int]:
    """Return the steps that have a checkpoint in this workdir, intact or damaged."""
    return sorted(int(child.name) for child in Path(workdir, "checkpoints").glob("*") if child.name.isdigit())


def claim_workdir(workdir: str | Path, config: ConfigDict) -> None:
    """Write the config into a workdir, for :func:`check_workdir` and for people."""
    file = Path(workdir) / CONFIG
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(config_json(config, workdir), indent=1, ensure_ascii=False))


def changed_keys(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return {dotted key: both values} of the keys that must not differ between a run and its continuation, but do.

    Args:
      theirs: the config of the run, as :func:`config_json` gives it.
      mine: the config of the continuation.
    """
    different = {key: values for key, values in differing_keys(theirs, mine).items() if not may_change(key)}
    for key in ("optimizer.warmup_steps", "optimizer.decay_steps"):  # 500 steps and a share of 0.05 may be the same
        if key in different:
            before, now = different[key]
            if steps_of(before, theirs["steps"]) == steps_of(now, mine["steps"]):
                del different[key]
    return different


def may_change(key: str) -> bool:
    """Return whether this config key may differ when a run is resumed."""
    listed = any(key.startswith(entry) if entry.endswith(".") else key == entry for entry in MAY_CHANGE)
    return listed or re.fullmatch(r"tasks\..+\.evaluate_on", key) is not None  # the sets that a task is evaluated on


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Return {dotted key: both values} of the differences between two nested dictionaries; None if one lacks the key."""
    different: dict[str, tuple[Any, Any]] = {}
    for key in sorted({*one, *other}):
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            different |= differing_keys(a, b, f"{prefix}{key}.")
        elif a != b:
            different[prefix + key] = a, b
    return different
