"""Load a config file: run it, apply overrides, and check the values; errors name file, line and nearest key."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError, nearest, one_line
from mlm_jax.config.check import check_values
from mlm_jax.config.data_file import read_config
from mlm_jax.config.keys import KEYS, default_config
from mlm_jax.config.module import config_file, import_file
from mlm_jax.config.paths import expand_home
from mlm_jax.config.values import BadValue
from mlm_jax.config.words import here

WHERE_KEYS_ARE = "mlm-jax config lists every key"


def load_config(path: str | Path, overrides: tuple[str, ...] = ()) -> ConfigDict:
    """Run a config file's ``get_config`` and apply command-line overrides such as ``model.width=256``.

    Args:
      path: a Python file; ``file.py:argument`` calls ``get_config("argument")``. A ``.json`` file, such as a workdir's
        config.json, is read as data and runs no code.
      overrides: ``key.path=value`` strings; values are Python literals, anything else is a string.

    Raises:
      UserError: the file is missing or fails, a key does not exist, or a value cannot work; the message names file,
        line and nearest key.
    """
    file, argument = file_and_argument(path)
    config = read_config(file) if file.suffix == ".json" else _run(file, argument)
    try:
        check_keys(config, default_config())
    except UserError as error:
        raise UserError(error.problem, file=file, remedy=error.remedy) from error
    for override in overrides:
        key, equals, value = override.partition("=")
        if not (key and equals):
            raise UserError(f"--set {override!r} is not KEY=VALUE", remedy="write --set key.path=value")
        try:
            set_key(config, key, value)
        except UserError as error:  # with its place, so that it is not taken for an error of the file
            raise UserError(error.problem, file=f"--set {override}", remedy=error.remedy) from error
    try:
        check_values(config)
    except BadValue as error:
        raise located(error, path, overrides) from error
    expand_home(config)
    return config


def _run(file: Path, argument: str) -> ConfigDict:
    """Return what ``get_config`` of a Python file returns."""
    module = import_config(file)
    if not hasattr(module, "get_config"):
        raise UserError("a config file must define get_config()", file=file, remedy="see configs/demo.py")
    arguments = (argument,) if argument else ()
    try:
        inspect.signature(module.get_config).bind(*arguments)
    except TypeError as error:
        problem, remedy = (
            ("takes no argument", f"write {file}") if argument else ("wants an argument", f"write {file}:ARGUMENT")
        )
        raise UserError(f"get_config() {problem}", file=file, remedy=remedy) from error
    try:
        config = module.get_config(*arguments)
    except UserError:
        raise
    except Exception as error:
        raise UserError(_problem(error), file=file, line=_line_in(error, file), remedy=_remedy(error)) from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"get_config() returns {type(config).__name__} and not a config",
            file=file,
            line=module.get_config.__code__.co_firstlineno,
            remedy="begin with config = default_config(), end with return config",
        )
    return config


def file_and_argument(path: str | Path) -> tuple[Path, str]:
    """Return the file and the argument of ``file.py:argument``; the argument of ``file.py`` is ""."""
    name, _, argument = str(path).partition(".py:")
    return (config_file(name + ".py"), argument) if argument else (config_file(path), "")


def located(error: UserError, path: str | Path, overrides: Sequence[str] = ()) -> UserError:
    """Return an error that names a config key, with the config file and, if it can be found, the line.

    Args:
      error: of :class:`BadValue`, whose key is known, or one whose message has a key such as ``optimizer.decay_steps``.
      path: of the config, as given to :func:`load_config`.
      overrides: as given there; a key that they set has no line in the file.
    """
    known = default_config()
    named = [
        match for match in re.findall(r"(?=\b([a-z]+\.[a-z_]+))", error.problem) if match.partition(".")[0] in known
    ]
    keys = [error.key] if isinstance(error, BadValue) else named
    set_there = [override.partition("=")[0] for override in overrides]
    if error.file or not keys or any(f"{key}.".startswith(f"{other}.") for key in keys for other in set_there):
        return error
    file, _ = file_and_argument(path)
    return UserError(error.problem, file=file, line=_line_that_names(keys[0], file), remedy=error.remedy)


def set_key(config: ConfigDict, key: str, value: str) -> None:
    """Set ``a.b.c`` in place; a key below a plain dictionary (``tasks.mlm.rows``) works too.

    Raises:
      UserError: there is no such key (the message names the nearest one), or the value is of another type.
    """
    *parents, last = key.split(".")
    target = config
    for parent in parents:
        if not isinstance(target, (ConfigDict, dict)) or parent not in target:
            known = target.keys() if isinstance(target, (ConfigDict, dict)) else ()
            raise UserError(f"unknown config key {key!r}{here(last) or _hint(parent, known)}", remedy=WHERE_KEYS_ARE)
        target = target[parent]
    if not isinstance(target, (ConfigDict, dict)) or (isinstance(target, ConfigDict) and last not in target):
        known = target.keys() if isinstance(target, ConfigDict) else ()
        raise UserError(f"unknown config key {key!r}{_hint(last, known)}", remedy=WHERE_KEYS_ARE)
    literal = _literal(value)
    if isinstance(target, ConfigDict):
        if isinstance(target[last], bool) and isinstance(literal, str) and literal.lower() in ("true", "false"):
            literal = literal.lower() == "true"  # as in YAML and JSON
        if isinstance(target[last], ConfigDict):
            raise UserError(
                f"config key {key!r} is a group of keys",
                remedy=f"set one of them, such as {key}.{next(iter(target[last]))}",
            )
        if not _same_kind(literal, target[last]):
            raise UserError(
                f"config key {key!r} is {literal!r}, which is not of type {type(target[last]).__name__}",
                remedy=f"write a value such as {target[last]!r}",
            )
    target[last] = literal


def check_keys(config: ConfigDict, known: ConfigDict, prefix: str = "") -> None:
    """Check that every key of ``config`` is one of ``known`` and of the same kind.

    Raises:
      UserError: a key is unknown (the nearest one is named), or its value is of another type.
    """
    for key, value in config.items():
        if key not in known:
            raise UserError(f"unknown config key {prefix + key!r}{_hint(key, known)}", remedy=WHERE_KEYS_ARE)
        if isinstance(known[key], ConfigDict):
            check_keys(value, known[key], f"{prefix}{key}.")
        elif not _same_kind(value, known[key]):
            kind = type(known[key]).__name__
            raise UserError(f"config key {prefix + key!r} is {value!r}, which is not of type {kind}")


def _same_kind(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    if isinstance(default, (tuple, list)):
        return isinstance(value, (tuple, list))
    return isinstance(value, type(default)) or (isinstance(default, dict) and isinstance(value, ConfigDict))


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def import_config(path: str | Path) -> ModuleType:
    """Import a config file as a module; the same file is always the same module.

    Raises:
      UserError: it is missing or fails; the message names file and line.
    """
    file = Path(path)
    try:
        return import_file(file)
    except UserError:
        raise
    except Exception as error:
        neighbour = file.parent / f"{getattr(error, 'name', None)}.py"
        remedy = ""
        # In a package, each module has one name.
        if isinstance(error, ModuleNotFoundError) and neighbour.is_file():
            remedy = f"write from {file.resolve().parent.name}.{neighbour.stem} import …"
        raise UserError(_problem(error), file=file, line=_line_in(error, file), remedy=remedy) from error


def _line_that_names(key: str, file: Path) -> int | None:
    """Return the only line of a config file that names a key, or its last part; None if there is none, or if there are several."""
    code = [line.partition("#")[0] for line in file.read_text(encoding="utf-8").splitlines()]
    for name in (key, key.rpartition(".")[2].partition("[")[0]):
        lines = [number for number, line in enumerate(code, 1) if re.search(rf"\b{re.escape(name)}\b", line)]
        if len(lines) == 1:
            return lines[0]
    return None


def _line_in(error: BaseException, file: Path) -> int | None:
    if isinstance(error, SyntaxError):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.resolve()]
    return lines[-1] if lines else None


def _problem(error: BaseException) -> str:
    """Return an exception's message in one line; for an unknown key, also the key that is meant."""
    set_there = re.search(r'Key "(\w+)" does not exist', str(error))
    read_there = re.match(r"""\W*(\w+)\W*(\\nDid you mean|$)""", str(error))
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename if error.__traceback__ else ""
    unknown = set_there or read_there
    if unknown and isinstance(error, (AttributeError, KeyError)) and "ml_collections" in raised_in:
        meant = re.search(r'Did you mean "(\w+)"', str(error))
        return f"unknown config key {unknown[1]!r}{_hint(unknown[1], [meant[1]] if meant else [])}"
    return one_line(error) or type(error).__name__


def _hint(name: str, siblings: Iterable[str]) -> str:
    """Return what an unknown key is called here, the nearest key of its group or of another one, or an empty string."""
    elsewhere = {key.name.rpartition(".")[2]: key.name for key in KEYS}
    close = [name] if name in elsewhere else difflib.get_close_matches(name, elsewhere, n=1, cutoff=0.8)
    other = f"; did you mean {elsewhere[close[0]]!r}?" if close else ""
    return here(name) or (other if name in elsewhere else nearest(name, siblings) or other)


def _remedy(error: BaseException) -> str:
    return WHERE_KEYS_ARE if isinstance(error, (AttributeError, KeyError)) else ""
