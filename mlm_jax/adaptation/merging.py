"""Byte-pair encoding that goes on where a vocabulary stopped."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

from mlm_jax.data.vocabulary.pieces import BYTE, Vocabulary


def count_words(vocabulary: Vocabulary, texts: Sequence[str]) -> Counter[tuple[str, ...]]:
    """Count the words of a text, as the pieces that the vocabulary cuts them into; bytes and unknown pieces end a word."""
    words: Counter[tuple[str, ...]] = Counter()
    starts, special = vocabulary.word_starts, vocabulary.is_special
    pieces = vocabulary.pieces(range(vocabulary.size))
    for ids in vocabulary.encode_batch(texts):
        word: list[str] = []
        for index in ids:
            if starts[index] or special[index] or BYTE.fullmatch(pieces[index]):
                words[tuple(word)] += 1
                word = []
            if not (special[index] or BYTE.fullmatch(pieces[index])):
                word.append(pieces[index])
        words[tuple(word)] += 1
    return words


def further_merges(
    words: Mapping[tuple[str, ...], int], count: int, known: Collection[str], inside: str = ""
) -> list[tuple[str, str]]:
    """Return the merges that BPE would go on with: of the commonest pair of neighbours, again and again (Sennrich et al. 2016).

    Args:
      words: {pieces of a word: how often it occurs}.
      count: of new pieces, at most; a pair that occurs once only makes none.
      known: pieces that there are already, which merges may make as well.
      inside: what pieces inside a word begin with (WordPiece's ``##``).

    Returns:
      (left, right) pieces, in order.
    """
    cut = [list(word) for word in words]
    often = [words[word] for word in words]
    pairs: Counter[tuple[str, str]] = Counter()
    places: defaultdict[tuple[str, str], set[int]] = defaultdict(set)  # pair → words that had it
    for number, word in enumerate(cut):
        for pair in zip(word, word[1:]):
            pairs[pair] += often[number]
            places[pair].add(number)
    found: list[tuple[str, str]] = []
    new: set[str] = set()
    while len(new) < count and pairs:
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        if pairs[best] < 2:
            break
        for number in places.pop(best):
            word = cut[number]
            for pair in zip(word, word[1:]):
                pairs[pair] -= often[number]
            merged: list[str] = []
            for piece in word:  # from the left, as BPE merges
                if merged and (merged[-1], piece) == best:
                    merged[-1] += piece.removeprefix(inside)
                else:
                    merged.append(piece)
            cut[number] = merged
            for pair in zip(merged, merged[1:]):
                pairs[pair] += often[number]
                places[pair].add(number)
        pairs = +pairs  # without those that are gone
        found.append(best)
        if (piece := best[0] + best[1].removeprefix(inside)) not in known:
            new.add(piece)
    return found
