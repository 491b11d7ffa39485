"""The files of a published tokenizer as one ``tokenizers.Tokenizer`` with the ids that transformers' AutoTokenizer gives.

The tokenizer's class decides the ids of a file's pieces. tokenizer_config.json names the class, which may be of another
family than the model: multilingual MiniLMs are BERTs with XLM-R's tokenizer.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mlm_jax.common.errors import UserError, one_line
from mlm_jax.common.foreign_files import MOST_TOKENIZER, check_file, parse_json, read_json
from mlm_jax.common.quiet import quiet_panics
from mlm_jax.data.vocabulary.pieces import WORD
from mlm_jax.data.vocabulary.proto import MOST_PIECES, model_proto
from mlm_jax.data.vocabulary.published import TOKENIZER, probe
from mlm_jax.interop.tokenizer import template

SENTENCEPIECE, WORDPIECE = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model"), ("vocab.txt",)
ADDED = "added_tokens.json"
# The flags of an added token that its JSON form may carry, with their defaults.
FLAGS = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}


class Source(NamedTuple):
    """The settings from which a tokenizer is built.

    Attributes:
      settings: the settings of tokenizer_config.json and special_tokens_map.json.
      model_type: the ``model_type`` of the model.
      rows: the number of rows of the table of embeddings; all ids are below this.
    """

    settings: Mapping[str, Any]
    model_type: str
    rows: int

    def piece(self, role: str, default: str) -> str:
        """Return the piece that the settings name for a role such as "cls", or the class's own."""
        return content(self.settings.get(f"{role}_token")) or default

    def flag(self, key: str, default: bool | None) -> bool | None:
        """Return a setting that is true or false.

        Raises:
          UserError: the value has another type.
        """
        value = self.settings.get(key, default)
        if value is not None and not isinstance(value, bool):
            raise UserError(f"{key} is {json.dumps(value)}; it must be true or false")
        return value


class TokenizerClass(NamedTuple):
    """A tokenizer class of transformers.

    Attributes:
      files: names of its own files; the first that exists is read.
      model: type of the model in its ``tokenizer.json``.
      read: (file, source) → tokenizer.
      rebuild: (contents of tokenizer.json, its tokenizer, source) → None; sets the parts that the class decides.
    """

    files: tuple[str, ...]
    model: str
    read: Callable[[Path, Source], Tokenizer]
    rebuild: Callable[[Mapping[str, Any], Tokenizer, Source], None]


def content(token: Any) -> str:
    """Return the piece of a token that is given as a text or as an object; "" if it is neither."""
    token = token.get("content") if isinstance(token, Mapping) else token
    return token if isinstance(token, str) else ""


def read_tokenizer(folder: Path, source: Source) -> Tokenizer:
    """Return the tokenizer of a folder.

    Raises:
      UserError: there is none, it cannot be read, its class is unknown here, or its files contradict each other.
    """
    named = source.settings.get("tokenizer_class")
    name = DEFAULT_CLASS.get(source.model_type, "") if named in (None, *GENERIC) else str(named).removesuffix("Fast")
    try:
        with quiet_panics():
            tokenizer = _read(folder, name, CLASSES.get(name), named in GENERIC, source)
            _add(tokenizer, _added_later(folder, source), source.rows)
            probe(tokenizer)
        return tokenizer
    except UserError as error:
        raise UserError(error.problem, file=error.file or folder, remedy=error.remedy) from error
    except Exception as error:  # the library raises nothing more precise
        raise UserError(
            f"the tokenizer cannot be read: {one_line(error)}", file=folder, remedy="download it again"
        ) from error


def _read(folder: Path, name: str, known: TokenizerClass | None, is_generic: bool, source: Source) -> Tokenizer:
    """Return the tokenizer of a folder, without the tokens that were added later.

    Args:
      folder: the folder.
      name: name of the tokenizer's class; "" if it is unknown.
      known: the class, if it is known here.
      is_generic: whether the class is one for which tokenizer.json has everything.
      source: the settings.

    Raises:
      UserError: there is none.
    """
    if (folder / TOKENIZER).is_file():
        return _whole(folder / TOKENIZER, None if is_generic else known, source)
    if known is None:
        raise UserError(
            f"there is no tokenizer: without {TOKENIZER}, ids can be derived from the files of "
            f"{', '.join(CLASSES)} only" + (f", not of {name}" if name else ""),
            remedy=f"write {TOKENIZER} with transformers: AutoTokenizer.from_pretrained(…).save_pretrained(…)",
        )
    found = [file for file in known.files if (folder / file).is_file()]
    if not found:
        raise UserError(
            f"there is no tokenizer: {name} needs {TOKENIZER} or {', '.join(known.files)}",
            remedy="if the files are another class's, name it as tokenizer_class in tokenizer_config.json",
        )
    check_file(folder / found[0], MOST_TOKENIZER)
    return known.read(folder / found[0], source)


def _whole(file: Path, known: TokenizerClass | None, source: Source) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json; the parts that its class decides replace those of the file."""
    check_file(file, MOST_TOKENIZER)
    text = file.read_text(encoding="utf-8")
    described = parse_json(text, file)  # first, since it bounds the memory
    tokenizer = Tokenizer.from_str(text)
    if known:
        model = described["model"]
        if model.get("type", known.model) == known.model and not model.get("byte_fallback"):
            known.rebuild(described, tokenizer, source)
    return tokenizer


# ------------------------------------------------------------------------------------------------------- added tokens


def _added_later(folder: Path, source: Source) -> dict[int, AddedToken]:
    """Return {id: token} of the added tokens, as transformers finds them."""
    found = source.settings.get("added_tokens_decoder")
    if isinstance(found, Mapping):
        return {_id(index): _token(token, f"added_tokens_decoder.{index}") for index, token in found.items()}
    if not (folder / ADDED).is_file():
        return {}
    special = {content(value) for key, value in source.settings.items() if key.endswith("_token")}
    listed = source.settings.get("additional_special_tokens")
    special |= set(map(content, listed)) if isinstance(listed, list) else set()
    added = read_json(folder / ADDED)
    if not isinstance(added, dict):
        raise UserError("this is not a JSON object of pieces and their ids", file=folder / ADDED)
    return {
        _id(index): AddedToken(piece, special=piece in special, normalized=piece not in special)
        for piece, index in added.items()
    }


def _id(index: Any) -> int:
    if isinstance(index, bool) or not (isinstance(index, int) or (isinstance(index, str) and index.isdecimal())):
        raise UserError(f"an added token has the id {json.dumps(index)}, which is not a number")
    return int(index)


def _token(token: Any, name: str) -> AddedToken:
    if not content(token):
        raise UserError(f"{name} is {json.dumps(token)[:60]}; it must be a piece")
    flags = (
        {flag: bool(token.get(flag, default)) for flag, default in FLAGS.items()} if isinstance(token, Mapping) else {}
    )
    special = isinstance(token, str) or bool(token.get("special", False))
    return AddedToken(content(token), special=special, **flags)


def _add(tokenizer: Tokenizer, added: Mapping[int, AddedToken], rows: int) -> None:
    """Add tokens, which must get these ids.

    Raises:
      UserError: the ids are not the next free ones, or are beyond the table of embeddings.
    """
    for index, token in sorted(added.items()):
        if index >= rows:
            raise UserError(
                f"the added token {token.content!r} has the id {index}, but the table of embeddings {rows} rows"
            )
        there, size = tokenizer.token_to_id(token.content), tokenizer.get_vocab_size(with_added_tokens=True)
        if there not in (None, index) or (there is None and index != size):
            raise UserError(
                f"the added token {token.content!r} has the id {index}, but the tokenizer's files make it "
                f"{size if there is None else there}",
                remedy=f"write {TOKENIZER} with transformers: AutoTokenizer.from_pretrained(…).save_pretrained(…)",
            )
        tokenizer.add_tokens([token])


# ------------------------------------------------------------------------------------------------------- the classes


def _spm(file: Path) -> tuple[list[tuple[str, float]], bytes]:
    """Return (piece, score) by id of a unigram SentencePiece model, and its table of normalisation.

    Raises:
      UserError: the model has another type.
    """
    proto = model_proto(file.read_bytes())
    if proto.trainer_spec.model_type != proto.trainer_spec.UNIGRAM:
        raise UserError("this SentencePiece model is not a unigram model, as its tokenizer's class needs", file=file)
    return [(piece.piece, piece.score) for piece in proto.pieces], proto.normalizer_spec.precompiled_charsmap


def _unigram_pipeline(tokenizer: Tokenizer, charsmap: bytes, *, prefix: bool = True) -> None:
    """Set the normalisation and splitting of transformers' unigram classes, which replace those of the file."""
    scheme = "always" if prefix else "never"
    tokenizer.normalizer = normalizers.Precompiled(charsmap) if charsmap else normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement=WORD, prepend_scheme=scheme)]
    )
    tokenizer.decoder = decoders.Metaspace(replacement=WORD, prepend_scheme=scheme)


def _charsmap(described: Mapping[str, Any]) -> bytes:
    normalizer = described.get("normalizer") or {}
    for step in normalizer.get("normalizers", [normalizer]):
        if step.get("type") == "Precompiled":
            return base64.b64decode(step["precompiled_charsmap"])
    return b""


def _fairseq(file: Path, source: Source) -> Tokenizer:
    """Return XLM-R's tokenizer: fairseq's special pieces, then the model's own without <unk> <s> </s>, then <mask>."""
    pieces, charsmap = _spm(file)
    arranged = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces[3:], ("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(arranged, unk_id=3, byte_fallback=False))
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True, normalized=False, special=True)])
    tokenizer.add_tokens([AddedToken(p, normalized=False, special=True) for p in ("<s>", "<pad>", "</s>", "<unk>")])
    _fairseq_around(tokenizer, charsmap, source)
    return tokenizer


def _fairseq_again(described: Mapping[str, Any], tokenizer: Tokenizer, source: Source) -> None:
    _fairseq_around(tokenizer, _charsmap(described), source)


def _fairseq_around(tokenizer: Tokenizer, charsmap: bytes, source: Source) -> None:
    _unigram_pipeline(tokenizer, charsmap, prefix=source.flag("add_prefix_space", True) is not False)
    begin, end = (source.piece(role, default) for role, default in (("bos", "<s>"), ("eos", "</s>")))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[begin, "$A", end],
        pair=[begin, "$A", end, end, "$B", end],
        special_tokens=[(piece, _known(tokenizer, piece)) for piece in (begin, end)],
    )


def _known(tokenizer: Tokenizer, piece: str) -> int:
    """Return the id of a piece.

    Raises:
      UserError: the tokenizer has no such piece.
    """
    index = tokenizer.token_to_id(piece)
    if index is None:
        raise UserError(f"the settings name {piece!r} as a special piece, which the tokenizer does not have")
    return index


def _t5(file: Path, source: Source) -> Tokenizer:
    """Return T5's tokenizer: the pieces of the model, then sentinels, which are numbered from the end."""
    pieces, charsmap = _spm(file)
    extra = source.settings.get("extra_ids", 100 if source.model_type == "t5" else 0)
    if type(extra) is not int or not 0 <= extra <= source.rows:
        raise UserError(
            f"extra_ids is {json.dumps(extra)[:40]}; it must be a number from 0 to {source.rows}, the rows of the table"
        )
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.add_tokens(
        [AddedToken(f"<extra_id_{n}>", normalized=False, special=True) for n in reversed(range(extra))]
    )
    tokenizer.add_tokens([AddedToken(p, normalized=False, special=True) for p in ("<pad>", "</s>", "<unk>")])
    _unigram_pipeline(tokenizer, charsmap)
    tokenizer.post_processor = template(tokenizer, [], [_known(tokenizer, source.piece("eos", "</s>"))])
    return tokenizer


def _t5_again(described: Mapping[str, Any], tokenizer: Tokenizer, source: Source) -> None:
    _unigram_pipeline(tokenizer, _charsmap(described))


def _wordpiece(file: Path, source: Source) -> Tokenizer:
    """Return BERT's tokenizer of a vocab.txt."""
    with file.open(encoding="utf-8") as pieces:
        ids = {piece.rstrip("\n"): index for index, piece in enumerate(itertools.islice(pieces, MOST_PIECES + 1))}
    if len(ids) > MOST_PIECES:
        raise UserError(f"{file.name} has more than {MOST_PIECES:,} pieces", file=file)
    roles = {role: source.piece(role, f"[{role.upper()}]") for role in ("pad", "unk", "cls", "sep", "mask")}
    for role in ("unk", "cls", "sep"):
        if roles[role] not in ids:
            raise UserError(
                f"{file.name} has no piece {roles[role]!r}, the {role}_token",
                file=file,
                remedy=f"name its own in tokenizer_config.json, as {role}_token",
            )
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=roles["unk"]))
    tokenizer.normalizer = normalizers.BertNormalizer(**_bert_rules(source, {}))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    there = [piece for piece in roles.values() if piece in ids]
    tokenizer.add_tokens([AddedToken(piece, normalized=False, special=True) for piece in there])
    cls, sep = roles["cls"], roles["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[cls, "$A", sep],
        pair=[cls, "$A", sep, "$B:1", f"{sep}:1"],
        special_tokens=[(cls, ids[cls]), (sep, ids[sep])],
    )
    return tokenizer


def _wordpiece_again(described: Mapping[str, Any], tokenizer: Tokenizer, source: Source) -> None:
    """Let the settings override the file, as transformers does; other values stay as in the file."""
    rules = described.get("normalizer") or {}
    if rules.get("type") == "BertNormalizer":
        tokenizer.normalizer = normalizers.BertNormalizer(**_bert_rules(source, rules))


def _bert_rules(source: Source, file: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "clean_text": file.get("clean_text", True),
        "handle_chinese_chars": source.flag("tokenize_chinese_chars", file.get("handle_chinese_chars", True)),
        "strip_accents": source.flag("strip_accents", file.get("strip_accents")),
        "lowercase": source.flag("do_lower_case", file.get("lowercase", True)),
    }


BERT = TokenizerClass(WORDPIECE, "WordPiece", _wordpiece, _wordpiece_again)
CLASSES = {
    "XLMRobertaTokenizer": TokenizerClass(SENTENCEPIECE, "Unigram", _fairseq, _fairseq_again),
    "T5Tokenizer": TokenizerClass(SENTENCEPIECE, "Unigram", _t5, _t5_again),
    "MT5Tokenizer": TokenizerClass(SENTENCEPIECE, "Unigram", _t5, _t5_again),
    "BertTokenizer": BERT,
    "DistilBertTokenizer": BERT,
}
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")  # tokenizer.json has everything
DEFAULT_CLASS = {
    "xlm-roberta": "XLMRobertaTokenizer",
    "xmod": "XLMRobertaTokenizer",
    "bert": "BertTokenizer",
    **dict.fromkeys(("t5", "mt5", "umt5"), "T5Tokenizer"),
}
