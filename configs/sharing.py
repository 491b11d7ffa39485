"""Sharing plans for translation: one decoder for all languages, one for each, or one encoder for each, and others.

    mlm-jax train --config configs/sharing.py:decoders --workdir runs/sharing/decoders

Variants: ``shared`` (one encoder, one decoder), ``decoders`` (one encoder, a decoder for each target language),
``encoders`` (an encoder for each source language, one decoder), ``layers`` (every second layer is language-specific), ``families``
(a decoder for each family), ``adapters`` (shared, with adapters for each language, as in X-MOD).
English from and into four languages; Hindi has a tenth of the others' text. Data, rows and steps are the same in all variants;
``python benchmarks/transfer.py translation`` compares chrF++; its numbers are in docs/methods.md.
"""

from itertools import islice

from mlm_jax.data import bible

from .small import choose, run_for, small_config

LANGUAGES = ("en", "de", "fr", "ru", "hi")
SMALLEST, ITS_PAIRS = "hi", 2_000
VARIANTS = ("shared", "decoders", "encoders", "layers", "families", "adapters")
SHARED = {"layers": 2, "weights": "shared"}
ONE = {"layers": 1, "weights": "shared"}


def few_pairs(pair, split):
    """Yield the first pairs of the smallest language, and all held-out ones."""
    pairs = bible.unlabelled_pairs(pair, split)
    return islice(pairs, ITS_PAIRS) if split == "train" else pairs


def get_config(argument=""):
    variant = choose(argument, VARIANTS)
    config = small_config(parallel=[f"{language}-en" for language in LANGUAGES if language not in ("en", SMALLEST)])
    config.data.parallel[f"{SMALLEST}-en"] = f"{__name__}:few_pairs"
    config.data.store = "runs/sharing/store"
    config.languages = LANGUAGES
    config.families = {"germanic": ("en", "de"), "romance": ("fr",), "slavic": ("ru",), "indo-aryan": ("hi",)}
    config.mixing.alpha = 0.5  # pairs of the smallest language are read more often than their share

    config.tasks = {"translation": {"objective": "translation", "rows": 64, "length": 48, "smoothing": 0.1}}
    config.model.encoder, config.model.decoder = {
        "shared": ((SHARED,), (SHARED,)),
        "decoders": ((SHARED,), (SHARED | {"weights": "target_language"},)),
        "encoders": ((SHARED | {"weights": "source_language"},), (SHARED,)),
        "layers": ((ONE, ONE | {"weights": "source_language"}), (ONE, ONE | {"weights": "target_language"})),
        "families": ((SHARED,), (SHARED | {"weights": "family"},)),
        "adapters": (
            (SHARED | {"adapter": 32, "adapter_weights": "source_language"},),
            (SHARED | {"adapter": 32, "adapter_weights": "target_language"},),
        ),
    }[variant]
    return run_for(config, 2_000)
