"""Functions that other configs of this folder share: a small model on the Bible. This file is not a config itself."""

from collections import defaultdict

from mlm_jax.config import default_config
from mlm_jax.data import bible

GENRES = tuple(bible.GENRES)
VERSES = {"train": 1_800, "validation": 100}  # of each genre, so that guessing is right one time in six


def balanced_genre(language, split):
    """Yield the same number of verses of each genre, spread evenly over its books."""
    verses = defaultdict(list)
    for verse, label in bible.genre(language, split):
        verses[label].append(verse)
    for label, found in verses.items():
        wanted = VERSES[split]
        yield from ((found[i * len(found) // wanted], label) for i in range(wanted))


def small_config(corpora=(), parallel=(), genre=()):
    """Return a config of a 2-layer model 128 wide, with the named languages, pairs and genre labels of the Bible.

    The books that genre is tested on are in no text and no pair, and every genre has as
    many verses. Of the genre sets only English has labels to train on.
    """
    config = default_config()
    config.data.corpora = {language: "mlm_jax.data.bible:unlabelled_text" for language in corpora}
    config.data.parallel = {pair: "mlm_jax.data.bible:unlabelled_pairs" for pair in parallel}
    source = f"{__name__}:balanced_genre"
    config.data.labelled = {
        f"genre-{language}": {"format": "function", "language": language, "labels": GENRES, "validation": source}
        | ({"train": source} if language == "en" else {})
        for language in genre
    }
    config.data.max_document_tokens = 4096
    config.vocabulary.update(kind="bpe", size=5_000, sentences=30_000, sentinels=20)

    model = config.model
    model.encoder = ({"layers": 2, "weights": "shared"},)
    model.update(width=128, heads=4, mlp_width=192, max_positions=256, global_every=1)

    config.optimizer.update(learning_rate=2e-3, warmup_steps=30, decay_steps=100)
    config.training.log_every = 20
    config.evaluation.rows = 1_000
    config.evaluation.pairs = 200
    return config


def run_for(config, steps):
    """Set the length of the run, with one evaluation and one checkpoint at its end."""
    config.steps = config.evaluation.every = config.checkpoint.every = steps
    config.optimizer.decay_steps = min(config.optimizer.decay_steps, steps // 3)
    config.optimizer.warmup_steps = min(config.optimizer.warmup_steps, steps // 10)
    return config


def choose(argument, choices):
    """Return the argument of a config file, which must be one of the choices; "" means the first."""
    from mlm_jax.common.errors import UserError, nearest

    argument = argument or choices[0]
    if argument not in choices:
        raise UserError(
            f"no variant {argument!r}{nearest(argument, choices)}", remedy=f"use one of {', '.join(choices)}"
        )
    return argument
