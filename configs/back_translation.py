r"""Back-translation: real pairs alone against real and synthetic ones.

    mlm-jax train --config configs/back_translation.py:reverse --workdir runs/back/reverse
    python -c "from configs.back_translation import *; print(*german_alone(4000), sep='\n')" \
      > runs/back/german.txt
    mlm-jax translate runs/back/reverse --from de --to en --synthetic back --margin 1.0 \
      --input runs/back/german.txt --output runs/back/synthetic.tsv
    mlm-jax train --config configs/back_translation.py:real --workdir runs/back/real
    mlm-jax train --config configs/back_translation.py:both --workdir runs/back/both

``reverse`` learns to translate German into English from 4,000 pairs. It is also aligned by ranking, so that its encoder can give
margins to its translations. ``real`` learns to translate English into German from the same pairs; ``both`` reads the synthetic
pairs as well, each with the tag <BT> on its English side. Both train for the same number of steps.
``python benchmarks/transfer.py synthetic`` runs them; its numbers are in docs/methods.md.
"""

from itertools import islice

from mlm_jax.data import bible
from mlm_jax.data.text import corpora

from .small import choose, run_for, small_config

SYNTHETIC = "runs/back/synthetic.tsv"  # the output of mlm-jax translate: a corpus like any other
VARIANTS = ("real", "both", "reverse")
REAL_PAIRS = 4_000


def real_pairs(pair, split):
    """Yield the first pairs, and all held-out ones."""
    pairs = bible.unlabelled_pairs(pair, split)
    return islice(pairs, REAL_PAIRS) if split == "train" else pairs


def german_alone(count):
    """Return German verses after those of the real pairs, without their English translations."""
    verses = bible.unlabelled_pairs("en-de", "train")
    return [german for _, german in islice(verses, REAL_PAIRS, REAL_PAIRS + count)]


def both_pairs(pair, split):
    """Yield the real pairs and, for training, the synthetic ones."""
    yield from real_pairs(pair, split)
    if split == "train":
        yield from corpora.sentence_pairs(SYNTHETIC, pair, split)


def get_config(argument=""):
    variant = choose(argument, VARIANTS)
    config = small_config()
    config.languages = ("en", "de")
    real = "de-en" if variant == "reverse" else "en-de"
    config.data.parallel = {real: f"{__name__}:{'both' if variant == 'both' else 'real'}_pairs"}
    config.model.decoder = ({"layers": 2, "weights": "shared"},)
    translation = {"objective": "translation", "rows": 64, "length": 48, "smoothing": 0.1, "directions": "forward"}
    config.tasks = {"translation": translation | {"data": (real,)}}
    if variant == "reverse":
        config.tasks["ranking"] = {"objective": "ranking", "rows": 64, "length": 48}
    return run_for(config, 400)
