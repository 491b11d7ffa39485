"""New pieces for a published vocabulary, in the algorithm that it has; its old pieces keep their ids."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

import sentencepiece
from tokenizers import Tokenizer

from mlm_jax.adaptation.merging import count_words, further_merges
from mlm_jax.common.errors import UserError, one_line
from mlm_jax.data.vocabulary.proto import model_proto
from mlm_jax.data.vocabulary.published import RESERVED, PublishedVocabulary


def grow_published(vocabulary: PublishedVocabulary, texts: Iterable[str], count: int) -> PublishedVocabulary:
    """Add up to ``count`` pieces that are learned from a text.

    BPE goes on merging the pieces that the vocabulary cuts the text into; so does WordPiece, whose longest match then finds the
    new pieces. Unigram pieces are trained on the text as the tokenizer normalises it. New pieces take the places that are kept
    for later (``[unused7]``), and then follow the last id. Old text is cut as before, except where a new piece covers it.

    Args:
      vocabulary: of a published model.
      texts: of the new language.
      count: of new pieces, at most.

    Raises:
      UserError: the vocabulary is of another kind, or the text does not suffice to train pieces.
    """
    described = json.loads(vocabulary.tokenizer_json)
    model = described["model"]
    grow = {"BPE": _grow_merges, "WordPiece": _grow_merges, "Unigram": _grow_unigram}.get(model.get("type"))
    if grow is None:
        raise UserError(f"a tokenizer of type {model.get('type')!r} cannot be grown")
    if count:
        grow(vocabulary, described, list(texts), count)
    return PublishedVocabulary(json.dumps(described, ensure_ascii=False), vocabulary.ids, vocabulary.languages)


def _grow_merges(vocabulary: PublishedVocabulary, described: dict[str, Any], texts: Sequence[str], count: int) -> None:
    model = described["model"]
    inside = model.get("continuing_subword_prefix") or ""
    known = set(vocabulary.pieces(range(vocabulary.size)))
    new_ids = iter([*_free(described), *range(vocabulary.size, vocabulary.size + count)])
    for left, right in further_merges(count_words(vocabulary, texts), count, known, inside):
        piece = left + right.removeprefix(inside)
        if piece not in known:
            known.add(piece)
            index = next(new_ids)
            _vacate(described, index)
            model["vocab"][piece] = index
        if "merges" in model:
            model["merges"].append([left, right])


def _free(described: dict[str, Any]) -> list[int]:
    """Return the ids of places that are kept for later."""
    return sorted(index for piece, index in described["model"]["vocab"].items() if RESERVED.fullmatch(piece))


def _vacate(described: dict[str, Any], index: int) -> None:
    """Take the piece out that keeps a place for later."""
    for piece in [piece for piece, there in described["model"]["vocab"].items() if there == index]:
        del described["model"]["vocab"][piece]
    described["added_tokens"] = [token for token in described.get("added_tokens") or () if token["id"] != index]


def _grow_unigram(vocabulary: PublishedVocabulary, described: dict[str, Any], texts: Sequence[str], count: int) -> None:
    tokenizer, vocab = Tokenizer.from_str(vocabulary.tokenizer_json), described["model"]["vocab"]
    normalise = tokenizer.normalizer.normalize_str if tokenizer.normalizer else str
    out = io.BytesIO()
    lines = [line for text in texts for line in normalise(text).splitlines() if line.strip()]
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=out,
            vocab_size=2 * count + 1000,
            hard_vocab_limit=False,
            character_coverage=1.0,
            normalization_rule_name="identity",
            max_sentence_length=1 << 16,
            minloglevel=2,
            num_threads=1,
        )
    except RuntimeError as error:
        raise UserError(
            f"SentencePiece could not be trained: {one_line(error)}", remedy="give more text of the new language"
        ) from error
    # Ids of a unigram model are places in its list, so that added tokens behind it have to be in it as well.
    names = vocabulary.pieces(range(vocabulary.size))
    vocab.extend([name, 0.0] for name in names[len(vocab) :])
    known, trained = set(names), model_proto(out.getvalue()).pieces
    new = [entry for entry in trained if entry.type == entry.NORMAL and entry.piece not in known]
    new.sort(key=lambda entry: (len(entry.piece) > 1, -entry.score))
    vocab.extend([entry.piece, entry.score] for entry in new[:count])
