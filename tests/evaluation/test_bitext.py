import numpy as np
import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.evaluation.bitext import MinedPair, best_threshold, mine, mining_scores

RANKED = [MinedPair(0, 0, 5.0), MinedPair(1, 1, 4.0), MinedPair(2, 7, 3.0), MinedPair(3, 3, 2.0), MinedPair(4, 8, 1.0)]
GOLD = {(0, 0), (1, 1), (3, 3), (9, 9)}


def test_every_sentence_is_used_once_and_scores_fall():
    rng = np.random.default_rng(0)
    mined = mine(rng.normal(size=(20, 6)), rng.normal(size=(15, 6)))
    assert len({pair.source for pair in mined}) == len({pair.target for pair in mined}) == len(mined) <= 15
    assert [pair.score for pair in mined] == sorted((pair.score for pair in mined), reverse=True)


def test_mining_finds_the_translations_among_the_rest():
    rng = np.random.default_rng(1)
    meaning = rng.normal(size=(30, 24))
    sources = np.concatenate([meaning + 0.3 * rng.normal(size=meaning.shape), rng.normal(size=(40, 24))])
    targets = np.concatenate([rng.normal(size=(25, 24)), meaning + 0.3 * rng.normal(size=meaning.shape)])
    gold = {(i, 25 + i) for i in range(30)}
    mined = mine(sources, targets)
    scores = mining_scores(mined, gold, best_threshold(mined, gold))
    assert scores.f1 > 0.95
    assert mining_scores(mined, gold, 0.0).precision < scores.precision


def test_threshold_has_the_highest_f1_of_all():
    threshold = best_threshold(RANKED, GOLD)
    f1 = [mining_scores(RANKED, GOLD, pair.score).f1 for pair in RANKED]
    assert mining_scores(RANKED, GOLD, threshold).f1 == max(f1)
    assert threshold == 1.5  # 3 of 4 kept are right: F1 6/8, against 4/6 for the first two


def test_threshold_does_not_split_equal_scores():
    tied = [MinedPair(0, 0, 1.0), MinedPair(1, 5, 1.0), MinedPair(2, 6, 1.0), MinedPair(3, 3, 0.5)]
    gold = {(0, 0), (3, 3)}
    threshold = best_threshold(tied, gold)
    assert mining_scores(tied, gold, threshold).f1 == pytest.approx(2 * 2 / (4 + 2))


def test_scores_are_those_of_the_definition():
    scores = mining_scores(RANKED, GOLD, 2.5)
    assert scores.precision == pytest.approx(2 / 3)
    assert scores.recall == pytest.approx(2 / 4)
    assert scores.f1 == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))


def test_nothing_above_the_threshold_scores_zero():
    assert mining_scores(RANKED, GOLD, 9.0)[:3] == (0.0, 0.0, 0.0)


def test_without_gold_there_is_nothing_to_measure():
    with pytest.raises(UserError, match="gold"):
        mining_scores(RANKED, set(), 0.0)
    with pytest.raises(UserError, match="gold"):
        best_threshold(RANKED, set())
