"""Model-level transfer: German from little text, after English or from scratch.

    mlm-jax train --config configs/model_transfer.py:source --workdir runs/model_transfer/source
    mlm-jax train --config configs/model_transfer.py:target --workdir runs/model_transfer/target
    mlm-jax train --config configs/model_transfer.py:scratch --workdir runs/model_transfer/scratch

``source`` is masked language modelling of English. ``target`` continues with a hundred chapters of German; ``scratch`` trains on
the same chapters for as many steps. Both languages share one vocabulary. ``python benchmarks/transfer.py model_transfer`` compares
bits per byte; its numbers are in docs/methods.md.
"""

from itertools import islice

from mlm_jax.data import bible

from .small import choose, run_for, small_config

VARIANTS = ("source", "target", "scratch")
CHAPTERS = 100


def few_chapters(language, split):
    """Yield the first chapters, and all held-out ones."""
    chapters = bible.unlabelled_text(language, split)
    return islice(chapters, CHAPTERS) if split == "train" else chapters


def get_config(argument=""):
    variant = choose(argument, VARIANTS)
    config = small_config(corpora=("en", "de"))
    config.data.corpora["de"] = f"{__name__}:few_chapters"
    config.data.store = "runs/model_transfer/store"  # one vocabulary for all variants
    language = "en" if variant == "source" else "de"
    config.tasks = {"mlm": {"objective": "mlm", "rows": 16, "length": 128, "mask_rate": 0.3, "data": (language,)}}
    if variant == "target":
        config.checkpoint.init = {"from": "runs/model_transfer/source"}
    return run_for(config, 400 if variant == "source" else 150)
