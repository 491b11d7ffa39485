"""``mlm-jax grow``: add a language to a vocabulary, whose old pieces keep their ids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ml_collections import ConfigDict

from mlm_jax.adaptation.grow_published import grow_published
from mlm_jax.adaptation.merging import count_words, further_merges
from mlm_jax.adaptation.trained import trained_pieces
from mlm_jax.common.errors import UserError
from mlm_jax.common.lines import windows
from mlm_jax.data.store.vocabulary import SENTENCE
from mlm_jax.data.vocabulary.normalisation import normalise_like
from mlm_jax.data.vocabulary.pieces import MASK, Vocabulary, language_token
from mlm_jax.data.vocabulary.proto import model_proto
from mlm_jax.data.vocabulary.published import PublishedVocabulary
from mlm_jax.model.sharing import indexes

BATCH = 1000  # documents that are encoded at a time


def grow_vocabulary(vocabulary: Vocabulary, language: str, sentences: Iterable[str], pieces: int) -> Vocabulary:
    """Add a language's token and up to ``pieces`` pieces of its text, learned as the old ones were (unigram or BPE).

    A published vocabulary has no language tokens, so only pieces are added (:mod:`mlm_jax.adaptation.grow_published`). For a
    vocabulary of this package, there are two cases. If the text has characters that no old piece contains, each new piece contains
    such a character. These were spelled as bytes before, and the tokens of all other text do not change. If all characters are
    known, new pieces consist of known characters, and the tokens of old text change only where it contains a new piece.

    Args:
      vocabulary: vocabulary of any kind; its pieces keep their ids.
      language: code of the new language.
      sentences: text of the new language.
      pieces: most pieces to add.

    Raises:
      UserError: the vocabulary has the language already; ``pieces`` is below 0, or the text
        does not do to train them.
    """
    if pieces < 0:
        raise UserError(f"the number of new pieces must be at least 0, not {pieces}", remedy="give a number from 0")
    if isinstance(vocabulary, PublishedVocabulary):
        return grow_published(vocabulary, sentences, pieces)
    if vocabulary.is_bytes and pieces:
        raise UserError("a vocabulary of bytes needs no new pieces", remedy="grow it by 0 pieces")
    if language in vocabulary.languages:
        raise UserError(
            f"the vocabulary has language {language!r} already",
            remedy="train on without growing it, or give another code",
        )
    if vocabulary.model is None:  # bytes
        return Vocabulary.bytes((*vocabulary.languages, language), vocabulary.sentinels)
    model = model_proto(vocabulary.model)
    known = {entry.piece for entry in model.pieces}
    for piece in (MASK, *map(language_token, (*vocabulary.languages, language))):
        if piece not in known:  # so that it keeps its id when pieces follow
            model.pieces.add(piece=piece, score=0.0, type=model.SentencePiece.CONTROL)
    for piece, score in _new_pieces(vocabulary, sentences, pieces) if pieces else ():
        model.pieces.add(piece=piece, score=score, type=model.SentencePiece.NORMAL)
    return Vocabulary(model.SerializeToString(), (*vocabulary.languages, language), vocabulary.sentinels)


def _new_pieces(vocabulary: Vocabulary, sentences: Iterable[str], count: int) -> list[tuple[str, float]]:
    """Train pieces on the text and return ``count`` with their scores (log-probabilities; of BPE, ranks).

    For a new script, these are the missing single characters, and then the likeliest pieces that contain one of them (for BPE, the
    first merges). For a known script, they are the likeliest missing pieces (for BPE, the merges after the vocabulary's own).
    """
    assert vocabulary.model is not None
    serialised = vocabulary.model
    old = model_proto(serialised)
    is_bpe = old.trainer_spec.model_type == old.trainer_spec.BPE
    characters = {character for entry in old.pieces if entry.type == entry.NORMAL for character in entry.piece}
    # New pieces are learned from text in the vocabulary's normalised form.
    normalise = normalise_like(serialised).normalize
    parts = [normalise(text[start : start + SENTENCE]) for text in sentences for start in range(0, len(text), SENTENCE)]
    alphabet = set().union(*parts)
    is_new_script = any(character.isalpha() for character in alphabet - characters)
    if is_bpe and not is_new_script:
        least = min(entry.score for entry in old.pieces if entry.type == entry.NORMAL)
        there = {entry.piece for entry in old.pieces}
        merged = dict.fromkeys(map("".join, further_merges(count_words(vocabulary, parts), count, there)))
        return [(piece, least - 1 - rank) for rank, piece in enumerate(piece for piece in merged if piece not in there)]
    text = [part for part in parts if set(part) - characters] if is_new_script else parts
    there = {entry.piece for entry in old.pieces}
    found = trained_pieces(text, there, count, "bpe" if is_bpe else "unigram")
    return [entry for entry in found if not is_new_script or set(entry[0]) - characters][:count]


class Recut(NamedTuple):
    """How much the tokens of a text change when a vocabulary grows.

    Attributes:
      texts: number of texts.
      changed: number of texts whose ids change.
      before: tokens of all texts in the old vocabulary.
      after: tokens of all texts in the grown vocabulary.
      unknown_before: unknown pieces among the tokens of the old vocabulary.
      unknown_after: unknown pieces among the tokens of the grown vocabulary.
    """

    texts: int
    changed: int
    before: int
    after: int
    unknown_before: int
    unknown_after: int


def recut(old: Vocabulary, grown: Vocabulary, texts: Iterable[str]) -> Recut:
    """Count the texts whose ids change when a vocabulary grows.

    Args:
      old: the old vocabulary.
      grown: the vocabulary with new pieces.
      texts: texts of languages that the model knows.
    """
    total = Recut(0, 0, 0, 0, 0, 0)
    for window in windows(texts, BATCH):
        ids = [vocabulary.encode_batch(window) for vocabulary in (old, grown)]
        tokens = [sum(map(len, side)) for side in ids]
        unknown = [sum(one.count(each.unk_id) for one in side) for side, each in zip(ids, (old, grown))]
        found = (len(window), sum(a != b for a, b in zip(*ids)), *tokens, *unknown)
        total = Recut(*(a + b for a, b in zip(total, found)))
    return total


def old_rows(old: Vocabulary, grown: Vocabulary) -> tuple[tuple[int, int], ...]:
    """Return the ranges (first, one past the last) of ids that mean the same in both vocabularies."""
    same = [a == b for a, b in zip(old.pieces(range(old.size)), grown.pieces(range(grown.size)))]
    bounds = [index for index, (a, b) in enumerate(zip([False, *same], [*same, False])) if a != b]
    return tuple(zip(bounds[::2], bounds[1::2]))


def language_specific(model: ConfigDict) -> list[str]:
    """Return regexes of the language-specific parameters."""
    patterns = ["language_embedding"] if model.language_embedding else []
    for stack in ("encoder", "decoder"):
        for number, entry in enumerate(model[stack]):
            weights, adapter = indexes(entry)
            if weights in ("source_language", "target_language"):
                patterns.append(f"{stack}/{number}/.*")
            elif adapter in ("source_language", "target_language"):
                patterns.append(f"{stack}/{number}/.*adapter.*")
    return patterns
