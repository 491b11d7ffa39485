"""mmBERT base (Marone et al. 2025): pre-training, mid-training with a longer context, and decay, as one resumable run.

    mlm-jax plan --config configs/mmbert.py --topology v5p:4x4x4
    mlm-jax plan --config configs/mmbert.py --topology h100:8 --set training.microbatches=8
    mlm-jax train --config configs/mmbert.py:bible --workdir runs/mmbert_bible    # the same phases in minutes

Phases, steps and rates are those of the paper and of its published configs:

- 2.3 T, 600 G and 100 G tokens; 60 languages and code, 49 more, and all others; exponents 0.7, 0.5 and 0.3;
- mask rates 0.30, 0.15 and 0.05; rows of 1,024 and then 8,192 tokens; RoPE base 10,000 and then 160,000 in all layers;
- a warm-up over 3 G tokens, constant, and a 1 − √ decay over the last phase; rows that grow to 4,608 over the first 60 G tokens.

Two things differ. A step of 8,192-token rows has as many tokens as one of 1,024-token rows (the published config has 4,608
rows in both). And one exponent is used for all languages, whereas mmBERT gave English and code separate shares.
"""

from pathlib import Path

from mlm_jax.config import default_config

# FineWeb2's codes of the languages (and of code) that each phase adds; the last phase adds all other folders of text/.
FIRST = (
    "afr",
    "arb",
    "azj",
    "ben",
    "bul",
    "ces",
    "cmn",
    "code",
    "dan",
    "deu",
    "ekk",
    "ell",
    "eng",
    "fas",
    "fil",
    "fin",
    "fra",
    "gle",
    "glg",
    "guj",
    "heb",
    "hin",
    "hrv",
    "hun",
    "ind",
    "ita",
    "jpn",
    "kat",
    "kaz",
    "khk",
    "khm",
    "kor",
    "lit",
    "lvs",
    "mal",
    "mar",
    "mkd",
    "mya",
    "nld",
    "nob",
    "npi",
    "pbt",
    "pol",
    "por",
    "ron",
    "rus",
    "sin",
    "slk",
    "slv",
    "spa",
    "swe",
    "swh",
    "tam",
    "tel",
    "tha",
    "tur",
    "ukr",
    "urd",
    "vie",
    "xho",
    "zsm",
)
SECOND = (
    "als",
    "amh",
    "anp",
    "ars",
    "ary",
    "arz",
    "bel",
    "bew",
    "bod",
    "bos",
    "cat",
    "ceb",
    "ckb",
    "cym",
    "epo",
    "eus",
    "fry",
    "gla",
    "gmh",
    "gsw",
    "hat",
    "hif",
    "hye",
    "isl",
    "jav",
    "kan",
    "kir",
    "kmr",
    "lao",
    "lat",
    "ltz",
    "mlt",
    "mri",
    "mww",
    "nap",
    "nno",
    "nrm",
    "ory",
    "pan",
    "pcm",
    "plt",
    "rmy",
    "snd",
    "som",
    "srp",
    "tat",
    "tgk",
    "uzn",
    "yue",
)
TOKENS_A_STEP = 4608 * 1024


VARIANTS = ("bible",)


def get_config(variant: str = ""):
    if variant not in ("", *VARIANTS):
        raise ValueError(f"no variant {variant!r}; did you mean 'bible'?")
    return bible() if variant else published()


def published():
    config = default_config()
    known = FIRST + SECOND
    languages = known + tuple(
        sorted(path.name for path in Path("text").glob("*") if path.is_dir() and path.name not in known)
    )
    config.data.corpora = {language: f"text/{language}/*.jsonl.zst" for language in languages}
    config.vocabulary.size = 256_000
    config.tasks = {"mlm": {"objective": "mlm", "rows": 4608, "length": 1024, "mask_rate": 0.3}}
    model(config)
    config.model.update(width=768, heads=12, mlp_width=1152, encoder=({"layers": 22, "weights": "shared"},))
    config.model.update(remat="dots", cross_entropy_chunk=77)
    config.optimizer.update(name="stable_adamw", learning_rate=8e-4, betas=(0.9, 0.95), epsilon=1e-8, weight_decay=0.1)
    warm, whole = 15_000_000_000, TOKENS_A_STEP  # tokens of each part of the batch's warm-up; tokens of a whole step
    growing = [(warm // (rows * 1024), rows) for rows in (1152, 2304, 3456, 4608)]
    long_rows = whole // 8192
    config.curriculum = (
        *({"steps": steps, "rows": rows, **first(FIRST)} for steps, rows in growing),
        {"steps": (2_300_000_000_000 - 4 * warm) // whole, **first(FIRST)},
        {"steps": 600_000_000_000 // whole, "rows": long_rows, "length": 8192, **second(FIRST + SECOND)},
        {"steps": 100_000_000_000 // whole, "rows": long_rows, "length": 8192, **decay(languages)},
    )
    config.steps = sum(phase["steps"] for phase in config.curriculum)
    config.optimizer.update(schedule="constant", warmup_steps=3_000_000_000 // (1152 * 1024))
    return config


def bible():
    """Return the same phases on eight languages of the demo's Bible, a few minutes on two CPU cores."""
    few = ("en", "de", "fr", "ru")
    more = (*few, "ar", "hi")
    all_of_them = (*more, "ko", "tl")
    config = default_config()
    config.languages = all_of_them
    config.data.corpora = {language: "mlm_jax.data.bible:text" for language in all_of_them}
    config.data.max_document_tokens = 4096
    config.vocabulary.update(kind="bpe", size=8_000, sentences=60_000, sentinels=0)
    config.tasks = {"mlm": {"objective": "mlm", "rows": 16, "length": 64, "mask_rate": 0.3}}
    model(config)
    config.model.update(width=128, heads=4, mlp_width=192, encoder=({"layers": 3, "weights": "shared"},))
    config.optimizer.update(learning_rate=2e-3, schedule="constant", warmup_steps=20)
    config.curriculum = (
        {"steps": 20, "rows": 4, **first(few)},
        {"steps": 60, **first(few)},
        {"steps": 30, "rows": 4, "length": 256, **second(more)},
        {"steps": 30, "rows": 4, "length": 256, **decay(all_of_them)},
    )
    config.steps = sum(phase["steps"] for phase in config.curriculum)
    config.training.log_every = 10
    config.checkpoint.every = config.evaluation.every = 20
    return config


def model(config):
    """Set the options of both sizes: windows of 128 tokens in two layers of three, and the RoPE base of short rows everywhere."""
    config.model.update(max_positions=8192, window=128, global_every=3, rope_theta=10_000.0, local_rope_theta=10_000.0)


def first(languages):
    return {"languages": languages, "alpha": 0.7, "mask_rate": 0.3}


def second(languages):
    return {
        "languages": languages,
        "alpha": 0.5,
        "mask_rate": 0.15,
        "rope_theta": 160_000.0,
        "local_rope_theta": 160_000.0,
    }


def decay(languages):
    fading = {"schedule": "wsd", "decay_steps": 0.999, "final_fraction": 0.02}
    return {**second(languages), "alpha": 0.3, "mask_rate": 0.05, "optimizer": fading}
