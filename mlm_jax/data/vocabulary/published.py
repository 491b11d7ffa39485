"""The vocabulary of a published model: ``tokenizer.json``, read by the tokenizers library, with its own ids."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mlm_jax.common.errors import UserError, one_line
from mlm_jax.common.foreign_files import check_memory
from mlm_jax.common.quiet import is_panic, quiet_panics
from mlm_jax.data.vocabulary.pieces import FACTS, FINGERPRINT, WORD, Files, Read, Span, Vocabulary, language_token

TOKENIZER = "tokenizer.json"
MOST_IDS = 1 << 24  # more than any vocabulary has
SENTINEL = re.compile(rf"{WORD}?<extra_id_(\d+)>")
# Pieces that vocabularies keep for later: [unused7], <unused7>, <|reserved_special_token_7|>.
HIDDEN = "\x00{}\x00"  # names of special pieces while text is encoded
RESERVED = re.compile(r"\[unused\d+\]|<unused\d+>|<\|reserved_special_token_\d+\|>")


def probe(tokenizer: Any) -> None:
    """Tokenize a text of several scripts: a damaged ``tokenizer.json`` can be read, and panics at the first text."""
    text = "a ä ① ﬁ光 9\n"
    with contextlib.suppress(Exception):  # a tokenizer of one script may have no piece for them
        ids = tokenizer.encode(text, text).ids
        tokenizer.encode_batch_fast([text], add_special_tokens=False)
        tokenizer.decode(ids)


@contextlib.contextmanager
def _library_errors() -> Iterator[None]:
    """Turn errors of the tokenizers library inside the block into UserErrors.

    Raises:
      UserError: the tokenizer cannot tokenize a text, such as one with an unknown character if it has no unknown piece.
    """
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and not is_panic(error):  # the library raises no narrower class
            raise
        remedy = "use another tokenizer, or give it an unknown piece (unk_token)"
        raise UserError(f"tokenizer.json cannot tokenize a text: {one_line(error)}", remedy=remedy) from error


class PublishedVocabulary(Vocabulary):
    """Text to token ids and back, by the tokenizer of a published model.

    Args:
      tokenizer: the text of ``tokenizer.json``.
      ids: {"pad" | "eos" | "unk" | "bos" | "mask": id} of the special pieces that the vocabulary has.
      languages: codes whose language token (``<2de>``) is used if the vocabulary has it.

    Raises:
      UserError: the tokenizers library is not installed, cannot read ``tokenizer``, or it has an id above ``MOST_IDS``.
    """

    def __init__(self, tokenizer: str, ids: Mapping[str, int], languages: Sequence[str] = ()):
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise UserError(
                "a published vocabulary needs the tokenizers library", remedy="pip install tokenizers"
            ) from error
        try:
            with quiet_panics():
                self._tokenizer = Tokenizer.from_str(tokenizer)
                probe(self._tokenizer)
        except Exception as error:  # the library raises no narrower class
            raise UserError(f"tokenizer.json cannot be read: {one_line(error)}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._text, self._ids, self.languages = tokenizer, dict(ids), tuple(languages)
        known = self._tokenizer.get_vocab(with_added_tokens=True)
        self.size = max(known.values()) + 1
        if self.size > MOST_IDS:
            raise UserError(f"tokenizer.json has a piece with the id {self.size - 1:,}, but ids end at {MOST_IDS:,}")
        self._pieces = {index: piece for piece, index in known.items()}
        self.pad_id, self.eos_id, self.unk_id = ids.get("pad", 0), ids.get("eos", -1), ids.get("unk", -1)
        self.bos_id, self.mask_id = ids.get("bos", -1), ids.get("mask", -1)
        self.language_ids = {
            code: known[language_token(code)] for code in self.languages if language_token(code) in known
        }
        numbered = {int(found[1]): index for piece, index in known.items() if (found := SENTINEL.fullmatch(piece))}
        self.sentinel_ids = np.array([numbered[number] for number in sorted(numbered)], np.int32)
        self.sentinels = len(numbered)

    @property
    def is_bytes(self) -> bool:
        """Always False: tokenizer.json contains pieces."""
        return False

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without special pieces. Text that looks like a special piece is encoded as text."""
        tokenizer = self._text_tokenizer
        tokenizer.encode_special_tokens = True
        with _library_errors():
            return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_parts(self, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """Return (token ids, number of each token's part): the tokenizer first splits text, and no piece crosses a split."""
        tokenizer = self._text_tokenizer
        tokenizer.encode_special_tokens = True
        with _library_errors():
            encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [(one.ids, [0 if part is None else part for part in one.word_ids]) for one in encoded]

    def encode_words(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        """Return the token ids of a sentence, with a space between its words, and the first piece of each word.

        The sentence is encoded as a whole, as in transformers' pipelines, since pieces of byte-level BPE and of Gemma's BPE
        contain the space before a word, and some vocabularies have pieces with a space inside.

        Returns:
          ids, and for each word the index of the first piece that begins in it or at the space before it, or -1 if there is none.
        """
        tokenizer = self._text_tokenizer
        tokenizer.encode_special_tokens = True
        text = " ".join(word for word in words if word)
        with _library_errors():
            encoding = tokenizer.encode(text, add_special_tokens=False)
        begins = [start for start, _ in encoding.offsets]
        starts, at, piece = [], 0, 0  # at: first character of the word in the text
        for word in words:
            while piece < len(begins) and begins[piece] < at - 1:
                piece += 1
            own = bool(word) and piece < len(begins) and begins[piece] < at + len(word)
            starts.append(piece if own else -1)
            piece += own
            at += len(word) + 1 if word else 0
        return encoding.ids, starts

    def encode_with_spans(self, text: str) -> tuple[list[int], list[Span]]:
        """Return the token ids of a text, and the characters ``text[start:end]`` of each."""
        tokenizer = self._text_tokenizer
        tokenizer.encode_special_tokens = True
        with _library_errors():
            encoding = tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    @cached_property
    def _text_tokenizer(self) -> Any:
        """A copy of the tokenizer that finds no special pieces in text.

        A unigram model would always find them: "<s>" is a piece like others, and its score 0 is the highest. So the copy gives
        special pieces names that do not occur in text.
        """
        described = json.loads(self._text)
        if described["model"].get("type") != "Unigram":
            return self._tokenizer
        vocab = described["model"]["vocab"]
        for index in np.flatnonzero(self.is_special[: len(vocab)]):
            vocab[index][0] = HIDDEN.format(vocab[index][0])
        for token in described.get("added_tokens") or ():
            if self.is_special[token["id"]]:
                token["content"] = HIDDEN.format(token["content"])
        described["post_processor"] = described["padding"] = described["truncation"] = None
        return type(self._tokenizer).from_str(json.dumps(described))

    @cached_property
    def pair_separator(self) -> tuple[int, ...]:
        """Ids between two texts in one row, by the tokenizer's template; those of XLM-R are ``</s> </s>``."""
        pair = self._tokenizer.encode("a", "a", add_special_tokens=True)
        ids, inside = pair.ids, [n for n, mark in enumerate(pair.special_tokens_mask) if not mark]
        gaps = [(a + 1, b) for a, b in zip(inside, inside[1:]) if b > a + 1]
        return tuple(ids[gaps[0][0] : gaps[0][1]]) if gaps else (self.eos_id,)

    @cached_property
    def tells_pairs_apart(self) -> bool:
        """Whether the tokenizer writes type 1 for the second text of a pair, as BERT's does."""
        return 1 in self._tokenizer.encode("a", "a", add_special_tokens=True).type_ids

    def encode_special(self, text: str) -> list[int]:
        """Return the token ids of a text, in which special pieces such as ``<mask>`` are encoded as such."""
        self._tokenizer.encode_special_tokens = False
        with _library_errors():
            return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_masked(self, text: str, mask: str) -> list[int]:
        """Return the token ids of a text in which ``mask`` is the mask piece, which may include spaces around it."""
        return self.encode_special(text.replace(mask, self._pieces[self.mask_id]))

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids, without special pieces."""
        ordinary = [int(index) for index in ids if index < self.size and not self.is_special[index]]
        with _library_errors():
            return self._tokenizer.decode(ordinary, skip_special_tokens=True)

    @cached_property
    def is_special(self) -> np.ndarray:
        """``[size]`` bool: pieces that are never masked and never drawn at random, including pieces reserved for later use."""
        special = np.ones(self.size, bool)  # an id without a piece is not drawn either
        special[list(self._pieces)] = False
        added = json.loads(self._text).get("added_tokens") or []
        special[[token["id"] for token in added if token["special"]]] = True
        special[[index for index in self._ids.values() if 0 <= index < self.size]] = True
        special[[*self.language_ids.values(), *self.sentinel_ids]] = True
        special[[index for index, piece in self._pieces.items() if RESERVED.fullmatch(piece)]] = True
        return special

    @cached_property
    def word_starts(self) -> np.ndarray:
        """``[size]`` bool: pieces that begin a word, by the mark that this kind of tokenizer uses."""
        starts = self.is_special.copy()
        described = json.loads(self._text)
        by_inside = described["model"]["type"] == "WordPiece"  # it marks pieces that continue a word
        if by_inside:
            mark = described["model"]["continuing_subword_prefix"]
        else:
            mark = "Ġ" if self.is_byte_level else WORD
        for index, piece in self._pieces.items():
            starts[index] |= piece.startswith(mark) != by_inside
        return starts

    @cached_property
    def is_byte(self) -> np.ndarray:
        """``[size]`` bool: pieces of bytes; in byte-level BPE, pieces whose bytes are not whole characters."""
        found = super().is_byte
        if self.is_byte_level:
            from tokenizers.decoders import ByteLevel

            decode = ByteLevel().decode
            found[[index for index, piece in self._pieces.items() if "\ufffd" in decode([piece])]] = True
            found &= ~self.is_special
        return found

    @property
    def is_byte_level(self) -> bool:
        """Whether each letter of a piece stands for a byte, as in GPT-2, where Ġ is a space."""
        return self._is_byte_level

    @cached_property
    def _is_byte_level(self) -> bool:
        described = json.loads(self._text)
        return '"ByteLevel"' in json.dumps([described["pre_tokenizer"], described["decoder"]])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that determines ids."""
        facts = json.dumps([sorted(self._ids.items()), self.languages])
        return hashlib.sha256(self._text.encode() + facts.encode()).hexdigest()

    def files(self) -> Files:
        """Return {name: content} of the vocabulary's files."""
        facts = {
            "kind": "tokenizers",
            "ids": self._ids,
            "languages": self.languages,
            FINGERPRINT: self.fingerprint,
        }
        return {FACTS: json.dumps(facts, indent=1).encode(), TOKENIZER: self._text.encode()}

    @classmethod
    def from_files(cls, facts: Mapping[str, Any], read: Read) -> PublishedVocabulary:
        """Make the vocabulary from its :meth:`files`, as :meth:`Vocabulary.from_files`.

        Raises:
          UserError: tokenizer.json is damaged, or its values would take too much memory.
          ValueError: the facts name special ids that the tokenizer does not have.
        """
        text = read(TOKENIZER).decode()
        check_memory(text, Path(TOKENIZER))
        found = cls(text, facts["ids"], facts["languages"])
        if not all(type(index) is int and -1 <= index < found.size for index in facts["ids"].values()):
            raise ValueError("a special piece has an id that the tokenizer does not have")
        return found

    @cached_property
    def marks_inside(self) -> bool:
        """Whether pieces inside a word are marked (``##``), rather than pieces that begin a word."""
        return json.loads(self._text)["model"].get("type") == "WordPiece"

    @property
    def tokenizer_json(self) -> str:
        """The unchanged text of ``tokenizer.json``."""
        return self._text

    @property
    def ids(self) -> dict[str, int]:
        """{"pad" | "eos" | "unk" | "bos" | "mask": id} of the special pieces that the vocabulary has."""
        return dict(self._ids)

    def _piece(self, index: int) -> str:
        if not 0 <= index < self.size:
            raise UserError(f"token id {index} is outside the vocabulary of {self.size} pieces")
        return self._pieces.get(index, "")
