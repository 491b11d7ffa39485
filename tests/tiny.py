"""A tiny token store and a config that trains on it in seconds."""

import numpy as np

from mlm_jax.config import default_config
from mlm_jax.data.store.writer import StoreWriter
from mlm_jax.data.vocabulary.pieces import Vocabulary

LANGUAGES = ("en", "de", "ar")


def write_store(folder, documents=40):
    """Write made-up text of three languages, each with its own alphabet, and word-for-word pairs."""
    rng = np.random.default_rng(0)
    vocabulary = Vocabulary.bytes(LANGUAGES, 4)
    alphabets = {"en": "abcdefgh", "de": "ijklmnop", "ar": "ابتثجحخد"}
    with StoreWriter(folder, vocabulary, LANGUAGES) as writer:
        texts = {}
        for language, letters in alphabets.items():
            words = rng.integers(0, 8, (documents + 12, 6, 3))
            words[:] = np.random.default_rng(1).integers(0, 8, words.shape)  # the same "meaning" in every language
            texts[language] = [" ".join("".join(letters[c] for c in word) for word in line) for line in words]

        def ids(language, lines):
            return [[*vocabulary.document_prefix("language", language), *vocabulary.encode(line), 1] for line in lines]

        for split, part in (("train", slice(0, documents)), ("validation", slice(documents, None))):
            for language in LANGUAGES:
                lines = texts[language][part]
                size = {"characters": sum(map(len, lines)), "bytes": sum(len(line.encode()) for line in lines)}
                writer.add(language, "text", (language,), split, {"inputs": ids(language, lines)}, **size)
            for language in ("de", "ar"):
                features = {"inputs": ids(language, texts[language][part]), "targets": ids("en", texts["en"][part])}
                writer.add(f"{language}-en", "pairs", (language, "en"), split, features, characters=1, bytes=1)
    return folder


def tiny_config(store, steps=6):
    config = default_config()
    config.steps = steps
    config.data.store = str(store)
    config.tasks = {
        "mlm": {"objective": "mlm", "rows": 8, "length": 32, "mask_rate": 0.3},
        "ranking": {"objective": "ranking", "rows": 8, "length": 32},
    }
    config.model.update(
        width=16, heads=2, mlp_width=24, encoder=({"layers": 2, "weights": "shared"},), max_positions=128
    )
    config.optimizer.warmup_steps, config.optimizer.decay_steps = 1, 2
    config.training.log_every = 1
    config.checkpoint.every, config.evaluation.every, config.evaluation.rows, config.evaluation.pairs = 2, 100, 4, 6
    return config
