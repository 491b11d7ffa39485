"""Save the adapters of a model alone, in a few megabytes, and add them to the model that they were trained on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mlm_jax import model as model_room
from mlm_jax.checkpoints.checkpoint import Loaded, host, load_parameters
from mlm_jax.common.errors import UserError, nearest
from mlm_jax.common.foreign_files import read_json
from mlm_jax.common.seal import sealed, unsealed
from mlm_jax.config.check import check_values
from mlm_jax.interop.folder import new_folder
from mlm_jax.interop.importing import write_workdir
from mlm_jax.interop.sentence_modules import write_json
from mlm_jax.interop.tensors import TensorReader, TensorWriter
from mlm_jax.interop.weights import flat_shapes
from mlm_jax.training.paths import by_path

FACTS, KIND = "adapters.json", "mlm_jax adapters"
HEADS = ("classifiers/", "classifier_transforms/", "uncertainty/", "head/", "output")  # do not affect the encoder
STACKS = ("encoder", "decoder")


def save_adapters(checkpoint: str | Path, out: str | Path, language: str = "") -> Path:
    """Write the adapters of a checkpoint as ``model.safetensors`` with ``adapters.json``.

    Args:
      checkpoint: a workdir, or one of its checkpoints.
      out: the folder to make; must not exist yet.
      language: language whose adapters are written; "" is all.

    Raises:
      UserError: the model has no adapters, or none for this language; or the disk is full.
    """
    loaded = load_parameters(checkpoint, device=host())
    flat = {path: np.asarray(value) for path, value in by_path(loaded.params).items()}
    own = {path: value for path, value in flat.items() if is_adapter(path)}
    if not own:
        raise UserError("this model has no adapters", file=checkpoint, remedy="see `adapter` in model.encoder")
    if language:
        index = language_index(loaded, language)
        own = {path: value[:, index : index + 1] for path, value in own.items()}  # [layers, 1, …]
    facts = {
        "kind": KIND,
        "languages": [language] if language else list(loaded.languages),
        "one_language": bool(language),
        "base": digest(flat),
        "adapters": _checksum(own),
        **{stack: loaded.config.model.to_dict()[stack] for stack in STACKS},
    }
    out = Path(os.path.abspath(out))
    with new_folder(out) as scratch:
        write_json(scratch / FACTS, sealed(facts))
        writer = TensorWriter(scratch)
        for path, value in own.items():
            writer.add(path, value)
        writer.close()
    return out


def load_adapters(base: str | Path, folder: str | Path, out: str | Path) -> Path:
    """Write a workdir with a base model and adapters that were saved alone.

    If one language's adapters are added to a model without adapters, those of the other languages begin as in a new model: their
    last projection is zero, so the outputs for other languages stay as they are.

    Args:
      base: the workdir, or a checkpoint, of the model that the adapters were trained on; it may have other adapters.
      folder: folder that :func:`save_adapters` wrote.
      out: the workdir to make; must not exist yet.

    Raises:
      UserError: the adapters were trained on other weights or languages, or do not fit; nothing is written.
    """
    loaded = load_parameters(base, device=host())
    facts = read_json(Path(folder) / FACTS) if (Path(folder) / FACTS).is_file() else {}
    if not isinstance(facts, dict) or facts.get("kind") != KIND or not _are_facts(facts):
        raise UserError(f"there is no {FACTS} of adapters", file=folder, remedy="write them with mlm-jax adapters")
    flat = {path: np.asarray(value) for path, value in by_path(loaded.params).items()}
    if digest(flat) != facts["base"]:
        raise UserError(
            "these adapters were trained on other weights than this model's", file=folder, remedy=f"not on {base}"
        )
    one_language, known = facts["one_language"], {path: flat[path] for path in flat if is_adapter(path)}
    if not one_language and facts["languages"] != list(loaded.languages):
        raise UserError(f"these adapters are of {', '.join(facts['languages'])}, in this order", file=folder)
    if not one_language or not known:
        _take_groups(loaded.config, facts, folder)
    index = language_index(loaded, facts["languages"][0]) if one_language else 0
    tensors = TensorReader(folder)
    wanted = {path: value.shape for path, value in known.items()} if one_language and known else _shapes(loaded)
    if one_language:
        wanted = {path: (shape[0], 1, *shape[2:]) for path, shape in wanted.items()}  # [layers, 1, …]
    if wanted != tensors.shapes:  # compared before they are read
        raise UserError("these adapters have other shapes than the model's", file=folder)
    given = _read(tensors, facts)
    if one_language:
        own = {path: value.copy() for path, value in (known or _new_adapters(loaded)).items()}
        for path, value in given.items():
            own[path][:, index] = value[:, 0]
        given = own
    out = Path(os.path.abspath(out))
    with new_folder(out) as scratch:
        write_workdir(scratch, loaded.config, loaded.vocabulary, loaded.languages, {**flat, **given}, loaded.labels)
    return out


def _take_groups(config: ConfigDict, facts: Mapping[str, Any], folder: str | Path) -> None:
    """Give the model's layer groups the adapters that the facts of saved adapters describe.

    Raises:
      UserError: they are of other layers, or change the outputs for languages whose adapters are not there.
    """
    for stack in STACKS:
        if list(map(_without_adapter, facts[stack])) != list(map(_without_adapter, config.model[stack])):
            raise UserError(f"these adapters are of another {stack} than the model's", file=folder)
        if facts["one_language"] and any(group.get("adapter_norm") == "reused" for group in facts[stack]):
            raise UserError(
                "these are one language's adapters with a reused norm, so the model needs those of the other languages",
                file=folder,
                remedy="first put the adapters of all languages on it, which mlm-jax adapters writes without --language",
            )
    config.model.update({stack: tuple(facts[stack]) for stack in STACKS})
    check_values(config)


def _shapes(loaded: Loaded) -> dict[str, tuple[int, ...]]:
    """Return {path: shape} of the adapters that the model's config describes."""
    labels = {task: len(names) for task, names in loaded.labels.items()}
    shapes = flat_shapes(loaded.config, loaded.vocabulary.size, loaded.languages, labels)
    return {path: shape for path, shape in shapes.items() if is_adapter(path)}


def _new_adapters(loaded: Loaded) -> dict[str, np.ndarray]:
    """Return the adapters of a new model with this config, by their paths."""

    @jax.jit  # so that no other weights are made
    def create() -> dict[str, jax.Array]:
        _, params = model_room.create(loaded.config, vocabulary_size=loaded.vocabulary.size, languages=loaded.languages)
        return {path: value for path, value in by_path(params).items() if is_adapter(path)}

    return {path: np.asarray(value) for path, value in create().items()}


def _read(tensors: TensorReader, facts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the adapters of a folder, by their paths.

    Raises:
      UserError: the files have changed since they were written. Those of older versions have no checksums and are not checked.
    """
    given = {path: tensors.read(path) for path in tensors}
    try:
        unsealed(facts)
        if facts.get("adapters", checksum := _checksum(given)) != checksum:
            raise ValueError("the adapters have changed since they were written: their checksum differs")
    except ValueError as error:
        raise UserError(str(error), file=tensors.folder, remedy="copy the folder again, or write it again") from error
    return given


def _checksum(parameters: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of parameters and their paths."""
    found = hashlib.sha256()
    for path in sorted(parameters):
        found.update(path.encode() + np.ascontiguousarray(parameters[path], np.float32).tobytes())
    return found.hexdigest()


def _are_facts(facts: Mapping[str, Any]) -> bool:
    languages = facts.get("languages")
    stacks = (facts.get(stack) for stack in STACKS)
    return (
        isinstance(facts.get("base"), str)
        and isinstance(facts.get("one_language"), bool)
        and isinstance(languages, list)
        and bool(languages)
        and all(isinstance(language, str) for language in languages)
        and all(isinstance(groups, list) and all(isinstance(one, dict) for one in groups) for groups in stacks)
    )


def _without_adapter(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a group of layers is without its adapters."""
    return {key: value for key, value in group.items() if not key.startswith("adapter")}


def is_adapter(path: str) -> bool:
    """Return whether a parameter is part of a bottleneck adapter."""
    return "/adapter/" in path


def language_index(loaded: Loaded, language: str) -> int:
    """Return the index of a language's adapters.

    Raises:
      UserError: the model does not know the language, or its adapters are not chosen by the source language alone.
    """
    if language not in loaded.languages:
        raise UserError(f"the model does not know the language {language!r}{nearest(language, loaded.languages)}")
    if not all(_by_source_language(entry) for stack in STACKS for entry in _groups(loaded.config, stack)):
        raise UserError("not all adapters are chosen by the source language", remedy="name no language")
    return loaded.languages.index(language)


def _groups(config: ConfigDict, stack: str) -> list[Mapping[str, Any]]:
    return [entry for entry in config.model[stack] if entry.get("adapter")]


def _by_source_language(entry: Mapping[str, Any]) -> bool:
    weights = entry.get("weights", "shared")
    return weights == "shared" and entry.get("adapter_weights", "source_language") == "source_language"


def digest(flat: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of the base model's parameters: all but adapters and heads."""
    return _checksum(
        {path: value for path, value in flat.items() if not is_adapter(path) and not path.startswith(HEADS)}
    )
