"""Every key that a run can set, declared once: name, default, kind of its values, and what it does.

``model.width`` is declared in ``model.py``, and so on: a file has the keys that begin with its name. The checks, their
messages, ``mlm-jax config`` and docs/config.md all come from these declarations. A config file defines ``get_config()`` and
changes what it wants to::

    from mlm_jax.config import default_config

    def get_config():
        config = default_config()
        config.data.corpora = {"en": "text/en/*.txt", "de": "text/de/*.txt"}
        return config

A key that is not declared is an error that names the nearest one (``load_config``).
"""

from __future__ import annotations

import copy

from ml_collections import ConfigDict

from mlm_jax.config.keys import (
    adapt,
    checkpoint,
    curriculum,
    data,
    evaluation,
    mesh,
    mixing,
    model,
    optimizer,
    run,
    tasks,
    training,
    vocabulary,
)
from mlm_jax.config.values import Key

GROUPS = {  # {group of keys: what it is about}
    "": run.ABOUT,
    "data": data.ABOUT,
    "vocabulary": vocabulary.ABOUT,
    "mixing": mixing.ABOUT,
    "model": model.ABOUT,
    "optimizer": optimizer.ABOUT,
    "training": training.ABOUT,
    "mesh": mesh.ABOUT,
    "checkpoint": checkpoint.ABOUT,
    "adapt": adapt.ABOUT,
    "evaluation": evaluation.ABOUT,
}
KEYS: tuple[Key, ...] = (
    *run.KEYS,
    *data.KEYS,
    *vocabulary.KEYS,
    *mixing.KEYS,
    *curriculum.KEYS,
    *tasks.KEYS,
    *model.KEYS,
    *optimizer.KEYS,
    *training.KEYS,
    *mesh.KEYS,
    *checkpoint.KEYS,
    *adapt.KEYS,
    *evaluation.KEYS,
)
KEY = {key.name: key for key in KEYS}


def default_config() -> ConfigDict:
    """Return every key with its default; a new object at each call."""
    config = ConfigDict(convert_dict=False)
    for key in KEYS:
        group, _, name = key.name.rpartition(".")
        if group and group not in config:
            config[group] = ConfigDict(convert_dict=False)
        (config[group] if group else config)[name] = copy.deepcopy(key.default)
    return config.lock()
