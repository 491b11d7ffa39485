"""The tokenizer of a published model, in whatever file it comes, as a vocabulary of ours with the same ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mlm_jax.common.errors import UserError
from mlm_jax.data.vocabulary.published import TOKENIZER, PublishedVocabulary
from mlm_jax.interop.tokenizer import from_sentencepiece, sentencepiece_pieces, template

SENTENCEPIECE = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
WORDPIECE = "vocab.txt"
# What tokenizer_config.json calls our special pieces; BERT has no other beginning and end than [CLS] and [SEP].
ROLES = {"pad": ("pad_token",), "bos": ("bos_token", "cls_token"), "eos": ("eos_token", "sep_token"),
         "unk": ("unk_token",), "mask": ("mask_token",)}  # fmt: skip
# What these pieces are called where nobody says.
USUAL = {"pad": ("[PAD]", "<pad>"), "unk": ("[UNK]", "<unk>"), "mask": ("[MASK]", "<mask>")}


def read_vocabulary(folder: Path, model_type: str, rows: int, ids: Mapping[str, int]) -> PublishedVocabulary:
    """Return the vocabulary of a published model.

    Args:
      folder: with ``tokenizer.json``, a SentencePiece model or ``vocab.txt``.
      model_type: decides how ids follow from a SentencePiece model.
      rows: rows of the embedding table.
      ids: special ids that config.json names.

    Raises:
      UserError: there is no tokenizer, it cannot be read, it is of another vocabulary than the weights, or it puts around
        a text what our documents cannot have there.
    """
    config = _json(folder / "tokenizer_config.json")
    config = {**_json(folder / "special_tokens_map.json"), **config}
    tokenizer = _read(folder, model_type, config)
    tokenizer.no_padding()  # what a file says of batches is not part of a text
    tokenizer.no_truncation()
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    if size > rows or smallest_multiple(size, rows) > LARGEST_MULTIPLE:
        problem = f"the tokenizer has {size} pieces, but the model's table of embeddings {rows} rows"
        raise UserError(problem, file=folder, remedy="use the tokenizer that the model was trained with")
    known = {role: index for role, index in ids.items() if index < size and tokenizer.id_to_token(index)}
    for role, names in ROLES.items():
        pieces = [config[name] for name in names if config.get(name)]
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
            f"the tokenizer writes {written[0]} before a text and {written[1]} after it; here a document begins with one token "
            "or none, and ends with one", file=folder, remedy="give it a template such as '$A </s>', if the model can do with it",
        )  # fmt: skip
    if before:
        known["bos"] = before[0]
    known["eos"] = after[0]
    return PublishedVocabulary(tokenizer.to_str(), known)


# Tables of embeddings are rounded up to multiples of 8, 64 or 128 (mT5: 250,100 to 250,112); a tokenizer that is
# smaller by more than this is another model's.
LARGEST_MULTIPLE = 1024


def smallest_multiple(size: int, rows: int) -> int:
    """Return the smallest m for which ``size`` rounded up to a multiple of m is ``rows``."""
    return next(m for m in range(1, rows + 1) if -(-size // m) * m == rows)


def around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer puts before and after a text, whatever special pieces it has a name for."""
    # A vocabulary of another script has nothing for "a", and no unknown piece perhaps: then a text of one of its own.
    for text in ("a", *map(tokenizer.decode, ([index] for index in tokenizer.get_vocab().values()))):
        found = tokenizer.encode(text, add_special_tokens=True)
        inside = [position for position, mark in enumerate(found.special_tokens_mask) if not mark]
        if inside:
            return found.ids[: inside[0]], found.ids[inside[-1] + 1 :]
    return [], []


def _json(file: Path) -> dict[str, Any]:
    """Return what a file says, special pieces as texts; {} where there is none."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"this is not JSON: {error}", file=file, remedy="download it again") from error
    if not isinstance(found, dict):
        raise UserError(f"this is no JSON object, but begins with {str(found)[:20]}", file=file, remedy="download it again")
    for name in [name for names in ROLES.values() for name in names if found.get(name)]:
        piece = found[name]["content"] if isinstance(found[name], dict) and "content" in found[name] else found[name]
        if not isinstance(piece, str):
            raise UserError(f"{name} is {json.dumps(piece)}, where a piece belongs", file=file)
        found[name] = piece
    return found


def _read(folder: Path, model_type: str, config: Mapping[str, Any]) -> Tokenizer:
    try:
        if (folder / TOKENIZER).is_file():
            return Tokenizer.from_file(str(folder / TOKENIZER))
        for name in SENTENCEPIECE:
            if (folder / name).is_file():
                return _sentencepiece((folder / name).read_bytes(), model_type, config)
        if (folder / WORDPIECE).is_file():
            return _wordpiece(folder / WORDPIECE, config)
    except UserError as error:
        raise UserError(error.problem, file=folder) from error
    except Exception as error:  # the libraries raise nothing more precise
        raise UserError(f"the tokenizer cannot be read: {error}", file=folder, remedy="download it again") from error
    raise UserError("there is no tokenizer", file=folder,
                    remedy=f"it needs {TOKENIZER}, {', '.join(SENTENCEPIECE)} or {WORDPIECE}")  # fmt: skip


def _sentencepiece(model: bytes, model_type: str, config: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer that transformers makes of a SentencePiece model of this family."""
    pieces = sentencepiece_pieces(model)
    if model_type in ("xlm-roberta", "xmod"):
        # fairseq's dictionary: its own special pieces first, then the model's without <unk> <s> </s>, then <mask>.
        arranged = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces[3:], ("<mask>", 0.0)]
        tokenizer = from_sentencepiece(model, pieces=arranged, unk_id=3)
        special, before = ["<s>", "<pad>", "</s>", "<unk>"], [0]  # by id
        tokenizer.add_tokens([AddedToken("<mask>", lstrip=True, normalized=False, special=True)])
    else:
        tokenizer = from_sentencepiece(model)
        extra = config.get("extra_ids", 100 if model_type == "t5" else 0)
        special, before = ["<pad>", "</s>", "<unk>"], []  # by id
        # T5 numbers its sentinels from the end of the vocabulary.
        tokenizer.add_tokens(
            [AddedToken(f"<extra_id_{n}>", normalized=False, special=True) for n in reversed(range(extra))]
        )
    tokenizer.add_tokens([AddedToken(piece, normalized=False, special=True) for piece in special])
    tokenizer.post_processor = template(tokenizer, before, [special.index("</s>")])
    return tokenizer


def _wordpiece(file: Path, config: Mapping[str, Any]) -> Tokenizer:
    """Return BERT's tokenizer of a vocab.txt."""
    ids = {piece.rstrip("\n"): index for index, piece in enumerate(file.open(encoding="utf-8"))}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_tokens(
        [AddedToken(p, normalized=False, special=True) for p in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")]
    )
    cls, sep = ids["[CLS]"], ids["[SEP]"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
    )
    return tokenizer
