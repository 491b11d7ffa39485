"""A base-sized encoder as mmBERT's (Marone et al. 2025): 22 layers of 768, 256 k pieces, windows in two layers of three.

mlm-jax plan --config configs/mmbert_base.py --topology v5e:4x4
mlm-jax plan --config configs/mmbert_base.py --topology v5e:16x16 --set tasks.mlm.rows=4096
"""

from mlm_jax.config import default_config

from .xlmr_xxl import LANGUAGES


def get_config():
    config = default_config()
    config.steps = 100_000
    config.data.corpora = {language: f"text/{language}/*.jsonl.zst" for language in LANGUAGES}
    config.vocabulary.size = 256_000

    config.tasks = {"mlm": {"objective": "mlm", "rows": 256, "length": 1024, "mask_rate": 0.3}}

    config.optimizer.update(warmup_steps=0.005, decay_steps=0.01)  # 500 and 1,000 steps
    config.model.encoder = ({"layers": 22, "weights": "shared"},)
    config.model.width = 768
    config.model.heads = 12
    config.model.mlp_width = 1152
    config.model.local_rope_theta = 160_000.0
    config.model.remat = "dots"  # without it, 16 rows a chip need 17.8 GiB of temporaries on v5e, which has 15.75
    config.model.cross_entropy_chunk = 77  # of 308: every chunk reads and writes the gradient of the table, 0.8 GB

    config.mesh.data = -1
    config.mesh.fsdp = 16
    return config
