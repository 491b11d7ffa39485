"""Cross-lingual attention, step by step: a target language attends to a source language.

    for stage in source attention decoder genre; do
      mlm-jax train --config configs/cross_attention.py:$stage --workdir runs/cross_attention/$stage
    done
    mlm-jax align runs/cross_attention/attention en.txt de.txt --languages en-de --draw alignment.svg

1. ``source``: masked language modelling of English, the source language.
2. ``attention``: German sentences with masked words attend to their English translations through a shared attention
   layer, whose output is fused into the German hidden states. The German sentence alone (the layer unplugged) and
   English are trained as well. ``eval/loss`` is with the source plugged in, ``eval/loss_unplugged`` without.
3. ``decoder``: a decoder of German is put on the encoder and learns to translate; what it writes is fused with the source by
   the same layer.
4. ``genre``: fine-tuning on English labels, with the layer unplugged; German is zero-shot.

``synthetic`` trains the layer, without pretraining, on word-for-word translations into an invented language, in which every two
neighbouring words are swapped. The right alignment is therefore known, and it is never the diagonal.

``python benchmarks/transfer.py attention`` runs all stages. After the 4,000 steps of stage 2, the loss of masked words is 3.558
with the source and 3.731 without. Stage 3 reaches chrF++ 33.0, and stage 4 an accuracy of 30.5 % on German verses. Of the words
of the synthetic pairs, 97.0 % are aligned correctly. (With ``scaled_dot`` and ``residual`` it was 11 %: bilinear scores and
concatenation learn faster.)
"""

import random

from .small import choose, run_for, small_config

STAGES = ("source", "attention", "decoder", "genre", "synthetic")
SYNTHETIC, WORDS = "en-xx", 100  # the pair of languages, and words in each


def synthetic_pairs(pair, split):
    """Yield sentences of 5 to 16 random words, and their translations; other sentences to validate on."""
    rng = random.Random(f"{pair} {split}")
    for _ in range(20_000 if split == "train" else 200):
        numbers = [rng.randrange(WORDS) for _ in range(rng.randint(5, 16))]
        moved = [numbers[source] for source, _ in gold_links(len(numbers))]
        yield " ".join(map(_word, numbers)), " ".join(_word(number + WORDS) for number in moved)


def gold_links(length):
    """Return the links (source word, target word) of a synthetic pair, in which neighbours change places."""
    return [(i + 1 if i % 2 == 0 and i + 1 < length else i - i % 2, i) for i in range(length)]


def _word(number):
    """Return the word of a number: three syllables of a consonant and a vowel."""
    syllables = [consonant + vowel for consonant in "bdgklmnprt" for vowel in "aeiou"]
    return "".join(syllables[number * factor // 50 % 50] for factor in (50, 1, 7))


def get_config(argument=""):
    stage = choose(argument, STAGES)
    config = small_config(corpora=("en", "de"), parallel=("en-de",), genre=("en", "de"))
    config.data.store = "runs/cross_attention/store"
    config.model.position = "learned"  # the layer first learns alignments from positions
    pairs = {"rows": 32, "length": 48, "data": ("en-de",), "directions": "forward"}
    english = {"objective": "mlm", "rows": 16, "length": 128, "data": ("en",), "mask_rate": 0.3}
    if stage == "source":
        config.tasks = {"mlm": english}
        return run_for(config, 1_000)

    config.model.cross_lingual = {"score": "bilinear", "fuse": "concat"}
    if stage == "synthetic":
        config.data.corpora, config.data.labelled = {}, {}
        config.data.parallel = {SYNTHETIC: f"{__name__}:synthetic_pairs"}
        config.data.store = "runs/cross_attention/synthetic_store"
        config.vocabulary.size = 700
        aligned = {"objective": "cross_attention_mlm", "mask_rate": 0.3} | pairs
        config.tasks = {"aligned": aligned | {"data": (SYNTHETIC,)}}
        return run_for(config, 500)
    if stage == "attention":
        aligned = {"objective": "cross_attention_mlm", "unplugged": 0.5, "mask_rate": 0.3} | pairs
        config.tasks = {"aligned": aligned, "mlm": english | {"rows": 4}}
        config.checkpoint.init = {"from": "runs/cross_attention/source"}
        return run_for(config, 4_000)

    config.checkpoint.init = {"from": "runs/cross_attention/attention"}
    if stage == "decoder":
        config.model.decoder = ({"layers": 2, "weights": "target_language"},)
        config.tasks = {"translation": {"objective": "translation", "smoothing": 0.1} | pairs}
        return run_for(config, 500)

    config.tasks = {"genre": {"objective": "classification", "rows": 32, "length": 64, "data": ("genre-en",)}}
    config.optimizer.learning_rate = 1e-3
    return run_for(config, 300)
