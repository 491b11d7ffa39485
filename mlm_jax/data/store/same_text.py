"""When two texts are the same text: equal after Unicode's NFKC and without white space, as 64-bit hashes.

NFKC is the normalisation of the vocabulary, which also makes one space of several. White space is left out altogether, so
that words with a label each ("Hello , world") are the same text as the sentence that they were cut from.

A text that is longer than a sentence is also compared sentence by sentence. A sentence ends at a line break, behind one of
``。！？｡।॥؟۔።։``, and behind ``.``, ``!``, ``?`` or ``…`` if a space follows, perhaps after a closing quote or bracket.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

TEXT_END, SENTENCE_END = "\x1e", "\x1f"  # ASCII's separators of records and of units
STOPS = ".!?"  # end a sentence if a space follows; NFKC makes "…" three of them
CLOSING = "\"')]”’»"  # one of them may stand between a stop and its space
FULL_STOPS = "。！？｡।॥؟۔።։"  # end a sentence whatever follows
# What NFKC leaves as it is of white space, and of marks without a width: {character: what is read instead}.
INVISIBLE = dict.fromkeys("\u0085\u1680\u2028\u2029\x1e", " ") | dict.fromkeys("\u180e\u200b\ufeff\u00ad", "")
ASCII_SPACE = b" \t\n\r\x0b\x0c\x1c\x1d"


class Fingerprints(NamedTuple):
    """Hashes of texts and of their sentences.

    Attributes:
      hashes: ``[n]`` uint64, of every text followed by those of its sentences, if it has several.
      owners: ``[n]`` index of the text that each is of.
      whole: ``[texts]`` where in ``hashes`` each text's own stands.
      empty: ``[texts]`` bool, texts of nothing but white space.
    """

    hashes: np.ndarray
    owners: np.ndarray
    whole: np.ndarray
    empty: np.ndarray


def fingerprints(texts: Sequence[str], shortest: int) -> Fingerprints:
    """Return the hashes of texts and of those of their sentences that have at least so many bytes without white space."""
    digests: list[bytes] = []
    sizes = []
    for text in _compact(texts, with_sentences=True):
        if b"\x1f" not in text:
            digests.append(_digest(text))
            sizes.append(1)
            continue
        parts = [part for part in text.split(b"\x1f") if part]
        digests.append(_digest(b"".join(parts)))
        compared = [_digest(part) for part in parts if len(part) >= shortest] if len(parts) > 1 else []
        digests += compared
        sizes.append(1 + len(compared))
    hashes, counts = np.frombuffer(b"".join(digests), "<u8"), np.array(sizes, np.int64)
    whole = np.cumsum(counts) - counts
    return Fingerprints(hashes, np.repeat(np.arange(len(sizes)), counts), whole, hashes[whole] == NOTHING)


def whole_fingerprints(texts: Sequence[str]) -> Fingerprints:
    """Return the hashes of texts, without those of their sentences."""
    digests = map(_digest, _compact(texts, with_sentences=False))
    return of_hashes(np.frombuffer(b"".join(digests), "<u8"))


def of_hashes(hashes: np.ndarray) -> Fingerprints:
    """Return what :func:`whole_fingerprints` returned for the texts of these hashes, ``[texts]`` uint64."""
    index = np.arange(len(hashes))
    return Fingerprints(hashes, index, index, hashes == NOTHING)


def sentences(text: str) -> list[str]:
    """Return the sentences of a text's normalised form, each with the white space behind it."""
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
    """Return what is compared of each text, with a mark behind every sentence if that is asked for.

    All texts are worked on as one where they can be: few long strings cost less than many short ones.
    """
    if not texts:
        return []
    joined = TEXT_END.join(texts)
    if joined.count(TEXT_END) != len(texts) - 1:
        joined = TEXT_END.join(text.replace(TEXT_END, " ") for text in texts)
    if not joined.isascii():
        for character in _present(joined):
            if character in INVISIBLE:
                joined = joined.replace(character, INVISIBLE[character])
            elif with_sentences:
                joined = joined.replace(character, f"{character}\n")
        # One by one: that a short text is normal already, as most are, is seen at once.
        joined = TEXT_END.join([unicodedata.normalize("NFKC", text) for text in joined.split(TEXT_END)])
    encoded = bytearray(joined.encode("utf-8", "surrogatepass"))
    if with_sentences:
        _mark_sentences(np.frombuffer(encoded, np.uint8))
        return bytes(encoded).translate(None, ASCII_SPACE).split(b"\x1e")
    return bytes(encoded).translate(None, ASCII_SPACE + b"\x1f").split(b"\x1e")


def _present(text: str) -> list[str]:
    """Return which full stops and invisible characters a text has; one look-up of all, since few texts have any."""
    units = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), "<u2")
    return [*map(chr, np.unique(units[_LOOKED_FOR[units]]).tolist())]


def _mark_sentences(text: np.ndarray) -> None:
    """Write a mark over the space or line break behind every sentence of a normalised text in UTF-8, ``[bytes]`` uint8."""
    ends = np.zeros(len(text), bool)
    for stop in STOPS:
        ends |= text == ord(stop)
    after = np.flatnonzero(ends) + 1
    padded = np.pad(text, (0, 4))
    spaces = [after]
    for closing in CLOSING:
        encoded = closing.encode()
        follows = np.logical_and.reduce([padded[after + place] == byte for place, byte in enumerate(encoded)])
        spaces.append(after[follows] + len(encoded))
    found = np.concatenate(spaces)
    text[found[padded[found] == ord(" ")]] = ord(SENTENCE_END)
    text[text == ord("\n")] = ord(SENTENCE_END)


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=8).digest()


_LOOKED_FOR = np.isin(
    np.arange(1 << 16), [ord(character) for character in (*FULL_STOPS, *INVISIBLE) if character != TEXT_END]
)
NOTHING = np.frombuffer(_digest(b""), "<u8")[0]
