"""Check the values of a config before anything is read or written: each key by its declaration, then keys together.

Checks that need an objective, the devices or the data are in the modules of those.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mlm_jax.config.keys import KEYS
from mlm_jax.config.keys.tasks import TASK
from mlm_jax.config.together import check_model, check_together
from mlm_jax.config.values import BadValue

TASK_NAME = re.compile(r"[^\W_][\w-]*")  # part of metrics, of parameters and of keys such as tasks.mlm.rows


def check_values(config: ConfigDict) -> None:
    """Check the values of a config whose keys and types are right.

    Raises:
      BadValue: a value is not of its key's kind, or does not fit another one.
      UserError: several keys together cannot work.
    """
    for task in config.tasks:
        if not isinstance(task, str) or not TASK_NAME.fullmatch(task):
            remedy = "begin its name with a letter, and use only letters, digits, '_' and '-'"
            raise BadValue("tasks", f"a task is called {task!r}", remedy)
    _check_each(config)
    for name, entries in config.data.labelled.items():
        if "train" not in entries and "validation" not in entries:
            key = f"data.labelled.{name}"
            raise BadValue(key, f"{key} has neither 'train' nor 'validation'", "name its files")
    if not config.tasks:
        raise BadValue("tasks", "tasks is empty, so there is nothing to train on", f'write {{"mlm": {TASK.example}}}')
    check_together(config)


def check_model_values(config: ConfigDict) -> None:
    """Check ``config.model`` by itself, for models that no config file describes.

    Raises:
      UserError: a value is not of its key's kind, or does not fit another one; a BadValue if one key can be named.
    """
    _check_each(ConfigDict({"model": config}, convert_dict=False), "model.")
    check_model(config)


def _check_each(config: ConfigDict, prefix: str = "") -> None:
    """Check every key by itself, or those that begin with a prefix."""
    for key in KEYS:
        if key.name.startswith(prefix):
            group, _, name = key.name.rpartition(".")
            key.kind.check(key.name, (config[group] if group else config)[name])


def renamed_options(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task's entry in which options have this version's names, not those of older versions."""
    names = dict(TASK.renamed)
    return {names.get(option, option): value for option, value in entry.items()}
