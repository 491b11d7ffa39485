"""Messages of SentencePiece: a model that can be read and changed, and encoded text."""

from __future__ import annotations

from typing import Any


def model_proto(model: bytes) -> Any:
    """Return what a ``.model`` file of SentencePiece holds, as a message that can be changed."""
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]


def byte_spans(encoded: bytes) -> list[tuple[int, int, int]]:
    """Return (id, first byte, byte behind the last) of each piece of what SentencePiece encoded as a serialised message."""
    from sentencepiece import sentencepiece_pb2

    message = sentencepiece_pb2.SentencePieceText.FromString(encoded)  # type: ignore[attr-defined]
    return [(piece.id, piece.begin, piece.end) for piece in message.pieces]


def pieces_of(encoded: bytes) -> list[tuple[int, str]]:
    """Return (id, the part of the text that it stands for) of what SentencePiece encoded as a serialised message."""
    from sentencepiece import sentencepiece_pb2

    message = sentencepiece_pb2.SentencePieceText.FromString(encoded)  # type: ignore[attr-defined]
    return [(piece.id, piece.surface) for piece in message.pieces]
