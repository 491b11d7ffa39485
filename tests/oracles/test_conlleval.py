"""Entity F1 against the conlleval procedure, written out, and against what seqeval said."""

import numpy as np
import pytest

from mlm_jax.evaluation.tagging import entity_scores

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def entities(tags):
    """Spans as conlleval sees them: B starts one, I continues one of its type or starts one."""
    spans, start, kind = set(), None, None
    for index, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        if start is not None and (prefix != "I" or name != kind):
            spans.add((start, index, kind))
            start = None
        if start is None and prefix != "O":
            start, kind = index, name
    return spans


@pytest.mark.parametrize("seed", range(4))
def test_f1_equals_counting_spans(seed):
    rng = np.random.default_rng(seed)
    languages = ["en", "hi", "en", "ko", "hi", "en"]
    gold = [[TAGS[i] for i in rng.integers(0, 5, 12)] for _ in languages]
    predicted = [[tag if rng.random() < 0.7 else TAGS[rng.integers(0, 5)] for tag in sentence] for sentence in gold]
    scores = entity_scores(predicted, gold, languages)
    for language in set(languages):
        mine = [i for i, code in enumerate(languages) if code == language]
        right = {(i, *span) for i in mine for span in entities(gold[i])}
        ours = {(i, *span) for i in mine for span in entities(predicted[i])}
        assert scores[language].entities == len(right)
        assert scores[language].precision == pytest.approx(len(right & ours) / len(ours))
        assert scores[language].recall == pytest.approx(len(right & ours) / len(right))
        assert scores[language].f1 == pytest.approx(2 * len(right & ours) / (len(ours) + len(right)))


@pytest.mark.parametrize(
    "seed, precision, recall, f1, count",  # results of seqeval 1.2.2; it cannot be installed with some versions of setuptools-scm
    [
        (0, 0.6848484848484848, 0.6848484848484848, 0.6848484848484848, 165),
        (1, 0.7452229299363057, 0.7647058823529411, 0.7548387096774193, 153),
        (2, 0.6858974358974359, 0.7039473684210527, 0.6948051948051949, 152),
    ],
)
def test_ends_and_single_words_are_read_as_seqeval_reads_them(seed, precision, recall, f1, count):
    tags = ["O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in ("PER", "LOC"))]
    rng = np.random.default_rng(seed)
    gold = [[tags[i] for i in rng.integers(0, 9, 40)] for _ in range(5)]
    predicted = [[tag if rng.random() < 0.7 else tags[rng.integers(0, 9)] for tag in sentence] for sentence in gold]
    scores = entity_scores(predicted, gold, ["en"] * 5)["en"]
    assert scores[:4] == pytest.approx((precision, recall, f1, count))
    right = scores.right.sum()  # the counts by sentence add up to the same scores
    assert (right / scores.predicted.sum(), right / scores.gold.sum()) == pytest.approx((precision, recall))
    assert scores.gold.sum() == count
