"""A small vocabulary."""

import pytest

from mlm_jax.config import default_config
from mlm_jax.data.vocabulary.pieces import Vocabulary
from tests.data.words import LANGUAGES, WOERTER, WORDS, sentences


@pytest.fixture(scope="module")
def vocabulary():
    config = default_config().vocabulary
    config.size, config.sentinels = 310, 3
    return Vocabulary.train(sentences(WORDS, 300) + sentences(WOERTER, 300), config, LANGUAGES)
