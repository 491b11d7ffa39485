"""Byte-pair encoding: learn the merges that follow those of a vocabulary."""

from __future__ import annotations

import heapq
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

from mlm_jax.data.vocabulary.pieces import BYTE, WORD, Vocabulary

BATCH = 1000  # texts that are encoded at a time


def count_words(vocabulary: Vocabulary, texts: Sequence[str]) -> Counter[tuple[str, ...]]:
    """Count the words of a text, each as a tuple of its pieces.

    A word ends where the tokenizer splits text, before a piece that begins a word, and at bytes and unknown pieces. If the
    tokenizer does not split text, it also ends between letters, digits and other characters, as in SentencePiece's training.
    """
    words: Counter[tuple[str, ...]] = Counter()
    starts, special = vocabulary.word_starts, vocabulary.is_special
    pieces = vocabulary.pieces(range(vocabulary.size))
    for start in range(0, len(texts), BATCH):
        for ids, parts in vocabulary.encode_parts(texts[start : start + BATCH]):
            word: list[str] = []
            before = -1
            for index, part in zip(ids, parts):
                piece = pieces[index]
                alone = special[index] or BYTE.fullmatch(piece)
                ends = part != before or starts[index] or alone
                if ends or (word and not vocabulary.is_byte_level and _sign(word[-1][-1]) != _sign(_text(piece)[:1])):
                    words[tuple(word)] += 1
                    word = []
                if not alone:
                    word.append(piece)
                before = part
            words[tuple(word)] += 1
    return words


def _text(piece: str) -> str:
    return piece.removeprefix("##") or piece


def _sign(character: str) -> str:
    """Return the class of a character: letter (also a mark, or the sign of a space), digit, or other."""
    kind = unicodedata.category(character)[0] if character and character != WORD else "L"
    return {"L": "letter", "M": "letter", "N": "digit"}.get(kind, "other")


def further_merges(
    words: Mapping[tuple[str, ...], int], count: int, known: Collection[str], inside: str = ""
) -> list[tuple[str, str]]:
    """Return further merges of BPE: the most frequent pair of neighbouring pieces, repeatedly (Sennrich et al. 2016).

    Of equally frequent pairs, the first in the order of their characters is merged.

    Args:
      words: {pieces of a word: its number of occurrences}.
      count: most new pieces; a pair that occurs only once is not merged.
      known: existing pieces, which merges may also produce.
      inside: prefix of pieces inside a word (``##`` of WordPiece).

    Returns:
      (left, right) pieces, in order.
    """
    cut = [list(word) for word in words]
    often = [words[word] for word in words]
    pairs: Counter[tuple[str, str]] = Counter()
    words_with: defaultdict[tuple[str, str], set[int]] = defaultdict(set)  # pair → words that contain it, or did
    for number, word in enumerate(cut):
        for pair in zip(word, word[1:]):
            pairs[pair] += often[number]
            words_with[pair].add(number)
    found: list[tuple[str, str]] = []
    new: set[str] = set()
    # A pair whose count falls keeps its old entry, which is corrected when it comes to the top.
    heap = [(-number, pair) for pair, number in pairs.items()]
    heapq.heapify(heap)
    while len(new) < count and heap:
        entry, best = heapq.heappop(heap)
        if pairs[best] != -entry:
            heapq.heappush(heap, (-pairs[best], best))
            continue
        if pairs[best] < 2:
            break
        piece, grown = best[0] + best[1].removeprefix(inside), set[tuple[str, str]]()
        for number in words_with.pop(best):
            word = cut[number]
            for pair in zip(word, word[1:]):
                pairs[pair] -= often[number]
            merged: list[str] = []
            for part in word:  # from the left, as BPE merges
                if merged and (merged[-1], part) == best:
                    merged[-1] = piece
                else:
                    merged.append(part)
            cut[number] = merged
            for pair in zip(merged, merged[1:]):
                pairs[pair] += often[number]
                if piece in pair:  # the others were there before
                    words_with[pair].add(number)
                    grown.add(pair)
        for pair in grown:
            heapq.heappush(heap, (-pairs[pair], pair))
        found.append(best)
        if piece not in known:
            new.add(piece)
    return found
