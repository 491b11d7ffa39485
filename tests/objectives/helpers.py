"""Small contexts and rows for the tests of objectives."""

import numpy as np

from mlm_jax.data.loading.batch import Rows
from mlm_jax.objectives import Context

SPECIALS = 5  # <pad> </s> <unk> <s> <mask>


def make_context(vocabulary=50, languages=3, **changes):
    special = np.zeros(vocabulary, bool)
    special[:SPECIALS] = True
    word_starts = np.arange(vocabulary) % 2 == 1
    facts = dict(
        vocabulary_size=vocabulary,
        special=special,
        word_starts=word_starts,
        mask_id=4,
        pad_id=0,
        eos_id=1,
        sentinels=np.zeros(0, np.int32),
        language_starts=np.full(languages, 3),
        languages=languages,
    )
    return Context(**{**facts, **changes})


def random_rows(seed, rows=6, length=24, vocabulary=50, languages=3, documents=3):
    """Packed rows with padding at the end, each document <s> … </s>."""
    rng = np.random.default_rng(seed)
    tokens = np.zeros((rows, length), np.int32)
    segments, positions = np.zeros_like(tokens), np.zeros_like(tokens)
    for row in range(rows):
        at = 0
        for document in range(documents):
            size = int(rng.integers(4, length // documents + 1))
            tokens[row, at : at + size] = rng.integers(SPECIALS, vocabulary, size)
            tokens[row, at], tokens[row, at + size - 1] = 3, 1
            segments[row, at : at + size] = document + 1
            positions[row, at : at + size] = np.arange(size)
            at += size
    return Rows(tokens, segments, positions, rng.integers(0, languages, rows).astype(np.int32))
