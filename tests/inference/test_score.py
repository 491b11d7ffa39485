import numpy as np
import pytest

from mlm_jax.evaluation.translation import translation_scores
from mlm_jax.inference.score import translation_metrics
from mlm_jax.inference.translator import Hypothesis, Search, Translation
from tests.evaluation.runs import make_store, sentence


class Dictionary:
    """A translator that translates every held-out sentence correctly into Russian and Hindi, and none into English."""

    def __init__(self, store):
        self.vocabulary, self.asked = store.vocabulary, []
        self.known = {(sentence("en", s), code): sentence(code, s) for s in range(1000, 1030) for code in ("ru", "hi")}

    def translate(self, texts, *, target_language, source_language, search):
        self.asked.append((target_language, tuple(dict.fromkeys(source_language)), len(texts), search))
        written = (self.known.get((text, target_language), "") for text in texts)
        return [Translation((Hypothesis(text, 0.0, True, ()),)) for text in written]


def test_held_out_pairs_are_translated_both_ways_and_pooled_by_target(tmp_path):
    store = make_store(tmp_path / "store")
    model, streams = Dictionary(store), [store.stream("en-ru"), store.stream("en-hi")]
    found, intervals = translation_metrics(model, streams, limit=20)
    assert found["chrf"]["ru"] == pytest.approx(100) and found["chrf"]["hi"] == pytest.approx(100)
    assert found["chrf"]["en"] == 0 and found["chrf"]["mean"] == pytest.approx(200 / 3)
    assert intervals["chrf", "en"] == (0, 0) and intervals["chrf", "ru"] == pytest.approx((100, 100))
    assert model.asked == [
        ("ru", ("en",), 20, Search()),
        ("en", ("ru", "hi"), 40, Search()),
        ("hi", ("en",), 20, Search()),
    ]
    forward, _ = translation_metrics(model, streams[:1], limit=1000, reverse=False)
    assert set(forward["bleu"]) == {"ru", "mean"}
    references = [sentence("ru", seed) for seed in range(1000, 1030)]
    np.testing.assert_allclose(forward["bleu"]["ru"], translation_scores(references, references, "ru").bleu)
