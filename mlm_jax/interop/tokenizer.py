"""SentencePiece models and byte vocabularies as ``tokenizer.json`` of the tokenizers library, with the same ids.

The JSON encodes like :meth:`mlm_jax.data.vocabulary.pieces.Vocabulary.encode_special`: special pieces in the text are their
tokens, and the text between them is encoded separately, without spaces at its ends.
"""

from __future__ import annotations

from typing import Any

from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mlm_jax.common.errors import UserError
from mlm_jax.data.vocabulary.pieces import BYTES, WORD, Vocabulary

UNIGRAM, BPE = 1, 2  # TrainerSpec.ModelType


def to_tokenizers(vocabulary: Vocabulary, prefix: list[int], suffix: list[int], *, types: bool = False) -> Tokenizer:
    """Return a tokenizer with the ids of a vocabulary.

    Args:
      vocabulary: a vocabulary of SentencePiece or of bytes.
      prefix: ids put before every text.
      suffix: ids put after every text.
      types: whether the second text of a pair has type 1.

    Raises:
      UserError: the SentencePiece model has a type without counterpart.
    """
    tokenizer = _bytes(vocabulary) if vocabulary.model is None else from_sentencepiece(vocabulary.model)
    tokenizer.add_tokens(
        [
            # Spaces around a special piece are not part of the text before or after it.
            AddedToken(piece, special=True, normalized=False, lstrip=True, rstrip=True)
            for index, piece in enumerate(vocabulary.pieces(range(vocabulary.size)))
            if vocabulary.is_special[index]
        ]
    )
    tokenizer.post_processor = template(tokenizer, prefix, suffix, types=types)
    return tokenizer


def template(
    tokenizer: Tokenizer, prefix: list[int], suffix: list[int], *, types: bool = False
) -> processors.PostProcessor:
    """Return the post-processor that puts ids before and after each text, and around both texts of a pair.

    Type 1 would be outside the table of types of most models, so ``types`` says whether the second text has it.
    """
    second = ":1" if types else ""
    pieces = {index: tokenizer.id_to_token(index) for index in {*prefix, *suffix}}
    around = [pieces[index] for index in prefix], [pieces[index] for index in suffix]
    one = [*around[0], "$A", *around[1]]
    two = [*one, f"$B{second}", *(f"{piece}{second}" for piece in around[1])]
    return processors.TemplateProcessing(
        single=one, pair=two, special_tokens=[(piece, index) for index, piece in pieces.items()]
    )


def from_sentencepiece(model: bytes) -> Tokenizer:
    """Return a tokenizer with the pieces, scores, normalisation and byte fallback of a SentencePiece model.

    Args:
      model: serialised.

    Raises:
      UserError: the model is neither unigram nor BPE, or its treatment of white space has no counterpart.
    """
    proto = ModelProto.FromString(model)
    trainer, rules = proto.trainer_spec, proto.normalizer_spec
    if trainer.model_type not in (UNIGRAM, BPE):
        raise UserError("only unigram and BPE models of SentencePiece have a counterpart in tokenizers")
    if trainer.treat_whitespace_as_suffix or not rules.escape_whitespaces:
        raise UserError(
            "a SentencePiece model with white space as suffix or unescaped has no counterpart in tokenizers"
        )
    if trainer.model_type == BPE and any(piece.type == piece.USER_DEFINED for piece in proto.pieces):
        raise UserError(
            "pieces that SentencePiece takes whole before it merges (user_defined_symbols of a BPE model) have no "
            "counterpart in tokenizers",
            remedy="train the vocabulary without them, or as unigram",
        )
    pieces = unigram_scores(proto)
    if trainer.model_type == UNIGRAM:
        tokenizer = Tokenizer(models.Unigram(pieces, unk_id=trainer.unk_id, byte_fallback=trainer.byte_fallback))
    else:
        ids = {piece: index for index, (piece, _) in enumerate(pieces)}
        usable = {piece.piece: piece.score for piece in proto.pieces if piece.type == ModelProto.SentencePiece.NORMAL}
        tokenizer = Tokenizer(
            models.BPE(
                ids, merges(usable), unk_token=trainer.unk_piece, fuse_unk=True, byte_fallback=trainer.byte_fallback
            )
        )
    steps: list[Any] = []
    if rules.precompiled_charsmap:
        steps.append(normalizers.Precompiled(rules.precompiled_charsmap))
    if rules.remove_extra_whitespaces:  # U+0020 alone: other white space has become that by now, or stays
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Replace(Regex(r"\A | \z"), "")]
    elif rules.add_dummy_prefix:  # before a leading space too, where Metaspace puts none
        steps.append(normalizers.Prepend(" "))
    tokenizer.normalizer = normalizers.Sequence(steps)
    crossing = any(WORD in piece.lstrip(WORD) for piece, _ in pieces)
    scheme = "always" if rules.add_dummy_prefix and rules.remove_extra_whitespaces else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=WORD, prepend_scheme=scheme, split=not crossing)
    strip = [decoders.Strip(content=" ", left=1, right=0)] if rules.add_dummy_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(WORD, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def unigram_scores(proto: ModelProto) -> list[tuple[str, float]]:
    """Return (piece, score) by id; user-defined symbols have the score with which SentencePiece prefers them.

    That is length · max_score − 0.1 (unigram_model.cc), and max_score, which begins at FLT_MIN, is never below 0.
    """
    return [(piece.piece, -0.1 if piece.type == piece.USER_DEFINED else piece.score) for piece in proto.pieces]


def merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Return the merges of SentencePiece's BPE: every pair of pieces that form a piece, best piece first."""
    order = sorted(scores, key=lambda piece: -scores[piece])
    return [
        (piece[:cut], piece[cut:])
        for piece in order
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]


def _bytes(vocabulary: Vocabulary) -> Tokenizer:
    pieces = vocabulary.pieces(range(4 + BYTES))
    ids = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(ids, [], unk_token=pieces[vocabulary.unk_id], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer
