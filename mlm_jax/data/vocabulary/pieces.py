"""The vocabulary: SentencePiece pieces or bytes, with language tokens, a mask and sentinels.

The ids of the SentencePiece model (or of the bytes) come first. Special pieces that it lacks are appended in a fixed order:
``<mask>``, language tokens ``<2de>``, sentinels ``<extra_id_0>`` ….
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError, nearest, one_line
from mlm_jax.common.foreign_files import MOST_TOKENIZER, check_file
from mlm_jax.data.vocabulary import normalisation
from mlm_jax.data.vocabulary.proto import byte_spans, check_model, model_proto, pieces_of

MODEL, FACTS = "vocabulary.model", "vocabulary.json"
FINGERPRINT = "fingerprint"  # key of FACTS; it shows whether the files have changed since they were written
PAD, EOS, UNK, BOS, MASK = "<pad>", "</s>", "<unk>", "<s>", "<mask>"
BYTES = 256
WORD = "▁"  # SentencePiece's mark of a space
BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # the piece for a byte
Files = dict[str, bytes]  # {name: content} of the files of a vocabulary
Span = tuple[int, int]  # characters of a text: the first, and one past the last
Read = Callable[[str], bytes]  # returns the content of a file, given its name


def language_token(language: str) -> str:
    """Return the piece of a language: "<2de>"."""
    return f"<2{language}>"


def sentinel(index: int) -> str:
    """Return the piece of a hidden span: "<extra_id_0>"."""
    return f"<extra_id_{index}>"


class Vocabulary:
    """Text to token ids and back.

    Args:
      model: a serialised SentencePiece model; None for bytes (``<pad> </s> <unk> <s>``, then the 256 bytes).
      languages: languages with a language token, which is appended if the model lacks it.
      sentinels: number of ``<extra_id_n>``, which are appended if the model lacks them.

    Raises:
      UserError: the model has more pieces than are read.
      RuntimeError: the model is not one of SentencePiece.

    Attributes:
      size: number of ids.
      pad_id, eos_id, unk_id, bos_id, mask_id: special ids; -1 if there is none.
      language_ids: {language: id}.
      sentinel_ids: ``[sentinels]`` int32.
    """

    def __init__(self, model: bytes | None, languages: Sequence[str], sentinels: int):
        self.model, self.languages, self.sentinels = model, tuple(languages), sentinels
        if model is None:
            known = [PAD, EOS, UNK, BOS]
            self.pad_id, self.eos_id, self.unk_id, self.bos_id = range(4)
            self._base = len(known) + BYTES
            ids = {piece: index for index, piece in enumerate(known)}
        else:
            check_model(model)
            self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            self.pad_id, self.eos_id = self.processor.pad_id(), self.processor.eos_id()
            self.unk_id, self.bos_id = self.processor.unk_id(), self.processor.bos_id()
            self._base = self.processor.get_piece_size()
            ids = {self.processor.id_to_piece(index): index for index in range(self._base)}
        wanted = [MASK, *map(language_token, self.languages), *map(sentinel, range(sentinels))]
        if self.eos_id < 0:
            wanted.insert(0, EOS)
        if self.pad_id < 0:
            wanted.insert(0, PAD)
        if model is not None:
            matched = [ids[piece] for piece in wanted if piece in ids and not self.processor.is_control(ids[piece])]
            self.processor = _with_control(model, matched) if matched else self.processor
        self._appended: list[str] = []
        for piece in wanted:
            if piece not in ids:
                ids[piece] = self._base + len(self._appended)
                self._appended.append(piece)
        self.pad_id = ids[PAD] if self.pad_id < 0 else self.pad_id
        self.eos_id = ids[EOS] if self.eos_id < 0 else self.eos_id
        self.size = self._base + len(self._appended)
        self.mask_id = ids[MASK]
        self.language_ids = {language: ids[language_token(language)] for language in self.languages}
        self.sentinel_ids = np.array([ids[sentinel(index)] for index in range(sentinels)], np.int32)
        self._special_pieces = {piece: ids[piece] for piece in wanted}
        self._splitter = re.compile("(" + "|".join(map(re.escape, self._special_pieces)) + ")")

    # ------------------------------------------------------------------------------------------------ making one

    @classmethod
    def from_model(cls, path: str | Path, languages: Sequence[str], sentinels: int) -> Vocabulary:
        """Read an existing SentencePiece model, to which missing special pieces are appended.

        Raises:
          UserError: the file is missing, has too many pieces, or is not a SentencePiece model.
        """
        if Path(path).exists():
            check_file(Path(path), MOST_TOKENIZER)
        try:
            return cls(Path(path).read_bytes(), languages, sentinels)
        except OSError as error:
            raise UserError(
                f"cannot read the vocabulary: {error.strerror}",
                file=path,
                remedy="set config.vocabulary.path to an existing file",
            ) from error
        except UserError as error:
            raise UserError(error.problem, file=path, remedy="check where it comes from") from error
        except RuntimeError as error:
            raise UserError(
                "this is not a SentencePiece model", file=path, remedy="give the .model file that spm_train wrote"
            ) from error

    @classmethod
    def train(cls, sentences: Iterable[str], config: ConfigDict, languages: Sequence[str]) -> Vocabulary:
        """Train a SentencePiece model with byte fallback; the same sentences give the same model.

        It has ``config.size`` pieces, or fewer if the text does not have as many. U+200C is kept
        (:mod:`mlm_jax.data.vocabulary.normalisation`).

        Args:
          sentences: text of all languages, in the wanted proportions.
          config: ``config.vocabulary``.
          languages: languages that get a language token.

        Raises:
          UserError: ``config.size`` is too small for the special tokens, bytes and single characters, or there is no text.
        """
        symbols = [MASK, *map(language_token, languages), *map(sentinel, range(config.sentinels))]
        least = 4 + BYTES + len(symbols) + 1
        if config.size <= least:
            raise UserError(
                f"vocabulary.size={config.size} leaves no room for pieces besides {least - 1} bytes and special tokens",
                remedy="raise vocabulary.size or lower vocabulary.sentinels",
            )
        out, failures = io.BytesIO(), []

        normaliser = normalisation.normaliser()

        def noting_failures() -> Iterator[str]:  # SentencePiece up to 0.2.1 treats an exception as the end of the text
            try:
                yield from map(normaliser.normalize, sentences)
            except UserError as error:
                failures.append(error)
                raise

        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=noting_failures(),
                model_writer=out,
                model_type=config.kind,
                vocab_size=config.size,
                character_coverage=config.character_coverage,
                byte_fallback=True,
                control_symbols=symbols,
                pad_id=0,
                eos_id=1,
                unk_id=2,
                bos_id=3,
                pad_piece=PAD,
                eos_piece=EOS,
                unk_piece=UNK,
                bos_piece=BOS,
                normalization_rule_name="identity",
                num_threads=1,
                max_sentence_length=1 << 16,
                minloglevel=2,
                hard_vocab_limit=False,
                train_extremely_large_corpus=config.sentences > 10_000_000,
            )
        except RuntimeError as error:
            if failures:
                raise failures[0] from None
            raise _training_error(str(error), config) from error
        return cls(normalisation.with_rules(out.getvalue()), languages, config.sentinels)

    @classmethod
    def bytes(cls, languages: Sequence[str], sentinels: int) -> Vocabulary:
        """Return the vocabulary of UTF-8 bytes (ByT5; Xue et al. 2022)."""
        return cls(None, languages, sentinels)

    # ------------------------------------------------------------------------------------------------ using it

    @property
    def is_bytes(self) -> bool:
        """Whether ids are UTF-8 bytes, so that a space has an id of its own."""
        return self.model is None

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without tokens before or after them."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text. Text that looks like a special piece is encoded as text."""
        if self.model is None:
            return [[byte + 4 for byte in text.encode()] for text in texts]
        return self.processor.encode(list(texts), num_threads=1)

    def encode_with_spans(self, text: str) -> tuple[list[int], list[Span]]:
        """Return the token ids of a text, and the characters ``text[start:end]`` of each.

        If a character is spelled as several bytes, it belongs to the last byte; the other bytes have empty spans.
        """
        if self.model is None:
            spans = [(n, n + 1) for n, character in enumerate(text) for _ in character.encode()]
            return self.encode(text), spans
        starts = np.cumsum([0, *(len(character.encode()) for character in text)])  # first byte of each character
        found = byte_spans(self.processor.encode(text, out_type="serialized_proto"))
        bounds = np.searchsorted(starts, [span for _, *span in found]).reshape(-1, 2).tolist()
        return [index for index, *_ in found], [(start, end) for start, end in bounds]

    @property
    def is_byte_level(self) -> bool:
        """Whether each letter of a piece stands for a byte (byte-level BPE)."""
        return False

    def encode_parts(self, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """Return (token ids, number of each token's part of the text), for vocabularies that split text before they cut it."""
        return [(ids, [0] * len(ids)) for ids in self.encode_batch(texts)]

    def encode_words(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        """Return the token ids of a sentence, given as words, with spaces between them if spaces have ids.

        Returns:
          ids of the sentence, and for each word the index of its first piece, or -1 if the word has no piece.
        """
        spaced = self._spaces_have_ids
        nonempty = [word for word in words if word]
        texts = iter(
            self.encode_batch([f" {word}" if spaced and index else word for index, word in enumerate(nonempty)])
        )
        ids: list[int] = []
        starts = []
        for word in words:
            pieces = next(texts) if word else []
            space = int(self.is_bytes and bool(ids))  # a space is a byte of its own; otherwise it is part of a piece
            starts.append(len(ids) + space if len(pieces) > space else -1)
            ids += pieces
        return ids, starts

    @cached_property
    def _spaces_have_ids(self) -> bool:
        """Whether a space before a word changes the ids: true for bytes and byte-level BPE, false if every word gets a mark."""
        alone, spaced = self.encode_batch(["a", " a"])
        return alone != spaced

    def encode_special(self, text: str) -> list[int]:
        """Return the token ids of a text, in which special pieces such as ``<mask>`` are encoded as such.

        A word that directly follows a special piece is encoded as if at the start of a text, as in training.
        """
        ids: list[int] = []
        for part in self._splitter.split(text):
            if part in self._special_pieces:
                ids.append(self._special_pieces[part])
            elif part.strip():
                ids.extend(self.encode(part.strip()))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids, without special pieces."""
        ordinary = [int(i) for i in ids if i < self._base and not self.is_special[i]]
        if self.model is None:
            return bytes_to_text(i - 4 for i in ordinary)
        return self.processor.decode(ordinary)

    def written(self, ids: Sequence[int], text: str | None) -> str:
        """Return the text of token ids, including the text of unknown pieces.

        Args:
          ids: ids of a text, or of its beginning; special pieces may be around them.
          text: the text that was encoded, if it is known. Without it, an unknown piece counts as one character, U+FFFD.
        """
        unknown = [*ids].count(self.unk_id)
        if not unknown:
            return self.decode(ids)
        special = {*self.special_ids.tolist()} - {self.unk_id}
        ordinary = [index for index in ids if index not in special]
        if text is not None and self.model is not None:
            pieces = pieces_of(self.processor.encode(text, out_type="serialized_proto"))[: len(ordinary)]
            if [index for index, _ in pieces] == ordinary:
                return "".join(surface for _, surface in pieces).strip()
        return self.decode(ids) + "\ufffd" * unknown

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the written form of each token id.

        Raises:
          UserError: an id is outside the vocabulary.
        """
        return [self._piece(int(index)) for index in ids]

    @property
    def pair_separator(self) -> tuple[int, ...]:
        """Ids between two texts in one row."""
        return (self.eos_id,)

    def document_prefix(self, prefix: str, language: str) -> list[int]:
        """Return the ids before a document by ``config.data.prefix``: its language token, ``<s>``, or none.

        Raises:
          UserError: the vocabulary has no such piece.
        """
        if prefix == "none":
            return []
        if prefix == "bos":
            if self.bos_id < 0:
                raise UserError("data.prefix='bos', but the vocabulary has no <s>", remedy="use 'language' or 'none'")
            return [self.bos_id]
        if language not in self.language_ids:
            problem = f"the vocabulary has no token for language {language!r}{nearest(language, self.language_ids)}"
            raise UserError(problem, remedy="add the language (mlm-jax grow), or set data.prefix='none'")
        return [self.language_ids[language]]

    @cached_property
    def is_special(self) -> np.ndarray:
        """``[size]`` bool: pieces that are never masked and never drawn at random: control, language, mask and sentinels."""
        special = np.zeros(self.size, bool)
        special[self._base :] = True
        special[list(self._special_pieces.values())] = True
        special[[index for index in (self.pad_id, self.eos_id, self.unk_id, self.bos_id) if index >= 0]] = True
        if self.model is not None:
            for index in range(self._base):
                special[index] |= self.processor.is_control(index) or self.processor.is_unused(index)
        return special

    @cached_property
    def special_ids(self) -> np.ndarray:
        """Ids of the special pieces, in order."""
        return np.flatnonzero(self.is_special).astype(np.int32)

    @cached_property
    def is_byte(self) -> np.ndarray:
        """``[size]`` bool: pieces of bytes, which spell characters without a piece of their own."""
        return np.array([bool(BYTE.fullmatch(piece)) for piece in self.pieces(range(self.size))])

    @cached_property
    def word_starts(self) -> np.ndarray:
        """``[size]`` bool: special pieces, and pieces that begin a word: those with a leading ▁, or the byte of a space."""
        starts = self.is_special.copy()
        if self.model is None:
            starts[4 + ord(" ")] = True
        else:
            for index in range(self._base):
                starts[index] |= self.processor.id_to_piece(index).startswith(WORD)
        return starts

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that determines ids."""
        digest = hashlib.sha256(self.model or b"bytes")
        digest.update(json.dumps([self.languages, self.sentinels]).encode())
        return digest.hexdigest()

    # ------------------------------------------------------------------------------------------------ on disk

    def save(self, folder: str | Path) -> None:
        """Write the vocabulary into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files().items():
            (folder / name).write_bytes(content)

    def files(self) -> Files:
        """Return {name: content} of the vocabulary's files."""
        facts = {
            "kind": "bytes" if self.model is None else "sentencepiece",
            "languages": self.languages,
            "sentinels": self.sentinels,
            FINGERPRINT: self.fingerprint,
        }
        model = {} if self.model is None else {MODEL: self.model}
        return {FACTS: json.dumps(facts, indent=1).encode(), **model}

    @classmethod
    def from_files(cls, facts: Mapping[str, Any], read: Read) -> Vocabulary:
        """Make the vocabulary from its :meth:`files`; :func:`read_vocabulary` chooses the class.

        Args:
          facts: the parsed ``FACTS``.
          read: function that returns the content of a file, given its name.
        """
        return cls(None if facts["kind"] == "bytes" else read(MODEL), facts["languages"], facts["sentinels"])

    # ------------------------------------------------------------------------------------------------ details

    def _piece(self, index: int) -> str:
        if not 0 <= index < self.size:
            raise UserError(f"token id {index} is outside the vocabulary of {self.size} pieces")
        if index >= self._base:
            return self._appended[index - self._base]
        if self.model is not None:
            return self.processor.id_to_piece(index)
        return [PAD, EOS, UNK, BOS][index] if index < 4 else f"<0x{index - 4:02X}>"


def bytes_to_text(values: Iterable[int]) -> str:
    """Return the text of UTF-8 bytes; incomplete sequences become U+FFFD."""
    return bytes(values).decode(errors="replace")


def _with_control(model: bytes, ids: Sequence[int]) -> sentencepiece.SentencePieceProcessor:
    """Return the processor of a model that does not find these pieces in text; models usually define them as user-defined."""
    proto = model_proto(model)
    for index in ids:
        proto.pieces[index].type = proto.SentencePiece.CONTROL
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def _training_error(message: str, config: ConfigDict) -> UserError:
    needed = re.search(r"smaller than required_chars\D*\d+ vs (\d+)", message)
    if needed:
        return UserError(
            f"vocabulary.size={config.size} is too small for the {needed[1]} pieces of single characters and bytes",
            remedy="raise vocabulary.size or lower vocabulary.character_coverage",
        )
    return UserError(f"SentencePiece could not be trained: {one_line(message)}")
