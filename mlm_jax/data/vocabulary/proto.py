"""Protocol buffers of SentencePiece: models, and encoded text."""

from __future__ import annotations

from typing import Any

from mlm_jax.common.errors import UserError

MOST_PIECES = 1 << 21  # of a vocabulary; published ones have a million at most
PIECE = b"\n"  # the byte before a piece, and before its text


def check_model(model: bytes) -> None:
    """Check that a ``.model`` file of SentencePiece cannot have more than ``MOST_PIECES`` pieces: each takes much more memory
    than its bytes in the file.

    Raises:
      UserError: it may have more.
    """
    if model.count(PIECE) > 4 * MOST_PIECES:  # the byte occurs in scores and tables as well
        raise UserError(f"this SentencePiece model may have more than {MOST_PIECES:,} pieces")


def model_proto(model: bytes) -> Any:
    """Return the content of a ``.model`` file of SentencePiece, as a message that can be changed.

    Raises:
      UserError: it has more pieces than are read.
    """
    check_model(model)
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]


def byte_spans(encoded: bytes) -> list[tuple[int, int, int]]:
    """Return (id, first byte, one past the last byte) of each piece of text that SentencePiece encoded as a message."""
    from sentencepiece import sentencepiece_pb2

    message = sentencepiece_pb2.SentencePieceText.FromString(encoded)  # type: ignore[attr-defined]
    return [(piece.id, piece.begin, piece.end) for piece in message.pieces]


def pieces_of(encoded: bytes) -> list[tuple[int, str]]:
    """Return (id, its part of the text) of each piece of text that SentencePiece encoded as a message."""
    from sentencepiece import sentencepiece_pb2

    message = sentencepiece_pb2.SentencePieceText.FromString(encoded)  # type: ignore[attr-defined]
    return [(piece.id, piece.surface) for piece in message.pieces]
