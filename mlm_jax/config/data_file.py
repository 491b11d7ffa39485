"""Configs in JSON, such as the ``config.json`` of a workdir, which run no code.

A Python config may do anything. A config in JSON may be a stranger's, so it is refused if it names code to import.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError
from mlm_jax.common.foreign_files import read_json
from mlm_jax.config.keys import default_config
from mlm_jax.config.paths import change_paths, resolved
from mlm_jax.config.values import BadValue

OURS = "mlm_jax."  # modules whose functions are known


def read_config(file: Path) -> ConfigDict:
    """Return the config in a JSON file; keys that the file leaves out are at their defaults.

    Paths that begin with ``{workdir}`` begin at the folder of the file.

    Raises:
      UserError: there is no such file, it is not a JSON object of keys, or it names code to import.
    """
    if not file.exists():
        raise UserError(
            "there is no such config file", file=file, remedy="name a config.py, or the config.json of a workdir"
        )
    values = read_json(file)
    config = default_config()
    _fill(config, values, "the config", file)
    change_paths(config, partial(resolved, workdir=file.parent))
    try:
        _check_no_code(config.data, config.adapt)
    except BadValue as error:
        raise UserError(error.problem, file=file, remedy=error.remedy) from error
    return config


def tuples(value: Any) -> Any:
    """Return a JSON value with its lists as tuples, as configs have them."""
    if isinstance(value, list):
        return tuple(tuples(item) for item in value)
    return {key: tuples(item) for key, item in value.items()} if isinstance(value, dict) else value


def _fill(config: ConfigDict, values: Any, name: str, file: Path) -> None:
    """Set keys, also unknown ones, which the check of all keys reports."""
    if not isinstance(values, dict):
        raise UserError(
            f"{name} is a {type(values).__name__} and not an object of keys",
            file=file,
            remedy='write {"steps": 1000, "model": {"width": 256}}',
        )
    for key, value in values.items():
        if key in config and isinstance(config[key], ConfigDict):
            _fill(config[key], value, key, file)
            continue
        try:
            with config.unlocked():
                config[key] = tuples(value)
        except (TypeError, AttributeError, RecursionError) as error:
            problem = f"{key} cannot be {type(value).__name__}, which is another type than its default's"
            raise UserError(problem, file=file, remedy="mlm-jax config lists every key") from error


def _check_no_code(data: ConfigDict, adapt: ConfigDict) -> None:
    """Check that no code is imported for a config's text.

    Raises:
      BadValue: a function, a module or a data set library is named.
    """
    remedy = "write a Python config, if you trust that code"
    for key in ("modules", "mixture"):
        if data[key]:
            raise BadValue(f"data.{key}", f"data.{key} names code, which a config in JSON cannot", remedy)
    for index, entry in enumerate(data.filters):
        named = entry.get("filter") if isinstance(entry, dict) else entry
        if isinstance(named, str) and ":" in named and not named.startswith(OURS):
            key = f"data.filters[{index}]"
            raise BadValue(key, f"{key} is {named[:80]!r}: a config in JSON cannot name a function", remedy)
    for key, source in (*_sources(data), *_texts(adapt.trim, "adapt.trim"), *_grow_sources(adapt.grow)):
        scheme, _, rest = source.partition(":")
        if (
            rest
            and not source.startswith(OURS)
            and ("/" not in scheme and not rest.startswith("/") or scheme == "tfds")
        ):
            raise BadValue(
                key, f"{key} is {source[:80]!r}: a config in JSON cannot name a function or a data set library", remedy
            )


def _sources(data: ConfigDict) -> Iterator[tuple[str, str]]:
    for kind in ("corpora", "parallel", "validation"):
        yield from _texts(data[kind], f"data.{kind}")
    for name, entry in data.labelled.items() if isinstance(data.labelled, (dict, ConfigDict)) else ():
        for split in ("train", "validation"):
            if isinstance(entry, dict) and isinstance(entry.get(split), str):
                yield f"data.labelled.{name}.{split}", entry[split]


def _grow_sources(grow: Any) -> Iterator[tuple[str, str]]:
    for name in ("text", "pairs") if isinstance(grow, (dict, ConfigDict)) else ():
        yield from _texts(grow.get(name), f"adapt.grow.{name}")


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield (key, text) of every string in a value, which may be a source."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, (dict, ConfigDict)):
        for name, entry in value.items():
            yield from _texts(entry, f"{key}.{name}")
