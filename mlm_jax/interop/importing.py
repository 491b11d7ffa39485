"""``mlm-jax import-hf``: a published model as a checkpoint of ours, its vocabulary, and a config that continues its training."""

from __future__ import annotations

import logging
import os
import pprint
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict
from tokenizers import Tokenizer

from mlm_jax.checkpoints.saving import Checkpoints
from mlm_jax.checkpoints.workdir import claim_workdir
from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.config.together import longest_row
from mlm_jax.interop.folder import local_folder, new_folder
from mlm_jax.interop.model_card import HUB_NAME, write_source
from mlm_jax.interop.published_tokenizer import around, read_vocabulary, reads_types, smallest_multiple
from mlm_jax.interop.sentence_modules import read_pooling
from mlm_jax.interop.weights import Published, flat_shapes

log = logging.getLogger(__name__)

UNDETERMINED = ("und",)  # ISO 639's code for undetermined, if the languages of a model are unknown
VOCABULARY, RECIPE = "vocabulary", "config.py"
TOKENS_PER_SENTINEL = 20  # of a row for denoising: 15 % of the tokens are in spans of 3
IN_FLIGHT = 200_000_000  # bytes that are copied at once while the checkpoint is written; at least the largest array


def import_hf(
    source: str | Path, out: str | Path, *, languages: tuple[str, ...] = (), allow_nonfinite: bool = False
) -> Path:
    """Turn a model of Hugging Face transformers into a workdir of ours.

    The workdir holds a checkpoint that every verb takes, the vocabulary, and ``config.py``, which continues the model's
    training once its ``data`` names text.

    Args:
      source: a folder with config.json, safetensors and a tokenizer, or a name on the Hugging Face Hub.
      out: the new workdir, which must not exist yet.
      languages: codes of the model's languages; a model with language-indexed weights names its own.
      allow_nonfinite: import weights that are NaN or infinite as they are.

    Returns:
      ``out``.

    Raises:
      UserError: a part of ``source`` is missing, damaged, contradictory or has no counterpart; the message names it, and
        nothing is written.
    """
    out = Path(os.path.abspath(out))
    published = Published(local_folder(source), finite=not allow_nonfinite)
    facts = published.facts
    if languages and facts.languages:
        raise UserError(f"the model names its own languages: {', '.join(facts.languages)}", remedy="name no languages")
    languages = facts.languages or languages or UNDETERMINED
    for code in languages:
        if languages.count(code) > 1 or code.split() != [code]:
            problem = "is named twice" if languages.count(code) > 1 else "has white space, or no letters"
            where = published.folder / "config.json" if facts.languages else None
            raise UserError(f"language {code!r} {problem}", file=where, remedy="codes are such as de,en")
    vocabulary = read_vocabulary(published.folder, published.family.model_type, facts.rows, facts.ids)
    config = imported_config(published, vocabulary)
    labels = {published.task["objective"]: published.labels} if published.task else {}
    with new_folder(out) as scratch:
        try:
            shapes = flat_shapes(
                config, vocabulary.size, languages, {task: len(names) for task, names in labels.items()}
            )
        except UserError as error:  # the model cannot be built from the values of config.json
            raise UserError(error.problem, file=published.folder / "config.json") from error
        flat = published.params(shapes, config.model, languages)
        (scratch / RECIPE).write_text(recipe(config, str(source)), encoding="utf-8")
        write_source(scratch, str(source), Path(source).is_dir())
        write_workdir(scratch, config, vocabulary, languages, flat, labels)
    return out


def is_published(source: str | Path) -> bool:
    """Return whether ``source`` is a model as :func:`import_hf` takes it, and not a workdir or a checkpoint of ours."""
    path = Path(source)
    if path.is_dir():
        return any(path.glob("*.safetensors")) and not (path / "checkpoints").is_dir()
    return bool(HUB_NAME.fullmatch(str(source)))


def write_workdir(
    workdir: Path,
    config: ConfigDict,
    vocabulary: Any,
    languages: tuple[str, ...],
    flat: dict[str, np.ndarray],
    labels: Mapping[str, tuple[str, ...]] = {},
) -> None:
    """Write a workdir with a vocabulary, a config that names it, and parameters as checkpoint 0.

    Args:
      workdir: the folder.
      config: config of the model; its ``vocabulary`` is set here.
      vocabulary: the vocabulary.
      languages: language codes in index order.
      flat: {path: array}, which is emptied meanwhile, so that no array is held twice.
      labels: {task: names of its classes}.
    """
    vocabulary.save(workdir / VOCABULARY)
    config.vocabulary.update(path=str(workdir / VOCABULARY), size=vocabulary.size)
    claim_workdir(workdir, config)
    host = jax.local_devices(backend="cpu")[0]
    largest = max(value.nbytes for value in flat.values())
    # One after the other: copies run in the background, and until they are done, both copies are in memory.
    held = {path: jax.device_put(flat.pop(path), host).block_until_ready() for path in list(flat)}
    checkpoints = Checkpoints(
        workdir, config, vocabulary, languages, labels=labels, in_flight=max(1.1 * largest, IN_FLIGHT) / 1e9
    )
    checkpoints.save(0, {"params": unflatten_dict(held, sep="/")})
    checkpoints.wait()
    checkpoints.manager.close()


def imported_config(published: Published, vocabulary: Any) -> ConfigDict:
    """Return the config of an imported model: the defaults, with its model, its pieces and the first token of its documents.

    Raises:
      UserError: the decoder begins with another token than ours would.
    """
    before, _ = around(Tokenizer.from_str(vocabulary.tokenizer_json))
    config = default_config()
    config.model.update(published.settings)
    if config.model.embedding_types > 1 and vocabulary.tells_pairs_apart and reads_types(published.folder):
        config.model.type_boundary = vocabulary.pair_separator[-1]
    config.model.vocabulary_multiple = smallest_multiple(vocabulary.size, published.facts.rows)
    config.vocabulary.size = vocabulary.size
    config.data.prefix = "bos" if before else "none"
    room = longest_row(config.model)
    config.model.pooling = read_pooling(published.folder, room)
    config.tasks = {task: {**entry, "length": min(entry["length"], room)} for task, entry in config.tasks.items()}
    if config.model.decoder:
        check_decoder_start(published, vocabulary, before)
        length = min(568, TOKENS_PER_SENTINEL * vocabulary.sentinels)
        denoising = {"objective": "denoising", "rows": 64, "length": length, "weight": 1.0}
        translation = {"objective": "translation", "rows": 32, "length": 128, "weight": 1.0}  # needs no sentinels
        config.tasks = {"denoising": denoising} if vocabulary.sentinels else {"translation": translation}
    elif vocabulary.mask_id < 0:  # without a mask piece: the task is to find translations of sentences
        config.tasks = {"ranking": {"objective": "ranking", "rows": 64, "length": min(128, room), "weight": 1.0}}
    if published.task:
        name = published.task["objective"]
        config.tasks = {name: {**published.task, "length": min(published.task["length"], room)}}
    elif not published.contents.head and not config.model.decoder:
        log.warning(
            "the files have no head that predicts tokens: guesses of fill-mask are random until "
            "the model is trained further"
        )
    return config


def check_decoder_start(published: Published, vocabulary: Any, before: list[int]) -> None:
    """Check that the decoder begins as ours does: with the token before a text, or with padding if there is none.

    Raises:
      UserError: the decoder begins with another token.
    """
    ours, theirs = before[0] if before else vocabulary.pad_id, published.config.get("decoder_start_token_id")
    if ours != (vocabulary.pad_id if theirs is None else theirs):
        raise UserError(
            f"decoder_start_token_id is {theirs}, but a decoder here would begin with {ours}, "
            + ("which the tokenizer writes before a text" if before else "which is padding"),
            file=published.folder / "config.json",
        )


def recipe(config: ConfigDict, source: str) -> str:
    """Return the text of a config file that continues the training of an imported model.

    Values from outside, such as names of folders and values of a published config.json, are written as literals, so that
    they cannot become code.

    Args:
      config: the config of the model.
      source: the imported folder or name.
    """
    default = default_config().model
    changed = {key: value for key, value in config.model.items() if value != default[key]}
    settings = "".join(f"        {key}={_literal(value)},\n" for key, value in changed.items())
    return f'''"""Continues the training of a published model on the text that config.data names.

    mlm-jax train --config THIS_FILE --workdir WORKDIR --set "data.corpora={{'de': 'text/de/*.txt'}}"
"""

from pathlib import Path

from mlm_jax.config import default_config

SOURCE = {source!r}  # where the model came from
IMPORTED = str(Path(__file__).resolve().parent)  # this folder may be moved


def get_config():
    config = default_config()
    config.data.corpora = {{}}  # {{language: files}}: the text to train on
    config.data.prefix = {config.data.prefix!r}  # the first token of this model's documents
    config.vocabulary.path = f"{{IMPORTED}}/{VOCABULARY}"
    config.vocabulary.size = {config.vocabulary.size}
    config.checkpoint.init = {{"from": IMPORTED}}
    config.tasks = {_literal(config.tasks)}
    config.model.update(
{settings}    )
    config.optimizer.learning_rate = 1e-4  # a trained model needs a lower rate than a new one
    return config
'''


def _literal(value: Any) -> str:
    plain = value.to_dict() if isinstance(value, ConfigDict) else value
    return pprint.pformat(plain, width=100, sort_dicts=False, compact=True)
