"""Named entities: Universal NER's English training labels, tested in other languages, with and without pretraining.

    mlm-jax train --config configs/transfer_demo.py:aligned --workdir runs/transfer/aligned
    mlm-jax train --config configs/entities.py:aligned,FOLDER --workdir runs/entities/aligned
    mlm-jax train --config configs/entities.py:scratch,FOLDER --workdir runs/entities/scratch

FOLDER holds en_ewt-ud-dev.iob2 (trained on: the small set) and en_ewt, de_pud, ru_pud, zh_pud -ud-test.iob2 of
https://www.universalner.org. The model was not pretrained on Chinese. ``python benchmarks/transfer.py entities
--data FOLDER`` compares F1; its numbers are in docs/methods.md.
"""

from .small import choose, run_for, small_config
from .transfer_demo import LANGUAGES

VARIANTS = ("aligned", "scratch")
TAGS = ("O", *(f"{place}-{kind}" for kind in ("PER", "ORG", "LOC") for place in "BI"))
TESTS = {"en": "en_ewt", "de": "de_pud", "ru": "ru_pud", "zh": "zh_pud"}


def get_config(argument=""):
    variant, _, folder = argument.partition(",")
    variant = choose(variant, VARIANTS)
    config = small_config(corpora=LANGUAGES)
    config.languages = (*LANGUAGES, "zh")
    config.data.labelled = {
        f"entities-{language}": {
            "format": "conll",
            "language": language,
            "labels": TAGS,
            "validation": f"{folder or 'uner'}/{name}-ud-test.iob2",
        }
        for language, name in TESTS.items()
    }
    config.data.labelled["entities-en"]["train"] = f"{folder or 'uner'}/en_ewt-ud-dev.iob2"
    config.data.store = "runs/entities/store"
    tagging = {"objective": "token_classification", "rows": 32, "length": 64}
    config.tasks = {"entities": tagging | {"data": ("entities-en",)}}
    config.optimizer.learning_rate = 1e-3
    # It has another vocabulary: common pieces are copied, new ones are composed of their parts.
    if variant == "aligned":
        config.checkpoint.init = {"from": "runs/transfer/aligned", "exclude": ("classifiers/.*",)}
    return run_for(config, 300)
