"""A tiny real run: three languages that are word-for-word translations, a trained vocabulary, a store, a model."""

import numpy as np

from mlm_jax.config import default_config
from mlm_jax.data.loading.loader import Loader
from mlm_jax.data.store.store import Store
from mlm_jax.data.store.writer import StoreWriter
from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.objectives import kinds
from mlm_jax.parallel.mesh import make_mesh
from mlm_jax.training.context import make_context
from mlm_jax.training.step import build_program

LANGUAGES = ("en", "ru", "hi")
LETTERS = {"en": "aeioubdfgklmnprst", "ru": "аеиоубдфгклмнпрст", "hi": "कखगचजटडतदनपबमयरलस"}
TAGS = ("O", "B-PER", "I-PER")
GENRES = ("even", "odd")
TASKS = {
    "mlm": {"objective": "mlm", "rows": 8, "length": 24},
    "ranking": {"objective": "ranking", "rows": 8, "length": 24},
    "entities": {"objective": "token_classification", "rows": 8, "length": 24, "data": ("ner-en",)},
}


def words(language, count=40):
    rng = np.random.default_rng(7)
    numbers = rng.integers(0, 17, (count, 5))
    return ["".join(LETTERS[language][n] for n in row[: 3 + i % 3]) for i, row in enumerate(numbers)]


def sentence(language, seed):
    rng = np.random.default_rng(seed)
    return " ".join(words(language)[i] for i in rng.integers(0, 40, rng.integers(4, 9)))


def make_store(folder, sentences=30, prefix="language"):
    """Text in three languages, parallel text en-ru and en-hi (not ru-hi), entities and genres in en (train) and ru (held out)."""
    config = default_config()
    config.vocabulary.size, config.vocabulary.sentinels = 420, 2
    text = {code: [sentence(code, seed) for seed in range(sentences)] for code in LANGUAGES}
    vocabulary = Vocabulary.train([line for lines in text.values() for line in lines], config.vocabulary, LANGUAGES)

    def documents(code, seeds):
        start = vocabulary.document_prefix(prefix, code)
        return [np.array([*start, *vocabulary.encode(sentence(code, s)), vocabulary.eos_id], np.int32) for s in seeds]

    with StoreWriter(folder, vocabulary, LANGUAGES) as writer:
        for split, seeds in (("train", range(sentences)), ("validation", range(1000, 1000 + sentences))):
            for code in LANGUAGES:
                byte_count = sum(len(sentence(code, seed).encode()) for seed in seeds)
                writer.add(code, "text", (code,), split, {"inputs": documents(code, seeds)}, bytes=byte_count)
            for code in ("ru", "hi"):
                sides = {"inputs": documents("en", seeds), "targets": documents(code, seeds)}
                writer.add(f"en-{code}", "pairs", ("en", code), split, sides)
            for code in ("en",) if split == "train" else ("en", "ru"):
                inputs = documents(code, seeds)
                labels = [np.where(np.arange(len(d)) % 4 == 0, -1, np.arange(len(d)) % 3) for d in inputs]
                writer.add(f"ner-{code}", "labelled", (code,), split, {"inputs": inputs, "labels": labels})
                genres = [np.array([seed % 2]) for seed in seeds]
                writer.add(f"genre-{code}", "labelled", (code,), split, {"inputs": inputs, "labels": genres})
        writer.labels = {
            f"{name}-{code}": names for name, names in (("ner", TAGS), ("genre", GENRES)) for code in ("en", "ru")
        }
    return Store.open(folder)


def make_config(**model):
    config = default_config()
    config.tasks, config.steps = TASKS, 20
    config.model.update({"width": 32, "heads": 2, "mlp_width": 32, "max_positions": 32, "window": 8, **model})
    config.model.encoder = ({"layers": 1, "weights": "shared"},)
    config.optimizer.warmup_steps, config.optimizer.decay_steps = 2, 4
    config.evaluation.rows = 8
    return config


def make_program(store, config, devices=None):
    loader = Loader(store, config, kinds(config.tasks))
    context = make_context(store.vocabulary, loader.languages, config)
    program = build_program(
        config, context, loader.languages, make_mesh(config.mesh, devices), labels={"entities": len(TAGS)}
    )
    return loader, program
