"""Sentences of made-up text in two languages."""

import numpy as np

LANGUAGES = ("en", "de")

WORDS = "in the beginning was word and light shines darkness not it that is there who from all made him".split()  # noqa: SIM905

WOERTER = "am anfang war das wort und licht scheint finsternis nicht es ist da wer von alles gemacht ihn".split()  # noqa: SIM905


def sentences(words, count, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(words, rng.integers(4, 12))) for _ in range(count)]
