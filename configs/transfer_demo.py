"""Zero-shot transfer: a genre classifier trained on English labels only, tested in five other languages.

    mlm-jax train --config configs/transfer_demo.py:aligned --workdir runs/transfer/aligned
    mlm-jax train --config configs/transfer_demo.py:genre-aligned --workdir runs/transfer/genre-aligned

``aligned`` pretrains with masked language modelling and translation ranking, ``mlm`` without the ranking, both for the
same number of steps. ``hard`` gives similar negatives more weight, ``queue`` takes negatives from earlier batches too, and ``tlm``
masks words in both sentences of a pair instead of ranking. ``genre-aligned``, ``genre-mlm`` and ``genre-scratch`` fine-tune
on the English labels; ``adapter-aligned`` trains only bottleneck adapters and the classifier, in the frozen encoder.
``python benchmarks/transfer.py genre`` fine-tunes from all three with three seeds. The mean over the five languages without
training labels (chance 16.7 %) was: aligned 44.6 ± 0.9 %, mlm 18.2 ± 0.1 %, scratch 19.3 ± 0.6 %. ``sentences`` and
``adapters`` instead of ``genre`` run the other comparisons.
"""

from .small import choose, run_for, small_config

LANGUAGES = ("en", "de", "fr", "ru", "ar", "hi")
RANKING = {"objective": "ranking", "rows": 64, "length": 40}
PAIRS = {  # the objective on pairs in each variant of pretraining
    "aligned": {"ranking": RANKING},
    "hard": {"ranking": RANKING | {"hardness": 1.0}},
    "queue": {"ranking": RANKING | {"queue": 256, "queue_after": 125}},
    "tlm": {"tlm": {"objective": "tlm", "rows": 64, "length": 80, "mask_rate": 0.3}},
    "mlm": {},
}
VARIANTS = (*PAIRS, "genre-aligned", "genre-mlm", "genre-scratch", "adapter-aligned")


def get_config(argument=""):
    variant = choose(argument, VARIANTS)
    pairs = [f"{language}-en" for language in LANGUAGES if language != "en"]
    config = small_config(corpora=LANGUAGES, parallel=pairs, genre=LANGUAGES)
    config.data.store = "runs/transfer/store"  # one vocabulary and one store for all variants

    if variant in PAIRS:
        config.tasks = {"mlm": {"objective": "mlm", "rows": 8, "length": 96, "mask_rate": 0.3}, **PAIRS[variant]}
        return run_for(config, 250)

    kind, _, origin = variant.partition("-")
    config.tasks = {"genre": {"objective": "classification", "rows": 32, "length": 40, "data": ("genre-en",)}}
    config.optimizer.learning_rate = 1e-3
    if origin != "scratch":
        config.checkpoint.init = {"from": f"runs/transfer/{origin}", "exclude": ("classifiers/.*",)}
    if kind == "adapter":
        config.model.encoder = ({"layers": 2, "weights": "shared", "adapter": 32, "adapter_weights": "shared"},)
        config.checkpoint.init["exclude"] = ("classifiers/.*", ".*adapter.*")
        config.optimizer.freeze_table = ((r".*adapter.*|classifiers/.*", False), (r".*", True))
    return run_for(config, 200)
