"""Translation between 100 languages: one encoder for all, and six decoder layers for each target language.

mlm-jax plan --config configs/many_decoders.py --topology v5p:4x4x4
"""

from mlm_jax.config import default_config

from .xlmr_xxl import LANGUAGES

TARGETS = LANGUAGES[:100]


def get_config():
    config = default_config()
    config.steps = 200_000
    config.data.parallel = {f"{language}-en": f"pairs/{language}-en.tsv" for language in TARGETS if language != "en"}
    config.vocabulary.size = 128_000

    config.tasks = {"translation": {"objective": "translation", "rows": 4096, "length": 128, "same_language_rows": 32}}

    config.optimizer.update(warmup_steps=0.0025, decay_steps=0.005)  # 500 and 1,000 steps
    config.model.encoder = ({"layers": 12, "weights": "shared"},)
    config.model.decoder = ({"layers": 6, "weights": "target_language"},)
    config.model.width = 1024
    config.model.heads = 16
    config.model.mlp_width = 4096
    config.model.activation = "gelu"
    config.model.remat = "full"
    config.model.cross_entropy_chunk = 32

    config.mesh.fsdp = 4  # divides the 100 groups of decoder weights
    config.mesh.tensor = (
        4  # the weights of all groups are gathered for each layer, so a small part on each device is better
    )
    return config
