"""``mlm-jax export-hf``: a checkpoint of ours as a folder that transformers and sentence-transformers load."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from mlm_jax.checkpoints.checkpoint import Loaded, check_arrays, host, load_parameters
from mlm_jax.common.errors import UserError, nearest
from mlm_jax.config.together import longest_row
from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.data.vocabulary.published import TOKENIZER, PublishedVocabulary
from mlm_jax.interop.family import Contents, Facts, Family, move_positions, moved
from mlm_jax.interop.folder import new_folder
from mlm_jax.interop.model_card import write_card
from mlm_jax.interop.sentence_modules import write_json, write_sentence_transformer
from mlm_jax.interop.task_heads import describe as describe_head
from mlm_jax.interop.task_heads import head_for, with_head, without_token_head
from mlm_jax.interop.tensors import SHARD_BYTES, TensorWriter
from mlm_jax.interop.weights import choose_family, write_weights
from mlm_jax.model.lora import merged
from mlm_jax.training.paths import by_path

log = logging.getLogger(__name__)

TASK_HEADS = ("classifiers/", "classifier_transforms/")  # belong to a task, not to the language model
TOKEN_HEAD = ("head/", "output")  # predicts tokens


def export_hf(
    checkpoint: str | Path,
    out: str | Path,
    *,
    family: str = "",
    dtype: str = "float32",
    language: str = "",
    to: str = "",
    task: str = "",
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write a model of ours as a folder of Hugging Face transformers.

    It loads with ``AutoModelForMaskedLM`` (``AutoModelForSeq2SeqLM`` for encoder-decoders), ``AutoModel`` and
    ``AutoTokenizer``, and an encoder as a ``SentenceTransformer`` with the pooling of ``embed``. If the run kept an average
    of the weights, the average is written.

    Args:
      checkpoint: a workdir, or one of its checkpoints.
      out: the new folder, which must not exist yet.
      family: ``model_type`` to write; "": the first family that can express the model.
      dtype: the type of the weights: float32 | bfloat16 | float16.
      language: the language whose token the tokenizer puts before each text, for models whose documents begin with such a token.
      to: the language whose token the decoder's output begins with, for such models;
        ``generate(decoder_start_token_id=…)`` can name another.
      task: the task whose classifier is written as ``…ForSequenceClassification`` or ``…ForTokenClassification``, in place of
        the head that predicts tokens.
      shard_bytes: largest size of one file.

    Returns:
      ``out``.

    Raises:
      UserError: no family (or not the one that is asked for) can express the model, and the message names the keys of
        ``config.model`` that prevent it; or the language is unknown, or the disk is full. Nothing is half-written.
    """
    out = Path(os.path.abspath(out))
    loaded = load_parameters(checkpoint, device=host())
    check_arrays(loaded)
    prefix, start = document_prefix(loaded, language), decoder_start(loaded, to)
    check_types(loaded)
    flat = {path: np.asarray(value) for path, value in by_path(loaded.params).items()}
    if loaded.config.model.lora:
        flat = merged(flat, loaded.config.model.lora)
        loaded.config.model.lora = {}
    facts = Facts(flat["embedding"].shape[0], loaded.languages, special_ids(loaded.vocabulary, start))
    chosen, model, described, base = written_as(loaded, task, facts, family)
    flat = {path: value for path, value in flat.items() if is_written(path, task)}
    if shift := model.position_offset - loaded.config.model.position_offset:
        flat["position_embedding"] = move_positions(flat["position_embedding"], shift)
    with new_folder(out) as scratch:
        # Releases before transformers 5 call it torch_dtype.
        config = {**described, "dtype": dtype, "torch_dtype": dtype}
        if chosen.model_type == "xmod":
            config["default_language"] = language or None
        write_json(scratch / "config.json", config)
        if model.decoder:
            keys = ("pad_token_id", "eos_token_id", "decoder_start_token_id")
            write_json(scratch / "generation_config.json", {key: config[key] for key in keys})
        writer = TensorWriter(scratch, dtype=dtype, shard_bytes=shard_bytes)
        write_weights(writer, chosen, flat, model, loaded.languages, base)
        writer.close()
        write_tokenizer(scratch, loaded.vocabulary, prefix, longest(model), types=model.type_boundary >= 0)
        if not model.decoder and not task:
            write_sentence_transformer(scratch, model.width, longest(model), model.pooling)
        write_card(scratch, loaded, checkpoint, described["architectures"][0], task)
    return out


def is_written(path: str, task: str) -> bool:
    """Return whether a parameter is exported: with a task's head, the parameters of other heads are not."""
    if path.startswith(TASK_HEADS):
        return path.split("/")[1] == task
    return not (task and path.startswith(TOKEN_HEAD))


def written_as(loaded: Loaded, task: str, facts: Facts, wanted: str) -> tuple[Family, Any, dict[str, Any], str]:
    """Return (family, the exported ``config.model``, config.json, prefix of the base model's tensors).

    Args:
      loaded: the checkpoint.
      task: the task whose head is written; "": the head that predicts tokens.
      facts: the size of its vocabulary, its languages and its special ids.
      wanted: a model type; "": the first that fits.

    Raises:
      UserError: no family fits, or the one that fits has no such head; or there is no such task.
    """
    model = loaded.config.model
    if not task:
        if loaded.labels:
            log.warning(
                "the heads of the tasks %s are not exported; name a task to export its head",
                ", ".join(sorted(loaded.labels)),
            )
        family = choose_family(model, facts, wanted)
        model = moved(family, model, facts)
        named = {"architectures": [family.architecture(Contents.of_model(model))], "model_type": family.model_type}
        return family, model, {**named, **family.describe(model, facts)}, ""
    if task not in loaded.labels:
        remedy = f"name one of {', '.join(loaded.labels)}" if loaded.labels else "name no task"
        raise UserError(f"this model has no classifier {task!r}{nearest(task, loaded.labels)}", remedy=remedy)
    options = loaded.config.tasks[task]
    pooling, transform = options.get("pooling", "mean"), options.get("transform", "none")
    body = without_token_head(model)
    family = choose_family(body, facts, wanted)
    head = head_for(family, options["objective"], task, pooling, transform)
    body = moved(family, body, facts)
    config = {
        "architectures": [f"{family.name}{head.suffix}"],
        "model_type": family.model_type,
        **family.describe(body, facts),
        **describe_head(head, options["objective"], loaded.labels[task], pooling),
    }
    return with_head(family, head, task), body, config, family.base


def document_prefix(loaded: Loaded, language: str) -> list[int]:
    """Return the ids that the exported tokenizer puts before a text.

    Raises:
      UserError: the model does not know the language, or its documents do not begin with a language's token.
    """
    kind = loaded.config.data.prefix
    if language and language not in loaded.languages:
        raise UserError(f"the model does not know the language {language!r}{nearest(language, loaded.languages)}")
    if kind == "language" and not language:
        log.warning(
            "this model's documents begin with the token of their language: write one before each text "
            "(%s …), or name a language to export",
            loaded.vocabulary.pieces(list(loaded.vocabulary.language_ids.values())[:1])[0],
        )
        return []
    return loaded.vocabulary.document_prefix(kind, language)


def check_types(loaded: Loaded) -> None:
    """Check that type 1 begins at the second text of a pair, if at all.

    Raises:
      UserError: it begins elsewhere, which a tokenizer cannot express.
    """
    boundary, separator = loaded.config.model.type_boundary, loaded.vocabulary.pair_separator
    if boundary >= 0 and boundary != separator[-1]:
        raise UserError(
            f"model.type_boundary is {boundary}, but the token between two texts is {separator[-1]}, and an exported tokenizer "
            "begins type 1 there",
            remedy="train with model.type_boundary at the separator, or -1",
        )


def decoder_start(loaded: Loaded, to: str) -> int:
    """Return the id that a decoder begins with.

    Raises:
      UserError: the decoder begins with a language's token, but no language is given, or the language is unknown.
    """
    prefix, model = loaded.config.data.prefix, loaded.config.model
    if to and not (model.decoder and prefix == "language"):
        raise UserError(
            f"{to!r} is given as the output language of a decoder, but this model "
            + ("does not depend on it" if model.decoder else "has no decoder"),
            remedy="give no output language",
        )
    if not model.decoder or prefix != "language":
        start = loaded.vocabulary.document_prefix(prefix, "") if prefix == "bos" else []
        return start[0] if start else loaded.vocabulary.pad_id
    if not to:
        raise UserError(
            "this model's decoder begins with the token of its output language, but transformers keeps only one such token",
            remedy=f"give to: one of {', '.join(loaded.languages)}; generate(decoder_start_token_id=…) names others",
        )
    if to not in loaded.languages:
        raise UserError(f"the model does not know the language {to!r}{nearest(to, loaded.languages)}")
    return loaded.vocabulary.document_prefix(prefix, to)[0]


def special_ids(vocabulary: Vocabulary, start: int) -> dict[str, int]:
    """Return the special ids that a config.json names; "start" is the decoder's first token."""
    ids = {role: getattr(vocabulary, f"{role}_id") for role in ("pad", "bos", "eos", "unk", "mask")}
    ids["start"] = start
    return {role: int(index) for role, index in ids.items() if index >= 0}


def longest(model: Any) -> int | None:
    """Return the largest number of tokens of a row; None if positions are relative."""
    return None if model.position == "relative" else longest_row(model)


def write_tokenizer(
    folder: Path, vocabulary: Vocabulary, prefix: list[int], length: int | None, *, types: bool = False
) -> None:
    """Write tokenizer.json and tokenizer_config.json.

    Args:
      folder: the folder of the model.
      vocabulary: the vocabulary of the run.
      prefix: ids before every text.
      length: most tokens of a text; None: no limit.
      types: whether the model reads the numbers by which a tokenizer tells two texts apart (BERT's token types).
    """
    if isinstance(vocabulary, PublishedVocabulary):
        (folder / TOKENIZER).write_text(vocabulary.tokenizer_json, encoding="utf-8")
    else:
        from mlm_jax.interop.tokenizer import to_tokenizers

        to_tokenizers(vocabulary, prefix, [vocabulary.eos_id], types=types).save(str(folder / TOKENIZER))

    def piece(index: int) -> str | None:
        return vocabulary.pieces([index])[0] if index >= 0 else None

    inputs = ["input_ids", *(["token_type_ids"] if types else []), "attention_mask"]
    first = prefix[0] if prefix else vocabulary.bos_id
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": piece(vocabulary.pad_id),
        "bos_token": piece(vocabulary.bos_id),
        "eos_token": piece(vocabulary.eos_id),
        "unk_token": piece(vocabulary.unk_id),
        "cls_token": piece(first),
        "sep_token": piece(vocabulary.eos_id),
        "mask_token": piece(vocabulary.mask_id),
        "model_input_names": inputs,
        "clean_up_tokenization_spaces": False,
        "model_max_length": length,
    }
    write_json(folder / "tokenizer_config.json", {key: value for key, value in config.items() if value is not None})
