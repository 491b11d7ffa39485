"""An encoder of the size of XLM-R XXL (Goyal et al. 2021): 48 layers of 4096, 250 k pieces, 10.7 G parameters, 100 languages.

mlm-jax plan --config configs/xlmr_xxl.py --topology v5p:8x8x8
"""

from mlm_jax.config import default_config

# The languages of XLM-R (Conneau et al. 2020, appendix A).
CODES = (
    "af am ar as az be bg bn br bs ca cs cy da de el en eo es et eu fa fi fr fy ga gd gl gu ha he hi hr hu hy id is it ja jv "
    "ka kk km kn ko ku ky la lo lt lv mg mk ml mn mr ms my ne nl no om or pa pl ps pt ro ru sa sd si sk sl so sq sr su sv sw "
    "ta te th tl tr ug uk ur uz vi xh yi zh_hans zh_hant bn_rom hi_rom ta_rom te_rom ur_rom my_zaw"
)
LANGUAGES = tuple(CODES.split())


def get_config():
    config = default_config()
    config.steps = 500_000
    config.data.corpora = {language: f"text/{language}/*.jsonl.zst" for language in LANGUAGES}
    config.vocabulary.size = 250_000
    config.vocabulary.alpha = config.mixing.alpha = 0.3

    config.tasks = {"mlm": {"objective": "mlm", "rows": 2048, "length": 512, "mask_rate": 0.15}}

    config.optimizer.update(warmup_steps=0.001, decay_steps=0.002)  # 500 and 1,000 steps
    config.model.encoder = ({"layers": 48, "weights": "shared"},)
    config.model.width = 4096
    config.model.heads = 32
    config.model.mlp_width = 16_384
    config.model.activation = "gelu"
    config.model.biases = ("norm", "attention", "mlp", "head")
    config.model.position = "learned"
    config.model.max_positions = 512
    config.model.global_every = 1
    config.model.remat = "dots"
    config.model.cross_entropy_chunk = 16

    # 32 chips share the state, 4 GB each. If all chips of a slice shared it, libtpu 0.0.42 would gather weights by all-reduce,
    # which sends twice the bytes.
    config.mesh.data = -1
    config.mesh.fsdp = 32
    return config
