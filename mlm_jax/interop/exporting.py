"""``mlm-jax export-hf``: a checkpoint of ours as a folder that transformers and sentence-transformers load."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from mlm_jax.checkpoints.checkpoint import Loaded, load_parameters
from mlm_jax.common.errors import UserError, nearest
from mlm_jax.config.together import longest_row
from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.data.vocabulary.published import TOKENIZER, PublishedVocabulary
from mlm_jax.interop.family import Contents, Facts
from mlm_jax.interop.folder import new_folder
from mlm_jax.interop.tensors import SHARD_BYTES, TensorWriter
from mlm_jax.interop.weights import choose_family, write_weights
from mlm_jax.training.paths import by_path

log = logging.getLogger(__name__)

TASK_HEADS = "classifiers/"  # belongs to a task, not to the language model


def export_hf(
    checkpoint: str | Path,
    out: str | Path,
    *,
    family: str = "",
    dtype: str = "float32",
    language: str = "",
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write a model of ours as a folder of Hugging Face transformers.

    It loads with ``AutoModelForMaskedLM`` (``AutoModelForSeq2SeqLM`` for encoder-decoders), ``AutoModel`` and
    ``AutoTokenizer``, and an encoder as a ``SentenceTransformer`` with mean pooling. Where the run kept an average of
    the weights, that is what is written.

    Args:
      checkpoint: a workdir, or one of its checkpoints.
      out: the folder to make; must not exist yet.
      family: ``model_type`` to write; "" is the first that can express the model.
      dtype: of the weights: float32 | bfloat16 | float16.
      language: whose token the tokenizer puts before each text, for models whose documents begin with one.
      shard_bytes: largest size of one file.

    Returns:
      ``out``.

    Raises:
      UserError: no family (or not the one that is wanted) can express the model, and the message says which keys of
        ``config.model`` stand in the way; or the language is unknown, or the disk full. Nothing is half-written.
    """
    out = Path(out).resolve()
    loaded = load_parameters(checkpoint)
    model, vocabulary = loaded.config.model, loaded.vocabulary
    prefix = document_prefix(loaded, language)
    flat = {path: np.asarray(value) for path, value in by_path(loaded.params).items()}
    heads = sorted({path.split("/")[1] for path in flat if path.startswith(TASK_HEADS)})
    if heads:
        log.warning("left out: the heads of the tasks %s", ", ".join(heads))
    flat = {path: value for path, value in flat.items() if not path.startswith(TASK_HEADS)}
    facts = Facts(flat["embedding"].shape[0], loaded.languages, special_ids(vocabulary, prefix))
    chosen = choose_family(model, facts, family)
    with new_folder(out) as scratch:
        config = {
            "architectures": [chosen.architecture(Contents.of_model(model))],
            "model_type": chosen.model_type,
            **chosen.describe(model, facts),
            "dtype": dtype,
            "torch_dtype": dtype,  # how releases before transformers 5 spell it
        }
        if chosen.model_type == "xmod":
            config["default_language"] = language or None
        _write(scratch / "config.json", config)
        if model.decoder:
            keys = ("pad_token_id", "eos_token_id", "decoder_start_token_id")
            _write(scratch / "generation_config.json", {key: config[key] for key in keys})
        writer = TensorWriter(scratch, dtype=dtype, shard_bytes=shard_bytes)
        write_weights(writer, chosen, flat, model, loaded.languages)
        writer.close()
        write_tokenizer(scratch, vocabulary, prefix, longest(model))
        if not model.decoder:
            write_sentence_transformer(scratch, model.width, longest(model))
    return out


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
            "(%s …), or export with --language",
            loaded.vocabulary.pieces(list(loaded.vocabulary.language_ids.values())[:1])[0],
        )
        return []
    return loaded.vocabulary.document_prefix(kind, language)


def special_ids(vocabulary: Vocabulary, prefix: list[int]) -> dict[str, int]:
    """Return the special ids that a config.json names; "start" is what a decoder begins with."""
    ids = {role: getattr(vocabulary, f"{role}_id") for role in ("pad", "bos", "eos", "unk", "mask")}
    ids["start"] = prefix[0] if prefix else vocabulary.pad_id
    return {role: int(index) for role, index in ids.items() if index >= 0}


def longest(model: Any) -> int | None:
    """Return the most tokens that a row may have; None where positions are relative."""
    return None if model.position == "relative" else longest_row(model)


def write_tokenizer(folder: Path, vocabulary: Vocabulary, prefix: list[int], length: int | None) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    if isinstance(vocabulary, PublishedVocabulary):
        (folder / TOKENIZER).write_text(vocabulary.tokenizer_json, encoding="utf-8")
    else:
        from mlm_jax.interop.tokenizer import to_tokenizers

        to_tokenizers(vocabulary, prefix, [vocabulary.eos_id]).save(str(folder / TOKENIZER))
    piece = lambda index: vocabulary.pieces([index])[0] if index >= 0 else None  # noqa: E731
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
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": length,
    }
    _write(folder / "tokenizer_config.json", {key: value for key, value in config.items() if value is not None})


def write_sentence_transformer(folder: Path, width: int, length: int | None) -> None:
    """Write what makes the folder a ``SentenceTransformer`` whose embedding is the mean over real tokens."""
    module = "sentence_transformers.models"
    _write(folder / "modules.json", [
        {"idx": 0, "name": "0", "path": "", "type": f"{module}.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{module}.Pooling"},
    ])  # fmt: skip
    _write(folder / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})
    _write(folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})
    (folder / "1_Pooling").mkdir()
    modes = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False, "pooling_mode_max_tokens": False}
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **modes})


def _write(file: Path, values: Any) -> None:
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
