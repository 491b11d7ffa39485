"""The effect of the mixing exponent alpha on each language's held-out loss: the demo with little Hindi and Korean.

mlm-jax sweep --config configs/sweeps/alpha.py --workdir runs/alpha
"""

from itertools import islice

from mlm_jax.config import default_config
from mlm_jax.data import bible
from mlm_jax.run.sweep import product

CHAPTERS = {"en": 1160, "de": 1160, "hi": 120, "ko": 40}  # of 1,160: two large languages and two small ones


def some_chapters(language, split):
    chapters = bible.text(language, split)
    return islice(chapters, CHAPTERS[language]) if split == "train" else chapters


def get_config():
    config = default_config()
    config.steps = 300
    config.data.corpora = {language: f"{__name__}:some_chapters" for language in CHAPTERS}
    config.vocabulary.update(kind="bpe", size=4_000, sentinels=0, sentences=20_000)
    config.tasks = {"mlm": {"objective": "mlm", "rows": 16, "length": 128, "mask_rate": 0.3}}
    config.model.update(
        width=128, heads=4, mlp_width=192, encoder=({"layers": 2, "weights": "shared"},), global_every=1
    )
    config.optimizer.update(learning_rate=2e-3, warmup_steps=30 / 300, decay_steps=100 / 300)
    config.training.normalize = "token"  # only sampling gives small languages more weight
    config.evaluation.every = config.checkpoint.every = 300
    return config


def sweep():
    return product({"mixing.alpha": (1.0, 0.7, 0.5, 0.3, 0.0)})
