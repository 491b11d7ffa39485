r"""Adding a language to a trained model: Korean, whose script is not in the vocabulary, to five other languages.

    mlm-jax train --config configs/new_language.py:old --workdir runs/new_language/old
    mlm-jax grow runs/new_language/old --language ko --text mlm_jax.data.bible:unlabelled_text --pieces 1000 \
      --out runs/new_language/vocabulary
    mlm-jax train --config configs/new_language.py:new --workdir runs/new_language/new

``old`` trains with an adapter for each language (X-MOD). ``new`` trains Korean's own adapters, its language token and its
pieces, on Korean text alone, and nothing else: the model's outputs for the old languages stay the same bit for bit.
``other-vocabulary`` instead takes the embeddings into a new vocabulary of all six languages: pieces that both have are
copied, new ones are composed of the old pieces that spell them, and everything is trained. ``scratch`` is the same without
the old model. ``python benchmarks/transfer.py new_language`` compares them; its numbers are in docs/methods.md.
"""

from .small import choose, run_for, small_config

OLD, NEW = ("en", "de", "fr", "ru", "hi"), "ko"
VARIANTS = ("old", "new", "other-vocabulary", "scratch")


def get_config(argument=""):
    variant = choose(argument, VARIANTS)
    languages = OLD if variant == "old" else (*OLD, NEW)
    config = small_config(corpora=(NEW,) if variant == "new" else languages)
    config.languages = languages
    config.model.encoder = ({"layers": 2, "weights": "shared", "adapter": 32, "adapter_weights": "source_language"},)
    config.tasks = {"mlm": {"objective": "mlm", "rows": 16, "length": 128, "mask_rate": 0.3}}
    if variant == "old":
        return run_for(config, 400)

    if variant != "scratch":
        config.checkpoint.init = {"from": "runs/new_language/old"}
    if variant == "new":
        config.vocabulary.path = "runs/new_language/vocabulary"
        old_pieces, config.vocabulary.size = config.vocabulary.size, config.vocabulary.size + 1_001
        config.optimizer.freeze_table = (  # the table that mlm-jax grow prints
            (r"(embedding|output|output_bias)", old_pieces),
            (r"encoder/0/.*adapter.*", len(OLD)),
            (r".*", True),
        )
    return run_for(config, 200)
