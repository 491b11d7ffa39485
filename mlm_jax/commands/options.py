"""Arguments and checks that several verbs share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlm_jax.common.addresses import is_local, refuse_to_read
from mlm_jax.common.errors import UserError
from mlm_jax.common.files import check_file_place

if TYPE_CHECKING:
    from ml_collections import ConfigDict

CHECKPOINT = "a workdir or one of its checkpoints"
LANGUAGE = "language of the text (required if the model has language-specific parts)"
PAIR = "languages of the two texts, such as de-en (required if the model has language-specific parts)"
STREAMS = "; text comes from --input or standard input"  # hint of the verbs that take no text as an argument


def path(value: str) -> str:
    """Return an argument that is a path, with the home folder in place of ``~``, which shells leave in ``--workdir=~/runs``."""
    return os.path.expanduser(value)


def add_config(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add ``--config`` and ``--set``."""
    parser.add_argument(
        "--config",
        type=path,
        required=required,
        metavar="FILE.py",
        help="config file; FILE.py:ARGUMENT passes an argument; FILE.json is data and runs no code",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key; repeatable"
    )


def config_of(options: argparse.Namespace) -> ConfigDict:
    """Load the config that ``--config`` and ``--set`` describe.

    Raises:
      UserError: as :func:`mlm_jax.config.load_config`.
    """
    from mlm_jax.config import load_config

    return load_config(options.config, tuple(options.set))


def adapted_config(options: argparse.Namespace) -> ConfigDict:
    """Load the config, and import, trim and grow the model of its ``adapt``, unless that was done before.

    Raises:
      UserError: as :func:`config_of` and :func:`mlm_jax.adaptation.adapted.adapted`.
    """
    config = config_of(options)
    if not config.adapt.model:
        return config
    from mlm_jax.adaptation.adapted import adapted

    return adapted(config, options.workdir)


def by_language(values: Sequence[str], option: str) -> dict[str, tuple[str, ...]]:
    """Return {language, or pair: sources} of values such as "sw=text/sw/*.txt", in order.

    Args:
      values: the values of an option that may be given several times.
      option: the name of the option, for messages.

    Raises:
      UserError: a value names no language or no source.
    """
    found: dict[str, tuple[str, ...]] = {}
    for value in values:
        language, _, source = value.partition("=")
        if not (language and source):
            raise UserError(f"{option} {value} names no language", remedy=f"write {option} sw='text/sw/*.txt'")
        found[language] = (*found.get(language, ()), source)
    return found


def as_source(values: Sequence[str]) -> str | dict[str, str]:
    """Return the values that an option gave for a language as a source, or as several by name, as ``data.corpora`` takes them."""
    return values[0] if len(values) == 1 else {f"source{number}": value for number, value in enumerate(values, 1)}


def store_folder(config: ConfigDict, workdir: str | None) -> str:
    """Return the folder of the token store, which need not exist yet.

    Raises:
      UserError: neither the config nor a workdir says where the store is, or a new store would replace the one that
        checkpoints of the workdir were trained on.
    """
    if not config.data.store and workdir is None:
        raise UserError("no folder for the token store was given", remedy="give --workdir, or set config.data.store")
    folder = config.data.store or f"{str(workdir).rstrip('/')}/store"
    if workdir is not None:
        from mlm_jax.checkpoints.workdir import check_store
        from mlm_jax.common.bucket import local_path

        check_store(local_path(workdir), config, folder)
    return folder


def check_workdir_path(workdir: str) -> None:
    """Refuse a workdir that is a file or a broken link, or lies below one.

    Raises:
      UserError: the workdir is such a path.
    """
    if not is_local(workdir):
        return
    folder = Path(workdir)
    found = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), None)
    if found and found.is_symlink() and not found.exists():
        raise UserError("this is a broken link, so it cannot be a workdir", file=found, remedy="remove the link")
    if found and not found.is_dir():
        raise UserError("this is a file, so it cannot be a workdir", file=found, remedy="give another --workdir")


def check_input(path: str) -> None:
    """Refuse an address of an object store as the path of a verb's text, before a model is loaded.

    Raises:
      UserError: the path is such an address.
    """
    if not is_local(path):
        refuse_to_read(path)


def check_output(path: str) -> None:
    """Check that a verb's file of output ("-" is standard output) can be written, before the work is done.

    Raises:
      UserError: as :func:`.check_file_place`.
    """
    if path not in ("", "-"):
        check_file_place(path)
