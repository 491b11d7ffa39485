"""Context extension: an encoder that is trained on rows of 1,024 tokens, and then on rows of 8,192, in one resumable run.

    mlm-jax plan --config configs/context_extension.py --topology h100:8
    mlm-jax train --config configs/context_extension.py --workdir runs/long
    mlm-jax train --config configs/context_extension.py:bible --workdir runs/long_bible    # rows of 64 and 512, in minutes

The second phase takes a tenth of the steps, with as many tokens a step: an eighth of the rows, eight times as long. The RoPE
base of layers with global attention grows from 10,000 to 160,000 (ModernBERT, Warner et al. 2024). Layers with a window keep
their base, because their window does not grow. The learning rate warms up again, to a tenth, and decays. If long documents are
a separate source of a corpus, name that source in the phase ("sources").
"""

from mlm_jax.config import default_config

VARIANTS = ("bible",)


def get_config(variant: str = ""):
    if variant not in ("", *VARIANTS):
        raise ValueError(f"no variant {variant!r}; did you mean 'bible'?")
    config = default_config()
    small = variant == "bible"
    rows, length, steps = (16, 64, 100) if small else (4096, 1024, 100_000)
    languages = ("en", "de", "fr", "ru") if small else ("en", "de", "sw")
    config.languages = languages
    config.data.corpora = {
        code: "mlm_jax.data.bible:text" if small else f"text/{code}/*.jsonl.zst" for code in languages
    }
    config.data.max_document_tokens = 8 * length
    config.tasks = {"mlm": {"objective": "mlm", "rows": rows, "length": length, "mask_rate": 0.3}}
    config.model.update(max_positions=8 * length, rope_theta=10_000.0, local_rope_theta=10_000.0)
    if small:
        config.vocabulary.update(kind="bpe", size=8_000, sentences=40_000, sentinels=0)
        config.model.update(width=128, heads=4, mlp_width=192, encoder=({"layers": 3, "weights": "shared"},), window=32)
        config.training.log_every, config.checkpoint.every, config.evaluation.every = 10, 20, 50
    else:
        config.vocabulary.size = 128_000
        config.model.update(encoder=({"layers": 22, "weights": "shared"},), remat="dots")
    rate = 2e-3 if small else 5e-4
    config.optimizer.update(learning_rate=rate, schedule="constant")
    again = {"schedule": "wsd", "learning_rate": rate / 10, "warmup_steps": 0.1, "decay_steps": 0.5}
    config.steps = steps
    config.curriculum = (
        {"steps": steps * 9 // 10},
        {"steps": steps // 10, "rows": rows // 8, "length": 8 * length, "rope_theta": 160_000.0, "optimizer": again},
    )
    return config
