from collections import Counter

import numpy as np
import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.evaluation.retrieval import match
from mlm_jax.inference.synthetic import Recipe, pair_margins, synthetic_pairs
from mlm_jax.inference.translator import Hypothesis, Search, Translation


class Reader:
    """A translator with a list of translations, and an encoder that gives words of equal meaning equal embeddings."""

    def __init__(self, translations):
        self.translations = translations

    def stream(self, texts, *, target_language, source_language, search, counts):
        assert (target_language, source_language) == ("en", "de")
        for text in texts:
            written, ended = self.translations.get(text, (None, True))
            found = () if written is None else (Hypothesis(written, -1.0, ended, ()),)
            yield text, Translation(found)

    def embed(self, texts, *, language):
        assert language in ("en", "de")
        rng = np.random.default_rng(0)
        meanings = {name: rng.normal(size=16) for name in "abcdefgh"}
        return np.array([sum(meanings[word.lower()] for word in text.split()) for text in texts], np.float32)


TRANSLATIONS = {
    "A b": ("a b", True),
    "B c": ("b c", True),
    "C d": ("c\td ", True),
    "D e": ("d e", True),
    "E f": ("e f", True),
    "F g": ("a c", True),  # a wrong translation
    "G h": ("g h g h", False),
    "H a": ("H a", True),
    "A c": (" ", True),
}


def test_pairs_are_kept_or_dropped_for_a_reason_that_is_counted():
    counts = Counter()
    reader = Reader(TRANSLATIONS)
    texts = ["", *TRANSLATIONS]
    back = list(synthetic_pairs(reader, reader, iter(texts), Recipe("back", "de", "en"), counts))
    assert back == [
        ("<BT> a b", "A b"),
        ("<BT> b c", "B c"),
        ("<BT> c d", "C d"),
        ("<BT> d e", "D e"),
        ("<BT> e f", "E f"),
    ]
    assert counts == {
        "texts": 10,
        "judged": 6,
        "kept": 5,
        "dropped: below the margin": 1,
        "dropped: empty text": 1,
        "dropped: translation does not end": 1,
        "dropped: translation is the text": 1,
        "dropped: empty translation": 1,
    }


def test_forward_translations_come_second_and_no_margin_keeps_all_that_were_judged():
    counts = Counter()
    reader = Reader(TRANSLATIONS)
    recipe = Recipe("forward", "de", "en", margin=0.0)
    forward = list(synthetic_pairs(reader, reader, iter(TRANSLATIONS), recipe, counts))
    assert forward[0] == ("A b", "a b") and forward[-1] == ("F g", "a c") and counts["kept"] == 6
    assert recipe.pair == "de-en" and Recipe("back", "de", "en").pair == "en-de"


def test_margins_are_those_of_mining():
    rng = np.random.default_rng(0)
    sources = rng.normal(size=(30, 8))
    targets = sources + 0.1 * rng.normal(size=(30, 8))
    matches = match(sources, targets, "ratio_margin")
    right = matches.forward == np.arange(30)
    assert right.mean() > 0.9
    np.testing.assert_allclose(pair_margins(sources, targets)[right], matches.forward_scores[right], rtol=1e-5)
    assert (pair_margins(sources, np.roll(targets, 1, axis=0)) < 1).all()


def test_a_pair_without_neighbours_is_not_kept_by_a_margin_that_says_nothing():
    counts, reader = Counter(), Reader(TRANSLATIONS)
    assert list(synthetic_pairs(reader, reader, ["F g"], Recipe("back", "de", "en"), counts)) == []
    assert counts == {"texts": 1, "judged": 1, "dropped: without neighbours to be judged by": 1}


def test_bad_recipes():
    with pytest.raises(UserError, match="did you mean 'back'"):
        Recipe("backward", "de", "en")
    with pytest.raises(UserError, match="give --from"):
        Recipe("back", None, "en")
    with pytest.raises(UserError, match="leave out --n-best"):
        Recipe("back", "de", "en", Search(count=2))
