"""The tokenizer of a published model, from any of its file formats, as a vocabulary of ours with the same ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mlm_jax.common.errors import UserError
from mlm_jax.common.foreign_files import read_json
from mlm_jax.data.vocabulary.published import MOST_IDS, PublishedVocabulary
from mlm_jax.interop.tokenizer_files import Source, content, read_tokenizer

# Names of our special pieces in tokenizer_config.json; BERT's beginning and end are [CLS] and [SEP].
ROLES = {
    "pad": ("pad_token",),
    "bos": ("bos_token", "cls_token"),
    "eos": ("eos_token", "sep_token"),
    "unk": ("unk_token",),
    "mask": ("mask_token",),
}
# Names of these pieces if no file names them.
USUAL = {"pad": ("[PAD]", "<pad>"), "unk": ("[UNK]", "<unk>"), "mask": ("[MASK]", "<mask>")}
# Tables of embeddings may have rows beyond the tokenizer's pieces: they are rounded up to multiples of 8, 64 or 128 (mT5:
# 250,100 to 250,112) or were never filled (multilingual MiniLMs: 250,002 of 250,037). A tokenizer that is smaller by more
# than this belongs to another model.
UNUSED_ROWS = 1024


def read_vocabulary(folder: Path, model_type: str, rows: int | None, ids: Mapping[str, int]) -> PublishedVocabulary:
    """Return the vocabulary of a published model.

    Args:
      folder: a folder with ``tokenizer.json``, a SentencePiece model or ``vocab.txt``.
      model_type: decides how ids follow from a file if no tokenizer class is named.
      rows: rows of the embedding table; None if there is no model that the tokenizer should fit.
      ids: special ids that config.json names.

    Raises:
      UserError: there is no tokenizer, it cannot be read, it does not fit the weights, or it puts tokens around a text that our
        documents cannot have there.
    """
    settings = {**_settings(folder / "special_tokens_map.json"), **_settings(folder / "tokenizer_config.json")}
    tokenizer = read_tokenizer(folder, Source(settings, model_type, MOST_IDS if rows is None else rows))
    tokenizer.no_padding()  # truncation and padding of batches are not part of a text
    tokenizer.no_truncation()
    known_ids = tokenizer.get_vocab(with_added_tokens=True).values()
    if not known_ids:
        raise UserError("the tokenizer has no pieces", file=folder, remedy="download it again")
    size = max(known_ids) + 1
    if rows is not None and not size <= rows <= size + UNUSED_ROWS:
        problem = f"the tokenizer has {size} pieces, but the model's table of embeddings {rows} rows"
        raise UserError(problem, file=folder, remedy="use the tokenizer that the model was trained with")
    known = {role: index for role, index in ids.items() if index < size and tokenizer.id_to_token(index)}
    for role, names in ROLES.items():
        pieces = [content(settings[name]) for name in names if settings.get(name)]
        found = [index for piece in pieces if (index := tokenizer.token_to_id(piece)) is not None]
        usual = [index for piece in USUAL.get(role, ()) if (index := tokenizer.token_to_id(piece)) is not None]
        if found:
            known[role] = found[0]
        elif usual:
            known.setdefault(role, usual[0])
    before, after = around(tokenizer)
    if len(before) > 1 or len(after) != 1:
        written = [" ".join(map(str, map(tokenizer.id_to_token, ids))) or "nothing" for ids in (before, after)]
        raise UserError(
            f"the tokenizer writes {written[0]} before a text and {written[1]} after it; here a document begins with one "
            "token or none, and ends with one",
            file=folder,
            remedy="give it a template such as '$A </s>', if the model can do with it",
        )
    if before:
        known["bos"] = before[0]
    known["eos"] = after[0]
    return PublishedVocabulary(tokenizer.to_str(), known)


def reads_types(folder: Path) -> bool:
    """Return whether the model gets the types that its tokenizer writes; a tokenizer_config.json may leave them out."""
    names = _settings(folder / "tokenizer_config.json").get("model_input_names")
    return names is None or "token_type_ids" in names


def smallest_multiple(size: int, rows: int) -> int:
    """Return the smallest m for which ``size`` rounded up to a multiple of m is ``rows``."""
    return next(m for m in range(1, rows + 1) if -(-size // m) * m == rows)


def around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer puts before and after a text."""
    # A vocabulary of another script may have no piece for "a" and no unknown piece: then the text is one of its pieces.
    for text in ("a", *map(tokenizer.decode, ([index] for index in tokenizer.get_vocab().values()))):
        found = tokenizer.encode(text, add_special_tokens=True)
        inside = [position for position, mark in enumerate(found.special_tokens_mask) if not mark]
        if inside:
            return found.ids[: inside[0]], found.ids[inside[-1] + 1 :]
    return [], []


def _settings(file: Path) -> dict[str, Any]:
    """Return the contents of a file of settings; {} if there is none.

    Raises:
      UserError: it is not a JSON object, or the value of a special piece is not a piece.
    """
    if not file.is_file():
        return {}
    found = read_json(file)
    if not isinstance(found, dict):
        raise UserError(
            f"this is not a JSON object, but begins with {str(found)[:20]}", file=file, remedy="download it again"
        )
    for name in [name for names in ROLES.values() for name in names if found.get(name)]:
        if not content(found[name]):
            raise UserError(f"{name} is {json.dumps(found[name])[:60]}; it must be a piece", file=file)
    return found
