r"""Translate-train: German training labels by translating labelled English text.

    mlm-jax train --config configs/translate_train.py:translator --workdir runs/translate_train/translator
    python -c "from configs.translate_train import *; print(*english_texts(), sep='\n')" \
      > runs/translate_train/en.txt
    mlm-jax translate runs/translate_train/translator --from en --to de --synthetic forward --margin 0 --beams 1 \
      --input runs/translate_train/en.txt --output runs/translate_train/synthetic.tsv
    mlm-jax train --config configs/translate_train.py:translated --workdir runs/translate_train/translated

``translator`` learns from every second verse. It translates only English verses with genre labels that it was not trained on: about
900 to 1,100 of each genre. ``english`` trains the classifier on these English labels, ``translated`` on their German
translations as well, which are also training text of its vocabulary. Both start from scratch, train for the same number of
steps and are tested on verses of other books. ``python benchmarks/transfer.py translate_train`` runs them: German 49.5 % with
the translations, 22.5 % without (chance 16.7 %).
"""

from itertools import islice

from mlm_jax.data import bible
from mlm_jax.data.text import corpora

from .small import GENRES, balanced_genre, choose, run_for, small_config

SYNTHETIC = "runs/translate_train/synthetic.tsv"  # the output of mlm-jax translate: English, German
VARIANTS = ("translated", "english", "translator")


def every_second_pair(pair, split):
    """Yield every second pair to train on, and all held-out ones."""
    pairs = bible.unlabelled_pairs(pair, split)
    return islice(pairs, 0, None, 2) if split == "train" else pairs


def english_genre(language, split):
    """Yield English verses with their labels, without those that the translator was trained on."""
    seen = {english for english, _ in every_second_pair("en-de", "train")}
    yield from ((verse, label) for verse, label in balanced_genre(language, split) if verse not in seen)


def english_texts():
    """Return the labelled English verses, to be translated."""
    return [verse for verse, _ in english_genre("en", "train")]


def translated_genre(language, split):
    """Yield the German translations of labelled English verses, each with its verse's label."""
    label_of = dict(english_genre("en", split))
    for english, german in corpora.sentence_pairs(SYNTHETIC, "en-de", split):
        yield german, label_of[english]


def get_config(argument=""):
    variant = choose(argument, VARIANTS)
    config = small_config(genre=("en", "de"))
    config.languages = ("en", "de")
    config.data.parallel = {"en-de": f"{__name__}:every_second_pair"}
    config.data.labelled["genre-en"]["train"] = f"{__name__}:english_genre"
    if variant == "translator":
        config.model.decoder = ({"layers": 2, "weights": "shared"},)
        config.tasks = {
            "translation": {
                "objective": "translation",
                "rows": 64,
                "length": 48,
                "smoothing": 0.1,
                "directions": "forward",
            }
        }
        return run_for(config, 1_000)

    if variant == "translated":
        config.data.labelled["translated-de"] = {
            "format": "function",
            "language": "de",
            "labels": GENRES,
            "train": f"{__name__}:translated_genre",
        }
    sets = [name for name, entry in config.data.labelled.items() if "train" in entry]
    config.tasks = {"genre": {"objective": "classification", "rows": 32, "length": 40, "data": tuple(sets)}}
    config.optimizer.learning_rate = 1e-3
    return run_for(config, 300)
