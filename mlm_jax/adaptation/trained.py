"""Train pieces on a text with SentencePiece, to add them to a vocabulary."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence

import sentencepiece

from mlm_jax.common.errors import UserError, one_line
from mlm_jax.data.vocabulary.proto import model_proto


def trained_pieces(
    lines: Sequence[str], known: Collection[str], wanted: int, model_type: str = "unigram"
) -> list[tuple[str, float]]:
    """Return (piece, score) of trained pieces that are not known yet: single characters first, then by score.

    Args:
      lines: normalised text; every character of it becomes a piece.
      known: pieces to leave out.
      wanted: number of pieces that the caller will use; more are trained, since many of them are known.
      model_type: unigram | bpe.

    Raises:
      UserError: the text does not suffice to train pieces.
    """
    characters = set().union(*lines)
    out = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=out,
            model_type=model_type,
            vocab_size=max(2 * wanted + 1000, 2 * len(characters)),  # every character has to be a piece
            hard_vocab_limit=False,
            character_coverage=1.0,
            normalization_rule_name="identity",
            max_sentence_length=1 << 16,
            minloglevel=2,
            num_threads=1,
        )
    except RuntimeError as error:
        raise UserError(
            f"SentencePiece could not be trained: {one_line(error)}", remedy="give more text of the new language"
        ) from error
    trained = model_proto(out.getvalue()).pieces
    found = [(entry.piece, entry.score) for entry in trained if entry.type == entry.NORMAL and entry.piece not in known]
    return sorted(found, key=lambda entry: (len(entry[0]) > 1, -entry[1]))
