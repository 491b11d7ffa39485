"""Input units of a model (subwords, bytes, or four characters to a position), and ways to give it the language.

    mlm-jax train --config configs/representation.py:subwords --workdir runs/representation/subwords

Units: ``subwords``, ``bytes`` and ``characters`` (four bytes make one position of the encoder, after CANINE).
Language: a token before every document (as in ``subwords``), ``embedding`` (added to every position) or ``none``.
All variants read about the same amount of text a step. ``python benchmarks/transfer.py representation`` compares bits per byte
and speed; its numbers are in docs/methods.md.
"""

from .small import choose, run_for, small_config

LANGUAGES = ("en", "de", "ru", "hi")
VARIANTS = ("subwords", "bytes", "characters", "embedding", "none")


def get_config(argument=""):
    variant = choose(argument, VARIANTS)
    config = small_config(corpora=LANGUAGES)
    task = {"objective": "mlm", "rows": 16, "length": 128, "mask_rate": 0.3}
    if variant in ("bytes", "characters"):
        config.vocabulary.kind = "bytes"
        config.vocabulary.sentinels = 0
        config.model.max_positions = 1024
        # Single bytes are easy to guess.
        task |= {"rows": 16, "length": 512, "unit": "span", "mean_span": 8.0}
    if variant == "characters":
        config.model.character_downsampling = 4
    if variant in ("embedding", "none"):
        config.data.prefix = "none"
        config.model.language_embedding = variant == "embedding"
    config.tasks = {"mlm": task}
    return run_for(config, 400)
