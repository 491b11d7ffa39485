"""Which texts are the same: those that are equal after Unicode's NFKC and without white space, compared as 64-bit hashes.

The vocabulary normalises by NFKC too, and replaces several spaces by one. White space is ignored here, so that a sentence that
was split into words with labels ("Hello , world") is the same text as the sentence itself.

Texts of several sentences are also compared sentence by sentence. A sentence ends at a line break, after one of
``。！？｡।॥؟۔።։``, and after ``.``, ``!``, ``?`` or ``…`` if a space follows (a closing quote or bracket may stand between).
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

TEXT_END, SENTENCE_END = "\x1e", "\x1f"  # ASCII's separators of records and of units
STOPS = ".!?"  # these end a sentence if a space follows; NFKC turns "…" into "..."
CLOSING = "\"')]”’»"  # one of these may stand between a stop and the space
FULL_STOPS = "。！？｡।॥؟۔።։"  # these end a sentence, whatever follows
MARK = SENTENCE_END.encode()
# White space and marks without width that NFKC does not change: {character: its replacement}.
INVISIBLE = dict.fromkeys("\u0085\u1680\u2028\u2029\x1e", " ") | dict.fromkeys("\u180e\u200b\ufeff\u00ad", "")
ASCII_SPACE = b" \t\n\r\x0b\x0c\x1c\x1d"
LOOKED_FOR, JOINS, CHANGES, BEYOND = 1, 2, 4, 8  # classes of characters, see _table
DENSE = 30  # if more than one character in 30 may change, texts are normalised as a whole


class Fingerprints(NamedTuple):
    """Hashes of texts and of their sentences.

    Attributes:
      hashes: ``[n]`` uint64, hashes of every text, and of the sentences of each text that has several.
      owners: ``[n]`` index of the text that each hash belongs to.
      whole: ``[texts]`` index in ``hashes`` of each text's own hash.
      empty: ``[texts]`` bool, texts that are only white space.
    """

    hashes: np.ndarray
    owners: np.ndarray
    whole: np.ndarray
    empty: np.ndarray


def fingerprints(texts: Sequence[str], shortest: int) -> Fingerprints:
    """Return the hashes of texts, and of their sentences that have at least ``shortest`` bytes without white space."""
    marked = _compact(texts, with_sentences=True)
    digests = [_digest(text.replace(MARK, b"")) for text in marked]
    owners = [*range(len(texts))]
    for index in [index for index, text in enumerate(marked) if MARK in text]:
        parts = [part for part in marked[index].split(MARK) if part]
        compared = [_digest(part) for part in parts if len(part) >= shortest] if len(parts) > 1 else []
        digests += compared
        owners += [index] * len(compared)
    hashes, whole = np.frombuffer(b"".join(digests), "<u8"), np.arange(len(texts))
    return Fingerprints(hashes, np.array(owners, np.int64), whole, hashes[whole] == NOTHING)


def whole_fingerprints(texts: Sequence[str]) -> Fingerprints:
    """Return the hashes of texts, but not those of their sentences."""
    digests = map(_digest, _compact(texts, with_sentences=False))
    return of_hashes(np.frombuffer(b"".join(digests), "<u8"))


def of_hashes(hashes: np.ndarray) -> Fingerprints:
    """Return what :func:`whole_fingerprints` returns for texts with these hashes, ``[texts]`` uint64."""
    index = np.arange(len(hashes))
    return Fingerprints(hashes, index, index, hashes == NOTHING)


def sentences(text: str) -> list[str]:
    """Return the sentences of a text's normalised form, each with the white space after it."""
    for character, instead in INVISIBLE.items():
        text = text.replace(character, instead)
    for stop in FULL_STOPS:
        text = text.replace(stop, stop + SENTENCE_END)
    text = unicodedata.normalize("NFKC", text).replace("\n", f"\n{SENTENCE_END}")
    for stop in STOPS:
        for closing in ("", *CLOSING):
            text = text.replace(f"{stop}{closing} ", f"{stop}{closing} {SENTENCE_END}")
    return text.split(SENTENCE_END)


def _compact(texts: Sequence[str], *, with_sentences: bool) -> list[bytes]:
    """Return each text normalised and without white space, with a mark after every sentence if ``with_sentences``.

    Texts are joined and processed together if possible, since few long strings take less time than many short ones.
    """
    if not texts:
        return []
    joined = TEXT_END.join(texts)
    if joined.count(TEXT_END) != len(texts) - 1:
        joined = TEXT_END.join(text.replace(TEXT_END, " ") for text in texts)
    if not joined.isascii():
        table = _table(with_sentences)
        units = _units(joined)
        kinds = table[units]
        if (looked_for := kinds & LOOKED_FOR > 0).any():
            joined = _without_or_marked(joined, units[looked_for])
            kinds = table[_units(joined)]
        joined = _normalised(joined, kinds)
    encoded = joined.encode("utf-8", "surrogatepass")
    if not with_sentences:
        return encoded.translate(None, ASCII_SPACE + MARK).split(b"\x1e")
    marked = bytearray(encoded)
    _mark_sentences(np.frombuffer(marked, np.uint8))
    return bytes(marked).translate(None, ASCII_SPACE).split(b"\x1e")


def _without_or_marked(joined: str, found: np.ndarray) -> str:
    """Return texts without the invisible characters that were found, and with a line break after the full stops."""
    for character in map(chr, np.unique(found).tolist()):
        joined = joined.replace(character, INVISIBLE.get(character, f"{character}\n"))
    return joined


def _normalised(joined: str, kinds: np.ndarray) -> str:
    """Return texts, which ``TEXT_END`` separates, in NFKC.

    A character that never joins the one before it does not depend on earlier text (UAX #15, stable code points). So text is
    normalised in parts from one such character to the next, and only if a character in the part may change.

    Args:
      joined: the texts.
      kinds: ``[UTF-16 units]`` classes of their characters.
    """
    if kinds.max(initial=0) < JOINS:
        return joined
    joins = kinds >= JOINS
    asks = kinds >= CHANGES
    asks[1:] |= joins[1:] & joins[:-1]  # two marks, whose order may change
    positions = np.flatnonzero(asks)
    if (kinds == BEYOND).any() or len(positions) > len(kinds) // DENSE:
        # One text at a time: most short texts are normalised already, which is detected quickly.
        return TEXT_END.join([unicodedata.normalize("NFKC", text) for text in joined.split(TEXT_END)])
    edges = np.concatenate([[0], np.flatnonzero(~joins), [len(joins)]])
    segments = np.unique(np.searchsorted(edges, positions, "right"))
    parts, done = [], 0
    for start, stop in zip(edges[segments - 1].tolist(), edges[segments].tolist()):
        before = joined[start:stop]
        after = unicodedata.normalize("NFKC", before)
        if after != before:
            parts += [joined[done:start], after]
            done = stop
    return "".join([*parts, joined[done:]])


def _units(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-16-le", "surrogatepass"), "<u2")


@cache
def _table(with_sentences: bool) -> np.ndarray:
    """Return the classes of each UTF-16 unit, ``[65536]``.

    LOOKED_FOR: an invisible character, or a full stop if sentences are compared, which may be of another class too. JOINS: a mark,
    which NFKC may move among other marks. CHANGES: a character that changes by itself or with the one before it. BEYOND: one of two
    units of a character.
    """
    # Chinese characters, Hangul syllables and private characters do not change, whatever is before them.
    blocks = [*range(0x80, 0x3400), *range(0xA000, 0xAC00), *range(0xD7A4, 0xD800), *range(0xF900, 0x10000)]
    table = np.zeros(1 << 16, np.uint8)
    for code in blocks:
        character = chr(code)
        canonical = unicodedata.normalize("NFD", character)
        for second in canonical[1:]:  # may form one character with the one before it
            if ord(second) < len(table):
                table[ord(second)] = CHANGES
        if unicodedata.normalize("NFKC", character) != character:
            table[code] = CHANGES
        elif unicodedata.combining(character):
            table[code] = max(table[code], JOINS)
    table[0x1160:0x1200] = CHANGES  # Hangul vowels and final consonants
    table[0xD800:0xE000] = BEYOND  # surrogates: characters outside the basic multilingual plane
    for character in (*INVISIBLE, *(FULL_STOPS if with_sentences else "")):
        table[ord(character)] |= LOOKED_FOR if character != TEXT_END else 0
    return table


def _mark_sentences(text: np.ndarray) -> None:
    """Overwrite the space or line break after every sentence with a mark, in a normalised text in UTF-8, ``[bytes]`` uint8."""
    ends = np.zeros(len(text), bool)
    for stop in STOPS:
        ends |= text == ord(stop)
    after = np.flatnonzero(ends) + 1
    padded = np.pad(text, (0, 4))
    spaces = [after]
    for closing in CLOSING:
        encoded = closing.encode()
        follows = np.logical_and.reduce([padded[after + offset] == byte for offset, byte in enumerate(encoded)])
        spaces.append(after[follows] + len(encoded))
    found = np.concatenate(spaces)
    text[found[padded[found] == ord(" ")]] = ord(SENTENCE_END)
    text[text == ord("\n")] = ord(SENTENCE_END)


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=8).digest()


NOTHING = np.frombuffer(_digest(b""), "<u8")[0]
