import sys

import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.evaluation.extras import metric_library
from mlm_jax.evaluation.translation import translation_scores


def test_a_perfect_translation_scores_one_hundred():
    lines = ["the cat sat on the mat today", "and then it went away again"]
    scores = translation_scores(lines, lines, "en")
    assert (scores.bleu, scores.chrf) == (pytest.approx(100), pytest.approx(100))
    assert "tok:13a" in scores.bleu_signature
    assert "nw:2" in scores.chrf_signature  # the word bigrams that make chrF into chrF++


@pytest.mark.parametrize(
    ("language", "tokenizer"), [("zh-Hans", "zh"), ("jpn_Jpan", "char"), ("th", "char"), ("hi", "13a")]
)
def test_scripts_without_spaces_are_not_split_at_spaces(language, tokenizer):
    lines = ["起初神创造天地地是空虚混沌"]
    scores = translation_scores(lines, lines, language)
    assert f"tok:{tokenizer}" in scores.bleu_signature


def test_empty_translations_score_nothing():
    scores = translation_scores(["", ""], ["one two three four", "five six seven eight"], "en")
    assert (scores.bleu, scores.chrf) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("hypotheses", "references", "problem"), [(["a"], [], "cannot be scored"), ([], [], "no reference")]
)
def test_what_cannot_be_scored_is_refused(hypotheses, references, problem):
    with pytest.raises(UserError, match=problem):
        translation_scores(hypotheses, references, "en")


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(UserError, match=r"pip install -e '\S+\[metrics\]'"):
        metric_library("sacrebleu")
