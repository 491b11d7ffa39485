"""Cross-lingual attention, step by step: from a source language to a target language that looks at it.

    for stage in source attention decoder genre; do
      mlm-jax train --config configs/cross_attention.py:$stage --workdir runs/cross_attention/$stage
    done
    mlm-jax align runs/cross_attention/attention en.txt de.txt --languages en-de --draw alignment.svg

1. ``source``: masked language modelling of English, the source language.
2. ``attention``: German sentences with hidden words look at their English translations through a shared attention
   layer, whose output is fused into the German hidden states; the German sentence alone (the layer unplugged) and
   English go on being trained. ``eval/loss`` is with the source plugged in, ``eval/loss_unplugged`` without.
3. ``decoder``: a decoder of German is put on the encoder and learns to translate.
4. ``genre``: fine-tuning on English labels, with the layer unplugged; German is zero-shot.

``python benchmarks/transfer.py cross_attention`` runs 1 and 2; its numbers are in docs/methods.md.
"""

from small import choose, run_for, small_config

STAGES = ("source", "attention", "decoder", "genre")


def get_config(argument=""):
    stage = choose(argument, STAGES)
    config = small_config(corpora=("en", "de"), parallel=("en-de",), genre=("en", "de"))
    config.data.store = "runs/cross_attention/store"
    config.model.position = "learned"  # alignments are found from places first
    pairs = {"rows": 32, "length": 64, "data": ("en-de",), "directions": "forward"}
    english = {"objective": "mlm", "rows": 16, "length": 128, "data": ("en",), "mask_rate": 0.3}
    if stage == "source":
        config.tasks = {"mlm": english}
        return run_for(config, 300)

    config.model.cross_lingual = {"score": "scaled_dot", "fuse": "residual"}
    if stage == "attention":
        aligned = {"objective": "cross_attention_mlm", "unplugged": 0.5, "mask_rate": 0.3} | pairs
        config.tasks = {"aligned": aligned, "mlm": english | {"rows": 4}}
        config.checkpoint.init = {"from": "runs/cross_attention/source"}
        return run_for(config, 500)

    config.checkpoint.init = {"from": "runs/cross_attention/attention"}
    if stage == "decoder":
        config.model.decoder = ({"layers": 2, "weights": "target_language"},)
        config.tasks = {"translation": {"objective": "translation", "smoothing": 0.1} | pairs}
        return run_for(config, 500)

    config.tasks = {"genre": {"objective": "classification", "rows": 32, "length": 64, "data": ("genre-en",)}}
    config.optimizer.learning_rate = 1e-3
    return run_for(config, 300)
