"""BLEU and chrF++ against their formulas, written out."""

import math
from collections import Counter

import pytest
import sacrebleu

from mlm_jax.evaluation.translation import translation_scores

REFERENCES = ["the quick brown fox jumps over the lazy dog", "in the beginning was the word and it was good"]
HYPOTHESES = ["the quick brown cat jumps over a lazy dog", "in the beginning was a word and it was very good"]


def ngrams(items, n):
    return Counter(tuple(items[i : i + n]) for i in range(len(items) - n + 1))


def test_bleu_equals_papineni_et_al():
    log_precision, ours, theirs = 0.0, sum(len(h.split()) for h in HYPOTHESES), sum(len(r.split()) for r in REFERENCES)
    for n in range(1, 5):
        hits = total = 0
        for hypothesis, reference in zip(HYPOTHESES, REFERENCES):
            found = ngrams(hypothesis.split(), n)
            hits += (found & ngrams(reference.split(), n)).total()
            total += found.total()
        log_precision += math.log(hits / total) / 4
    brevity = min(0.0, 1 - theirs / ours)
    expected = 100 * math.exp(brevity + log_precision)
    assert translation_scores(HYPOTHESES, REFERENCES, "en").bleu == pytest.approx(expected)


def test_chrf_plus_plus_equals_popovic():
    """F2 of the means of n-gram precision and recall, n = 1 … 6 over characters and 1, 2 over words."""
    scores = []
    for unit, orders in ((lambda text: text.replace(" ", ""), range(1, 7)), (str.split, range(1, 3))):
        for n in orders:
            hits = found = wanted = 0
            for hypothesis, reference in zip(HYPOTHESES, REFERENCES):
                ours, right = ngrams(unit(hypothesis), n), ngrams(unit(reference), n)
                hits, found, wanted = hits + (ours & right).total(), found + ours.total(), wanted + right.total()
            scores.append((hits / found, hits / wanted))
    precision, recall = (sum(column) / len(scores) for column in zip(*scores))
    expected = 100 * 5 * precision * recall / (4 * precision + recall)
    assert translation_scores(HYPOTHESES, REFERENCES, "en").chrf == pytest.approx(expected)


def test_intervals_are_sacrebleus_own():
    metric = sacrebleu.CHRF(word_order=2)
    lines = [f"{text} {number}" for number in range(20) for text in HYPOTHESES]
    right = [f"{text} {number % 7}" for number in range(20) for text in REFERENCES]
    found = translation_scores(lines, right, "en")
    theirs = metric.corpus_score(lines, [right], n_bootstrap=1000)
    low, high = found.chrf_interval
    assert (low + high) / 2 == pytest.approx(theirs._mean, rel=0.01) and (high - low) / 2 == pytest.approx(
        theirs._ci, rel=0.15
    )
    assert low < found.chrf < high and found.bleu_interval[0] < found.bleu < found.bleu_interval[1]
