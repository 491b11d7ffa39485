"""The modules of sentence-transformers in a model's folder: how it pools a text's hidden states into one vector."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlm_jax.common.errors import UserError
from mlm_jax.common.files import inside
from mlm_jax.common.foreign_files import read_json

log = logging.getLogger(__name__)

MODULES, SETTINGS, USE = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
POOLING = {"mean": "mean", "cls": "first"}  # {their mode: config.model.pooling}
OLD_MODES = {  # {key of releases before 5: mode}
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def read_pooling(folder: Path, longest: int) -> str:
    """Return ``config.model.pooling`` of a published folder, and warn if its embeddings have further layers than ours.

    Args:
      folder: the folder of the model; without modules.json, pooling is the mean.
      longest: the largest number of tokens that our model takes.

    Raises:
      UserError: a file is damaged, or vectors are pooled in a way that we have no counterpart of.
    """
    if not (folder / MODULES).is_file():
        return "mean"
    modules = read_json(folder / MODULES)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise UserError("this is not a list of modules", file=folder / MODULES)
    pooling = "mean"
    for module in modules:
        kind, path = str(module.get("type")).rpartition(".")[2], str(module.get("path", ""))
        if kind == "Pooling":
            pooling = _pooling(_inside(folder, path) / "config.json")
        elif kind == "Normalize":
            log.warning(
                "left out: %s of %s: embed gives vectors that are not normalised; their cosines are the same",
                kind,
                MODULES,
            )
        elif kind != "Transformer":
            log.warning("left out: %s of %s: embed gives the vectors before this module", kind, MODULES)
    for warning in _differences(folder, longest):
        log.warning("%s", warning)
    return pooling


def _inside(folder: Path, path: str) -> Path:
    """Return the folder of a module.

    Raises:
      UserError: it is not below the folder of the model.
    """
    for part in Path(path).parts:
        folder = inside(folder, part)
    return folder


def _object(file: Path) -> dict[str, Any]:
    """Return the contents of a file of settings; {} if there is none."""
    settings = read_json(file) if file.is_file() else {}
    if not isinstance(settings, dict):
        raise UserError("this is not a JSON object", file=file)
    return settings


def _pooling(file: Path) -> str:
    settings = _object(file)
    modes = settings.get("pooling_mode", [mode for key, mode in OLD_MODES.items() if settings.get(key)])
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or modes not in [[mode] for mode in POOLING]:
        raise UserError(
            f"pooling is {json.dumps(modes)}, for which there is no counterpart here",
            file=file,
            remedy="if embeddings do not matter, remove modules.json from the folder",
        )
    return POOLING[modes[0]]


def _differences(folder: Path, longest: int) -> Iterator[str]:
    """Yield the settings by which ``encode`` of sentence-transformers would give other vectors than our ``embed``."""
    texts, use = _object(folder / SETTINGS), _object(folder / USE)
    most = texts.get("max_seq_length", _object(folder / "tokenizer_config.json").get("model_max_length"))
    if isinstance(most, int) and most < longest:
        yield f"sentence-transformers cuts texts at {most} tokens; embed reads up to {longest}"
    if texts.get("do_lower_case"):
        yield f"do_lower_case of {SETTINGS} is left out: lower the letters of texts before embed"
    prompts, name = use.get("prompts"), use.get("default_prompt_name")
    prompt = prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else None
    if prompt:
        yield f"the prompt {name!r} of {USE} is left out: write {prompt!r} before each text for embed"
    if use.get("truncate_dim"):
        yield f"truncate_dim of {USE} is left out: embed gives all dimensions, not the first {use['truncate_dim']}"


def write_sentence_transformer(folder: Path, width: int, longest: int | None, pooling: str) -> None:
    """Write the modules with which a folder is a ``SentenceTransformer`` whose embeddings are those of ``embed``.

    Args:
      folder: the folder of the model.
      width: the width of a vector.
      longest: most tokens of a text; None if there is no limit.
      pooling: ``config.model.pooling``.
    """
    module = "sentence_transformers.models"
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{module}.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{module}.Pooling"},
    ]
    modes: dict[str, Any] = {key: POOLING.get(mode) == pooling for key, mode in OLD_MODES.items()}
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **modes})
    write_json(folder / MODULES, modules)
    write_json(folder / SETTINGS, {"max_seq_length": longest, "do_lower_case": False})
    write_json(folder / USE, {"similarity_fn_name": "cosine"})


def write_json(file: Path, values: Any) -> None:
    """Write a JSON file for people and libraries to read."""
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
