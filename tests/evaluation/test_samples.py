"""Which fill-in-the-blank samples are shown, and which pieces may be guessed."""

import numpy as np
import pytest

from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.evaluation.samples import choose_blanks, common_pieces, knowledge, masked_samples, wordless


def blank(truth, *guesses):
    return {"truth": truth, "guesses": [[piece, p] for piece, p in guesses]}


def test_what_a_sample_shows_of_knowledge():
    right, close, wrong = blank("a", ("a", 0.9)), blank("b", ("x", 0.5), ("b", 0.2)), blank("c", ("x", 0.9))
    assert knowledge(["text", right, close]) == (0.5, pytest.approx(0.55))
    assert knowledge([wrong]) == (0.0, 0.0)


def test_the_texts_are_kept_that_the_model_fills_best():
    vocabulary = Vocabulary.bytes(("de",), 0)
    texts = ["a b c d e f", "g h i j k l", "m n o p q r"]
    documents = {
        "de": [np.array([*vocabulary.document_prefix("language", "de"), *vocabulary.encode(text), 1]) for text in texts]
    }

    def predict(rows, positions):
        """Every guess is right with a probability that grows with the text's first letter."""
        tokens = np.asarray(rows.tokens)
        shape = (*positions.shape, 1)
        first = vocabulary.encode("m")[0]
        knows = (tokens == first).any(axis=1) | (tokens == vocabulary.encode("n")[0]).any(axis=1)
        return np.full(shape, vocabulary.encode("p")[0]), np.where(knows, 0.9, 0.1)[:, None, None] * np.ones(shape)

    kept = masked_samples(predict, documents, ("de",), vocabulary, longest=64, keep=2)
    every = masked_samples(predict, documents, ("de",), vocabulary, longest=64)
    assert len(every["de"]) == 3 and len(kept["de"]) == 2
    assert [knowledge(sample) for sample in kept["de"]] == sorted(
        (knowledge(sample) for sample in every["de"]), reverse=True
    )[:2]


def test_pieces_that_are_no_word():
    pieces = ["▁", ",", "▁,", "。", "—", "▁and", "5", "क", "和", "<0x41>"]
    assert wordless(pieces).tolist() == [True] * 5 + [False] * 5


def test_content_words_are_masked_if_there_are_any():
    vocabulary = Vocabulary.bytes(("de",), 0)  # every byte is a piece, so that each letter is a word here

    class Words:
        is_special, decode = vocabulary.is_special, vocabulary.decode
        word_starts = np.ones_like(vocabulary.word_starts)

    letters = {letter: vocabulary.encode(letter)[0] for letter in "xyabcdefgh"}
    documents = [np.array([letters[c] for c in "xy" + own + "x"]) for own in ("ab", "cd", "ef", "gh")]
    common = common_pieces(documents)
    assert set(common) == {letters["x"], letters["y"]}
    for seed in range(20):
        (blank,) = choose_blanks(documents[0], Words, np.random.default_rng(seed), common)
        assert documents[0][blank] in (letters["a"], letters["b"])
        (blank,) = choose_blanks(documents[0][:2], Words, np.random.default_rng(seed), common)
        assert documents[0][blank] in common  # there is nothing else
