"""``config.adapt``: import, trim and grow the model that a run continues, and return the config that continues it.

The results are in one folder: ``model`` (a workdir), ``vocabulary`` (the grown one), ``adapt.json`` (the settings they were made
with) and ``config.json``, an ordinary config without ``adapt``, on which all later code works.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from mlm_jax.adaptation.continuing import continued_config
from mlm_jax.adaptation.grow_model import freeze_old, grow
from mlm_jax.adaptation.trim_model import trim
from mlm_jax.checkpoints.checkpoint import describe
from mlm_jax.checkpoints.starts import FILE as STARTS
from mlm_jax.checkpoints.workdir import claim_workdir, config_from_json, config_json, differing_keys
from mlm_jax.common.addresses import is_local
from mlm_jax.common.console import plain_console
from mlm_jax.common.errors import UserError
from mlm_jax.common.files import write_whole
from mlm_jax.common.foreign_files import read_json
from mlm_jax.common.lock import only_writer
from mlm_jax.common.processes import fresh_processes
from mlm_jax.config.keys import KEYS, default_config
from mlm_jax.interop.importing import VOCABULARY, import_hf, is_published
from mlm_jax.objectives import create_objectives
from mlm_jax.training.check import check_data

log = logging.getLogger(__name__)

FOLDER, MODEL, SETTINGS = "adapted", "model", "adapt.json"


def adapted(config: ConfigDict, workdir: str | Path | None) -> ConfigDict:
    """Return the config that continues the model of ``config.adapt``. The model is imported, trimmed and grown at the first call.

    A child process does the work, without an accelerator. Its report is printed.

    Args:
      config: the config; if it has no ``adapt.model``, it is returned as it is.
      workdir: workdir of the run, in which the results are kept unless ``adapt.folder`` names another folder; for a workdir in
        an object store, its local copy.

    Raises:
      UserError: as :func:`.import_hf`, :func:`.trim` and :func:`.grow`; the folder holds results of other settings or other
        files; or there is no folder for them.
    """
    if not config.adapt.model:
        return config
    folder = _folder(config, workdir)
    check_data(config, create_objectives(config.tasks))
    if jax.process_index() == 0:
        with only_writer(folder):
            if not _is_made(folder, _settings(config)):
                print_line = plain_console().print
                print_line(f"adapting {config.adapt.model} in {folder}", soft_wrap=True, highlight=False)
                with fresh_processes(1, remedy="free memory, and run the same command again") as pool:
                    for line in pool.submit(_make, config_json(config), str(folder)).result():
                        print_line(line, soft_wrap=True, highlight=False)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("the model is adapted")
    found = continuing(config, folder)
    if jax.process_index() == 0:
        claim_workdir(folder, found)
        if config.optimizer.learning_rate == default_config().optimizer.learning_rate:
            rate = config.optimizer.learning_rate
            log.warning(f"optimizer.learning_rate is {rate}, the default for new models; trained ones need a lower one")
    return found


def continuing(config: ConfigDict, folder: Path) -> ConfigDict:
    """Return the config that continues an adapted model: its architecture and vocabulary, and the other keys of ``config``.

    Args:
      config: the config with ``adapt``.
      folder: folder of the results.

    Raises:
      UserError: a file of the results is missing or damaged.
    """
    model = folder / MODEL if (folder / MODEL).is_dir() else Path(config.adapt.model)
    grown = folder / VOCABULARY if config.adapt.grow else ""
    if config.adapt.grow.get("pairs") and not (folder / VOCABULARY / STARTS).is_file():
        raise UserError(f"{STARTS} is missing", file=folder / VOCABULARY, remedy=f"remove {folder}: it is made again")
    found, default = continued_config(model, vocabulary=grown), default_config()
    for key in KEYS:
        group, _, name = key.name.rpartition(".")
        asked, usual = ((each[group] if group else each)[name] for each in (config, default))
        if group not in ("adapt", "vocabulary") and asked != usual:
            (found[group] if group else found)[name] = asked
    found.optimizer.learning_rate = config.optimizer.learning_rate
    if config.adapt.like:
        found.checkpoint.init = {**found.checkpoint.init, "like": config.adapt.like}
    if config.adapt.only_new:
        freeze_old(found, model, grown)
    return found


def _folder(config: ConfigDict, workdir: str | Path | None) -> Path:
    """Return the folder of the results.

    Raises:
      UserError: neither the config nor a workdir names one, or it is an address.
    """
    if not config.adapt.folder and workdir is None:
        raise UserError("no folder for the adapted model was given", remedy="give a workdir, or set adapt.folder")
    named = config.adapt.folder or f"{str(workdir).rstrip('/')}/{FOLDER}"
    if not is_local(named):  # not in the local copy of a run's workdir
        raise UserError(
            "only a run can adapt a model in a workdir in an object store",
            file=named,
            remedy="use mlm-jax train, or set adapt.folder to a folder of this machine",
        )
    return Path(named).resolve()


def _settings(config: ConfigDict) -> dict[str, Any]:
    """Return the settings on which the results depend."""
    values = config_json(config)
    adapt = {name: values["adapt"][name] for name in ("model", "trim")}
    return {**adapt, "grow": _growth(values)}


def _growth(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``adapt.grow`` with the text of the new language; {} if the vocabulary does not grow."""
    grow, corpora = values["adapt"]["grow"], values["data"]["corpora"]
    return grow and {"text": corpora.get(grow["language"]), **grow}


def _is_made(folder: Path, settings: dict[str, Any]) -> bool:
    """Return whether a folder holds the results of these settings.

    Raises:
      UserError: it holds the results of others, or other files.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    file = folder / SETTINGS
    if not file.is_file():
        raise UserError(
            "this folder is not empty, and was not made for config.adapt",
            file=folder,
            remedy="name another adapt.folder, or remove it",
        )
    found = read_json(file)
    different = differing_keys(found.get("settings", {}), settings) if isinstance(found, dict) else {"": ()}
    if different:
        raise UserError(
            f"the model was adapted with other settings; adapt.* that differ: {', '.join(different)}",
            file=folder,
            remedy="set them back, remove this folder, or use a new workdir",
        )
    return bool(found.get("complete"))


def _make(values: dict[str, Any], folder_name: str) -> list[str]:
    """Make the results in a child process, and return the lines of the reports; nothing is left if they cannot be made."""
    jax.config.update("jax_platforms", "cpu")  # accelerators, if any, belong to the parent process
    config, folder = config_from_json(values), Path(folder_name)
    for part in (MODEL, VOCABULARY):  # of an earlier call that was killed
        shutil.rmtree(folder / part, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    record = {"settings": _settings(config), "complete": False}
    write_whole(folder / SETTINGS, json.dumps(record, indent=1, ensure_ascii=False))
    try:
        lines = _import_trim_grow(config, folder)
    except UserError:
        shutil.rmtree(folder, ignore_errors=True)  # so that a corrected config may use the same workdir
        raise
    write_whole(folder / SETTINGS, json.dumps({**record, "complete": True}, indent=1, ensure_ascii=False))
    return lines


def _import_trim_grow(config: ConfigDict, folder: Path) -> list[str]:
    """Import, trim and grow the model, and return the lines of the reports."""
    lines: list[str] = []
    model: str | Path = config.adapt.model
    if config.adapt.trim:
        lines += trim(model, config.adapt.trim, folder / MODEL).lines()
        model = folder / MODEL
    elif is_published(model):
        model = import_hf(model, folder / MODEL)
    else:
        describe(model)  # raises an error if this is no checkpoint
    if config.adapt.grow:
        options = _growth(config.to_dict())
        language, text = options.pop("language"), options.pop("text")
        old = {code: source for code, source in config.data.corpora.items() if code != language}
        lines += grow(model, language, text, folder / VOCABULARY, old_texts=old, **options).lines()
    return lines
