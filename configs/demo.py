"""Seven languages in five scripts, a few minutes on two CPU cores, from the Bible in ``mlm_jax[demo]``.

pip install -e '.[demo]' && mlm-jax train --config configs/demo.py --workdir runs/demo
"""

from mlm_jax.config import default_config

LANGUAGES = ("en", "de", "fr", "ru", "ar", "hi", "ko")


def get_config():
    config = default_config()
    config.steps = 320
    config.data.corpora = {language: "mlm_jax.data.bible:text" for language in LANGUAGES}
    config.data.parallel = {f"{language}-en": "mlm_jax.data.bible:pairs" for language in LANGUAGES if language != "en"}
    config.data.max_document_tokens = 4096

    config.vocabulary.kind = "bpe"
    config.vocabulary.size = 8_000
    config.vocabulary.sentences = 60_000
    config.vocabulary.sentinels = 10

    # Two tasks in every step: masked language modelling on packed chapters, translation ranking on aligned verses.
    config.tasks = {
        "mlm": {"objective": "mlm", "rows": 4, "length": 128, "mask_rate": 0.3},
        "ranking": {"objective": "ranking", "rows": 96, "length": 48},
    }

    config.model.encoder = ({"layers": 2, "weights": "shared"},)
    config.model.width = 192
    config.model.heads = 4
    config.model.mlp_width = 288
    config.model.max_positions = 512
    config.model.global_every = 1

    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 50 / 320  # shares of the run, so that --set steps=40 works too
    config.optimizer.decay_steps = 120 / 320

    config.training.log_every = 10
    config.checkpoint.every = 80
    config.evaluation.every = 80
    config.evaluation.pairs = 1_000
    return config
