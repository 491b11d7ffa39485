"""Add pieces to a published vocabulary, by its own algorithm; its old pieces keep their ids."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from tokenizers import Tokenizer

from mlm_jax.adaptation.merging import count_words, further_merges
from mlm_jax.adaptation.trained import trained_pieces
from mlm_jax.common.errors import UserError
from mlm_jax.data.vocabulary.published import RESERVED, PublishedVocabulary


def grow_published(vocabulary: PublishedVocabulary, texts: Iterable[str], count: int) -> PublishedVocabulary:
    """Add up to ``count`` pieces that are learned from a text.

    For BPE, characters that are no pieces are added first, and then more merges of the text's tokens are learned. The same is
    done for WordPiece, whose longest match then finds the new pieces. Unigram pieces are trained on the text in the tokenizer's
    normalised form. New pieces take the reserved ids (``[unused7]``) first, and then new ids. The tokens of old text change only
    where it contains a new piece.

    Args:
      vocabulary: vocabulary of a published model.
      texts: texts of the new language.
      count: most pieces to add.

    Raises:
      UserError: the vocabulary is of another kind, a piece would get another id, or the text does not suffice to train pieces.
    """
    described = json.loads(vocabulary.tokenizer_json)
    model = described["model"]
    grow = {"BPE": _grow_merges, "WordPiece": _grow_merges, "Unigram": _grow_unigram}.get(model.get("type"))
    if grow is None:
        raise UserError(f"a tokenizer of type {model.get('type')!r} cannot be grown")
    if count:
        grow(vocabulary, described, list(texts), count)
    grown = PublishedVocabulary(json.dumps(described, ensure_ascii=False), vocabulary.ids, vocabulary.languages)
    both = zip(*(each.pieces(range(vocabulary.size)) for each in (vocabulary, grown)), strict=True)
    if moved := [old for old, new in both if old != new and not RESERVED.fullmatch(old)]:
        raise UserError(f"this vocabulary cannot be grown: the piece {moved[0]!r} would get another id")
    return grown


def _grow_merges(vocabulary: PublishedVocabulary, described: dict[str, Any], texts: Sequence[str], count: int) -> None:
    model = described["model"]
    # tokenizers numbers added tokens that are not in the model's list by the length of the list, which grows.
    for token in described.get("added_tokens") or ():
        model["vocab"].setdefault(token["content"], token["id"])
    inside = model.get("continuing_subword_prefix") or ""
    known = set(vocabulary.pieces(range(vocabulary.size)))
    new_ids = iter([*_free(described), *range(vocabulary.size, vocabulary.size + count)])

    def add(piece: str) -> None:
        known.add(piece)
        index = next(new_ids)
        _vacate(described, index)
        model["vocab"][piece] = index

    characters = [] if vocabulary.is_byte_level else _new_characters(vocabulary, texts, known, inside)[:count]
    for piece in characters:
        add(piece)
    if characters:  # before, they were bytes or unknown pieces, which are not merged
        text = json.dumps(described, ensure_ascii=False)
        vocabulary = PublishedVocabulary(text, vocabulary.ids, vocabulary.languages)
    for left, right in further_merges(count_words(vocabulary, texts), count - len(characters), known, inside):
        piece = left + right.removeprefix(inside)
        if piece not in known:
            add(piece)
        if "merges" in model:
            model["merges"].append([left, right])


def _new_characters(
    vocabulary: PublishedVocabulary, texts: Sequence[str], known: Collection[str], inside: str
) -> list[str]:
    """Return characters of the text that are no pieces, the most frequent first; they have to occur twice.

    With ``inside``, a character inside a word is another piece than one at its beginning.
    """
    tokenizer = Tokenizer.from_str(vocabulary.tokenizer_json)
    normalise = tokenizer.normalizer.normalize_str if tokenizer.normalizer else str
    found: Counter[str] = Counter()
    for text in texts:
        normal = normalise(text)
        parts = tokenizer.pre_tokenizer.pre_tokenize_str(normal) if tokenizer.pre_tokenizer else [(normal, None)]
        for word, _ in parts:
            found.update(word[:1])
            found.update(inside + character for character in word[1:])
    return [piece for piece, times in found.most_common() if times > 1 and piece not in known and not piece.isspace()]


def _free(described: dict[str, Any]) -> list[int]:
    """Return the reserved ids."""
    return sorted(index for piece, index in described["model"]["vocab"].items() if RESERVED.fullmatch(piece))


def _vacate(described: dict[str, Any], index: int) -> None:
    """Remove the piece with a reserved id."""
    for piece in [piece for piece, there in described["model"]["vocab"].items() if there == index]:
        del described["model"]["vocab"][piece]
    described["added_tokens"] = [token for token in described.get("added_tokens") or () if token["id"] != index]


def _grow_unigram(vocabulary: PublishedVocabulary, described: dict[str, Any], texts: Sequence[str], count: int) -> None:
    tokenizer, vocab = Tokenizer.from_str(vocabulary.tokenizer_json), described["model"]["vocab"]
    normalise = tokenizer.normalizer.normalize_str if tokenizer.normalizer else str
    lines = [line for text in texts for line in normalise(text).splitlines() if line.strip()]
    # The ids of a unigram model are indices into its list, so added tokens after it must be in the list as well.
    names = vocabulary.pieces(range(vocabulary.size))
    vocab.extend([name, 0.0] for name in names[len(vocab) :])
    vocab.extend([piece, score] for piece, score in trained_pieces(lines, set(names), count)[:count])
