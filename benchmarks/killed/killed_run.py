"""The runs that are killed: tiny, on made-up text in two languages, in several variants."""

import os

from mlm_jax.config import default_config
from tests.tiny import tiny_config

LETTERS = {"en": "abcdefgh", "de": "ijklmnop"}
STEPS = 6
PLAIN = {"mlm": {"objective": "mlm", "rows": 16, "length": 32, "mask_rate": 0.3}}
TWO = PLAIN | {"ranking": {"objective": "ranking", "rows": 16, "length": 32}}
DECODED = {
    "translation": {"objective": "translation", "rows": 16, "length": 32},
    "denoising": {"objective": "denoising", "rows": 16, "length": 32},
}


def line(language, number):
    """Return a sentence; those of the same number mean the same."""
    return " ".join(LETTERS[language][(number * j + number // 8) % 8] * 3 for j in range(1, 9)) + f" {number}"


def numbers(split):
    """Return the numbers of a split's sentences."""
    return range(60) if split == "train" else range(100, 160)


def text(language, split):
    """Return the texts of a language."""
    return [line(language, number) for number in numbers(split)]


def pairs(pair, split):
    """Return sentences and their translations."""
    return [(line("de", number), line("en", number)) for number in numbers(split)]


def adapt_config():
    """Return the config that trims and grows a published model; ``KILLED_SOURCES`` names the folder of the model and the texts."""
    sources = os.environ["KILLED_SOURCES"]
    texts = {language: f"{sources}/{language}.txt" for language in LETTERS}
    config = default_config()
    config.steps, config.tasks, config.data.corpora = STEPS, PLAIN, texts
    config.adapt.update(
        model=f"{sources}/model", trim={"en": texts["en"]}, grow={"language": "de", "pieces": 8}, only_new=True
    )
    config.training.log_every, config.checkpoint.every, config.checkpoint.keep_last = 1, 2, 1
    config.evaluation.every, config.evaluation.rows, config.evaluation.select = 2, 4, "eval/loss/mean"
    return config


def get_config(variant="plain"):
    """Return the config of a variant."""
    if variant == "adapt":
        return adapt_config()
    config = tiny_config("", STEPS)
    config.data.workers = 2 if variant == "prepare" else 1
    config.data.corpora = config.data.validation = {"en": "killed_run:text", "de": "killed_run:text"}
    config.data.parallel = {"de-en": "killed_run:pairs"}
    config.vocabulary.kind = "bytes"
    config.tasks = {"prepare": PLAIN, "plain": PLAIN, "decoder": DECODED, "indexed": TWO}[variant]
    config.evaluation.every, config.evaluation.select = 2, "eval/loss/mean"
    config.checkpoint.keep_last = 1  # so that old ones are removed
    if variant == "decoder":
        config.model.decoder = ({"layers": 1, "weights": "target_language"},)
        config.curriculum = ({"steps": 3}, {"steps": 3, "rate_factor": 0.5, "length": {"denoising": 16}})
        config.training.ema = 0.9
    if variant == "indexed":
        adapted = {"layers": 1, "weights": "shared", "adapter": 4, "adapter_weights": "source_language"}
        config.model.encoder = (adapted, {"layers": 1, "weights": "source_language"})
        config.optimizer.name, config.training.microbatches = "muon", 2
    return config
