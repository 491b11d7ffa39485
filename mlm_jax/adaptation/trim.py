"""``mlm-jax trim``: remove the pieces that a user's text does not need from a vocabulary, and their rows from the model.

The tokens of this text do not change, so the encoder's outputs for it stay the same bit for bit:

- Unigram: the best segmentation uses only pieces that are kept, and remains the best among fewer segmentations. The piece with the
  lowest score is kept as well, since the score of unknown characters depends on it.
- BPE: a piece is kept with the pieces that it is merged from. Other merges never occur in the text.
- WordPiece: the longest match is kept, and no longer piece is added.

Special pieces, bytes, added tokens, and single characters of the text are always kept, so that other text of the same languages can
still be spelled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

from mlm_jax.common.errors import UserError
from mlm_jax.data.vocabulary.pieces import BYTE, WORD, Vocabulary
from mlm_jax.data.vocabulary.proto import model_proto
from mlm_jax.data.vocabulary.published import PublishedVocabulary

ROWS = ("embedding", "output", "output_bias")  # parameters with a row for each piece
BATCH = 1000  # documents that are encoded at a time


class Trimmed(NamedTuple):
    """A smaller vocabulary.

    Attributes:
      vocabulary: the new one.
      kept: ``[new pieces]`` int64, the old id of each piece.
      tokens: number of tokens of the text, the same in both vocabularies.
      words: number of words of the text, which white space separates.
    """

    vocabulary: Vocabulary
    kept: np.ndarray
    tokens: int
    words: int


def trim_vocabulary(vocabulary: Vocabulary, texts: Iterable[str]) -> Trimmed:
    """Keep the pieces that a text needs, in their order, and check that its tokens do not change.

    Args:
      vocabulary: vocabulary of any kind but bytes.
      texts: documents of all languages for which the model will be used.

    Raises:
      UserError: the vocabulary is of bytes or of an unknown kind, or there is no text.
    """
    if vocabulary.is_bytes:
        raise UserError("a vocabulary of bytes has no pieces to spare", remedy="use the model as it is")
    documents = [text for text in texts if text.strip()]
    if not documents:
        raise UserError("there is no text that would need any piece", remedy="give text of the languages to keep")
    used = np.zeros(vocabulary.size, bool)
    tokens = 0
    for start in range(0, len(documents), BATCH):
        for ids in vocabulary.encode_batch(documents[start : start + BATCH]):
            used[ids] = True
            tokens += len(ids)
    pieces = vocabulary.pieces(range(vocabulary.size))
    characters = set().union(*documents)
    used |= vocabulary.is_special
    if vocabulary.is_byte_level:
        characters |= {*ByteLevel.alphabet()}  # which stand for the bytes
    for index, piece in enumerate(pieces):
        if BYTE.fullmatch(piece) or piece.removeprefix("##").removeprefix(WORD) in characters or piece == WORD:
            used[index] = True
    trimmed: Vocabulary
    if isinstance(vocabulary, PublishedVocabulary):
        trimmed, keep = _published(vocabulary, used)
    else:
        trimmed, keep = _sentencepiece(vocabulary, used)
    kept = np.flatnonzero(keep)
    if trimmed.pieces(range(trimmed.size)) != [pieces[index] for index in kept]:
        raise UserError("this vocabulary cannot be trimmed: its pieces would get other ids than their rows")
    for start in range(0, len(documents), BATCH):
        part = documents[start : start + BATCH]
        for text, old, new in zip(part, vocabulary.encode_batch(part), trimmed.encode_batch(part)):
            if kept[new].tolist() != old:
                raise UserError(
                    f"this vocabulary cannot be trimmed: it would cut a text otherwise than before: {text[:60]!r}"
                )
    return Trimmed(trimmed, kept, tokens, sum(len(text.split()) for text in documents))


def trim_parameters(flat: Mapping[str, Any], kept: np.ndarray) -> dict[str, np.ndarray]:
    """Return parameters with the rows of the pieces that are kept.

    Args:
      flat: {path: array}.
      kept: ``[new pieces]``, the old id of each.
    """
    return {path: np.asarray(value)[kept] if path in ROWS else np.asarray(value) for path, value in flat.items()}


# ------------------------------------------------------------------------------------------------ tokenizer.json


def _published(vocabulary: PublishedVocabulary, used: np.ndarray) -> tuple[PublishedVocabulary, np.ndarray]:
    """Return the smaller vocabulary, and ``[old pieces]`` bool: which of them it has."""
    described = json.loads(vocabulary.tokenizer_json)
    model = described["model"]
    for token in described.get("added_tokens") or ():
        used[token["id"]] = True
    keep = {"Unigram": _keep_unigram, "BPE": _keep_bpe, "WordPiece": _keep_wordpiece}.get(model.get("type"))
    if keep is None:
        raise UserError(f"a tokenizer of type {model.get('type')!r} cannot be trimmed")
    used |= keep(model, used)
    if isinstance(model["vocab"], dict):  # an id that no piece has would have no name
        there = np.zeros(len(used), bool)
        there[[*model["vocab"].values(), *(token["id"] for token in described.get("added_tokens") or ())]] = True
        used &= there
    new = np.where(used, used.cumsum() - 1, -1)  # [old pieces] → new id
    if isinstance(model["vocab"], dict):
        model["vocab"] = {piece: int(new[index]) for piece, index in model["vocab"].items() if used[index]}
        if "merges" in model:
            model["merges"] = [
                merge for merge in map(_pair, model["merges"]) if {*merge, "".join(merge)} <= model["vocab"].keys()
            ]
    else:
        model["vocab"] = [entry for entry, keeping in zip(model["vocab"], used) if keeping]
        model["unk_id"] = None if model.get("unk_id") is None else int(new[model["unk_id"]])
    for token in described.get("added_tokens") or ():
        token["id"] = int(new[token["id"]])
    _renumber(described.get("post_processor"), new)
    described["padding"] = described["truncation"] = None
    ids = {role: int(new[index]) for role, index in vocabulary.ids.items()}
    return PublishedVocabulary(json.dumps(described, ensure_ascii=False), ids, vocabulary.languages), used


def _pair(merge: str | list[str]) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else merge


def _keep_unigram(model: Mapping[str, Any], used: np.ndarray) -> np.ndarray:
    """Return other ids to keep: the piece with the lowest score, and the unknown piece."""
    keep = np.zeros(len(used), bool)
    keep[int(np.argmin([score for _, score in model["vocab"]]))] = True
    if model.get("unk_id") is not None:
        keep[model["unk_id"]] = True
    return keep


def _keep_bpe(model: Mapping[str, Any], used: np.ndarray) -> np.ndarray:
    """Return other ids to keep: the pieces that used pieces are merged from, and the unknown piece."""
    ranks = {tuple(_pair(merge)): rank for rank, merge in enumerate(model["merges"])}
    keep = np.zeros(len(used), bool)
    for piece, index in model["vocab"].items():
        if used[index]:
            for part in merged_from(piece, lambda a, b: ranks.get((a, b))):
                if part in model["vocab"]:
                    keep[model["vocab"][part]] = True
    if model.get("unk_token") in model["vocab"]:
        keep[model["vocab"][model["unk_token"]]] = True
    return keep


def _keep_wordpiece(model: Mapping[str, Any], used: np.ndarray) -> np.ndarray:
    keep = np.zeros(len(used), bool)
    keep[model["vocab"][model["unk_token"]]] = True
    return keep


def merged_from(piece: str, rank: Any) -> set[str]:
    """Return the pieces that occur while BPE merges the characters of a piece.

    Args:
      piece: the piece.
      rank: function of (left, right) that returns the rank of their merge, lowest first, or None.
    """
    parts, seen = list(piece), set(piece)
    while len(parts) > 1:
        ranks = [rank(a, b) for a, b in zip(parts, parts[1:])]
        known = [value for value in ranks if value is not None]
        if not known:
            break
        index = ranks.index(min(known))
        parts[index : index + 2] = ["".join(parts[index : index + 2])]
        seen.add(parts[index])
    return seen


def _renumber(processor: Any, new: np.ndarray) -> None:
    """Give the special pieces of a post-processor their new ids."""
    if not isinstance(processor, dict):
        return
    for inner in processor.get("processors", ()):
        _renumber(inner, new)
    for entry in (processor.get("special_tokens") or {}).values():
        entry["ids"] = [int(new[index]) for index in entry["ids"]]
    for side in ("sep", "cls"):
        if isinstance(processor.get(side), list):
            processor[side][1] = int(new[processor[side][1]])


# ------------------------------------------------------------------------------------------------ SentencePiece


def _sentencepiece(vocabulary: Vocabulary, used: np.ndarray) -> tuple[Vocabulary, np.ndarray]:
    """Return the smaller vocabulary, and ``[old pieces]`` bool: which of them it has."""
    assert vocabulary.model is not None
    proto = model_proto(vocabulary.model)
    entries = list(proto.pieces)
    normal = [index for index, entry in enumerate(entries) if entry.type == entry.NORMAL]
    keep = used[: len(entries)].copy()
    keep[[index for index, entry in enumerate(entries) if entry.type != entry.NORMAL]] = True
    if proto.trainer_spec.model_type == proto.trainer_spec.BPE:
        scores = {entries[index].piece: entries[index].score for index in normal}
        at = {entries[index].piece: index for index in normal}

        def rank(left: str, right: str) -> float | None:
            score = scores.get(left + right)
            return None if score is None else -score

        for index in [index for index in normal if keep[index]]:
            keep[[at[part] for part in merged_from(entries[index].piece, rank) if part in at]] = True
    elif proto.trainer_spec.model_type == proto.trainer_spec.UNIGRAM:
        keep[min(normal, key=lambda index: entries[index].score)] = True
    else:
        raise UserError("only unigram and BPE models of SentencePiece can be trimmed")
    del proto.pieces[:]
    proto.pieces.extend(entry for entry, keeping in zip(entries, keep) if keeping)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    new = keep.cumsum() - 1
    for role in ("unk_id", "bos_id", "eos_id", "pad_id"):
        index = getattr(proto.trainer_spec, role)
        if 0 <= index < len(entries):
            setattr(proto.trainer_spec, role, int(new[index]))
    appended = np.ones(vocabulary.size - len(entries), bool)  # special pieces that the model lacks
    return Vocabulary(proto.SerializeToString(), vocabulary.languages, vocabulary.sentinels), np.append(keep, appended)
