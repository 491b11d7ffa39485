"""``mlm-jax grow``: a language added to a vocabulary, whose old pieces keep their ids and old text its cuts."""

from __future__ import annotations

import io
from collections.abc import Iterable

import sentencepiece
from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError, one_line
from mlm_jax.data.store.prepare import SENTENCE
from mlm_jax.data.vocabulary.normalisation import normalise_like
from mlm_jax.data.vocabulary.pieces import MASK, Vocabulary, language_token
from mlm_jax.data.vocabulary.proto import model_proto
from mlm_jax.data.vocabulary.published import PublishedVocabulary
from mlm_jax.model.sharing import indexes

MOST_DOCUMENTS = 200_000  # that new pieces are learned from


def grow_vocabulary(vocabulary: Vocabulary, language: str, sentences: Iterable[str], pieces: int) -> Vocabulary:
    """Add a language's token and up to ``pieces`` pieces of its script, without changing how other text is cut.

    Every added piece holds a character that no old piece has: text of the old characters is cut as before, and what
    used to fall back to bytes is not any more. A language of a script that is known gets its token only.

    Args:
      vocabulary: of SentencePiece; ids of its pieces stay.
      language: code of the new language.
      sentences: its text.
      pieces: at most.

    Raises:
      UserError: the vocabulary is not of SentencePiece, or has the language already; ``pieces`` is below 0, or the text
        does not do to train them.
    """
    if pieces < 0:
        raise UserError(f"there cannot be {pieces} new pieces", remedy="give a number from 0")
    if isinstance(vocabulary, PublishedVocabulary):
        raise UserError(
            "a published model's vocabulary cannot be grown",
            remedy="train a vocabulary for all languages, and take over the weights with checkpoint.init",
        )
    if vocabulary.is_bytes and pieces:
        raise UserError("a vocabulary of bytes needs no new pieces", remedy="grow it by 0 pieces")
    if language in vocabulary.languages:
        raise UserError(f"the vocabulary has language {language!r} already",
                        remedy="train on without growing it, or give another code")  # fmt: skip
    if vocabulary.model is None:  # bytes
        return Vocabulary.bytes((*vocabulary.languages, language), vocabulary.sentinels)
    model = model_proto(vocabulary.model)
    known = {entry.piece for entry in model.pieces}
    for piece in (MASK, *map(language_token, (*vocabulary.languages, language))):
        if piece not in known:  # so that it keeps its id when pieces follow
            model.pieces.add(piece=piece, score=0.0, type=model.SentencePiece.CONTROL)
    for piece, score in _new_pieces(vocabulary.model, sentences, pieces) if pieces else ():
        model.pieces.add(piece=piece, score=score, type=model.SentencePiece.NORMAL)
    return Vocabulary(model.SerializeToString(), (*vocabulary.languages, language), vocabulary.sentinels)


def _new_pieces(serialised: bytes, sentences: Iterable[str], count: int) -> list[tuple[str, float]]:
    """Train pieces on the text and return ``count`` with their scores (log-probabilities).

    They are the single characters that the vocabulary lacks, and then the likeliest pieces that hold one of them (of
    BPE, the first merges).
    """
    old = model_proto(serialised)
    is_bpe = old.trainer_spec.model_type == old.trainer_spec.BPE
    characters = {character for entry in old.pieces if entry.type == entry.NORMAL for character in entry.piece}
    normalise = normalise_like(serialised).normalize  # new pieces are of the text as the vocabulary reads it
    parts = (normalise(text[start : start + SENTENCE]) for text in sentences for start in range(0, len(text), SENTENCE))
    text = [part for part in parts if set(part) - characters]
    alphabet = set().union(*text)
    if not any(character.isalpha() for character in alphabet - characters):
        return []
    out = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text), model_writer=out, model_type="bpe" if is_bpe else "unigram",
            # Every character has to be a piece.
            vocab_size=max(2 * count + 1000, 2 * len(alphabet)), hard_vocab_limit=False, character_coverage=1.0,
            normalization_rule_name="identity", max_sentence_length=1 << 16, minloglevel=2, num_threads=1,
        )  # fmt: skip
    except RuntimeError as error:
        raise UserError(f"SentencePiece could not be trained: {one_line(error)}",
                        remedy="give more text of the new language") from error  # fmt: skip
    trained = model_proto(out.getvalue())
    found = [(p.piece, p.score) for p in trained.pieces if p.type == p.NORMAL and set(p.piece) - characters]
    return sorted(found, key=lambda entry: (len(entry[0]) > 1, -entry[1]))[:count]


def language_specific(model: ConfigDict) -> list[str]:
    """Return regexes of the parameters of which each language has its own."""
    patterns = ["language_embedding"] if model.language_embedding else []
    for stack in ("encoder", "decoder"):
        for number, entry in enumerate(model[stack]):
            weights, adapter = indexes(entry)
            if weights in ("source_language", "target_language"):
                patterns.append(f"{stack}/{number}/.*")
            elif adapter in ("source_language", "target_language"):
                patterns.append(f"{stack}/{number}/.*adapter.*")
    return patterns
