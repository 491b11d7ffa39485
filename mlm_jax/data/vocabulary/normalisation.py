"""Normalisation of text before it is cut into pieces: SentencePiece's ``nmt_nfkc``, except that U+200C is kept.

``nmt_nfkc`` replaces the zero-width non-joiner by a space. In Persian and other languages it occurs inside words, so words would
be split, and decoded text would be misspelt.
"""

from __future__ import annotations

import io
import struct
from functools import cache

import sentencepiece

from mlm_jax.data.vocabulary.proto import model_proto

NAME = "nmt_nfkc_keeping_zwnj"
BASE = "nmt_nfkc"
NON_JOINER = "\u200c".encode()


def normalise_like(model: bytes) -> sentencepiece.SentencePieceNormalizer:
    """Return a normaliser that changes characters as a model does, but not spaces."""
    return sentencepiece.SentencePieceNormalizer(
        model_proto=model, add_dummy_prefix=False, escape_whitespaces=False, remove_extra_whitespaces=False
    )


def normaliser() -> sentencepiece.SentencePieceNormalizer:
    """Return the normaliser of new vocabularies."""
    return normalise_like(with_rules(_base_model()))


def with_rules(model: bytes) -> bytes:
    """Return a model with the rules of new vocabularies."""
    proto = model_proto(model)
    proto.normalizer_spec.name = NAME
    proto.normalizer_spec.precompiled_charsmap = rules()
    return proto.SerializeToString()


def rules() -> bytes:
    """Return the rules in SentencePiece's compiled form."""
    return _without(NON_JOINER, model_proto(_base_model()).normalizer_spec.precompiled_charsmap)


@cache
def _base_model() -> bytes:
    """Return a tiny model with the unchanged rules, since SentencePiece 0.2.1 cannot return the rules of a normaliser."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a"]),
        model_writer=model,
        model_type="char",
        vocab_size=8,
        hard_vocab_limit=False,
        normalization_rule_name=BASE,
        minloglevel=2,
    )
    return model.getvalue()


def _without(character: bytes, compiled: bytes) -> bytes:
    """Remove the rule for a character from compiled rules, so that the character does not change.

    The format is the size of a trie, the trie, and zero-terminated replacements. The trie is a double array (Aoe 1989; Darts
    clone): the child of a unit for byte c is at ``position XOR c`` and contains c. A unit whose highest bit is set is not the child
    for any byte.
    """
    (size,) = struct.unpack_from("<I", compiled)
    changed = bytearray(compiled)
    trie = memoryview(changed)[4 : 4 + size]
    position = 0
    for byte in b"\0" + character:  # the root is the child for byte 0
        node = position ^ byte
        (unit,) = struct.unpack_from("<I", trie, 4 * node)
        if byte and unit & 0x800000FF != byte:
            raise AssertionError(f"{BASE} has no rule for {character!r}")
        position = node ^ ((unit >> 10) << ((unit & 0x200) >> 6))
    struct.pack_into("<I", trie, 4 * node, 0x80000000)
    return bytes(changed)
