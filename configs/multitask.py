"""Translation, denoising, masked language modelling and classification in one run, and fine-tuning from it.

    mlm-jax train --config configs/multitask.py:fixed --workdir runs/multitask/fixed
    mlm-jax eval runs/multitask/fixed --gradients tasks --parameters 'encoder/.*'
    mlm-jax train --config configs/multitask.py:head --workdir runs/multitask/head

``fixed`` adds the losses with fixed weights, one of them rising over the run; ``uncertainty`` learns the weights.
``head`` trains the classifier alone and ``decoder`` the two languages' decoders alone, with the rest of the multitask model frozen.
A folder with entities in IOB2 may follow the variant (``fixed,FOLDER``: en_ewt-ud-dev.iob2 and en_ewt-ud-test.iob2
of Universal NER); it adds a fifth task.
"""

from .small import choose, run_for, small_config

VARIANTS = ("fixed", "uncertainty", "head", "decoder")


def get_config(argument=""):
    variant, _, entities = argument.partition(",")
    variant = choose(variant, VARIANTS)
    config = small_config(corpora=("en", "de"), parallel=("de-en",), genre=("en", "de"))
    config.data.store = "runs/multitask/store"
    config.model.decoder = ({"layers": 1, "weights": "target_language"},)
    tasks = {
        "mlm": {"objective": "mlm", "rows": 8, "length": 128, "mask_rate": 0.3},
        "translation": {
            "objective": "translation",
            "rows": 32,
            "length": 48,
            "smoothing": 0.1,
            "weight": "0:0,50:0,150:1",
        },
        "denoising": {"objective": "denoising", "rows": 8, "length": 96, "weight": 0.5},
        "genre": {"objective": "classification", "rows": 16, "length": 48, "data": ("genre-en",), "weight": 0.3},
    }
    if entities:
        config.data.labelled["entities-en"] = {
            "format": "conll",
            "language": "en",
            "train": f"{entities}/en_ewt-ud-dev.iob2",
            "validation": f"{entities}/en_ewt-ud-test.iob2",
        }
        tasks["entities"] = {"objective": "token_classification", "rows": 16, "length": 64, "data": ("entities-en",)}
    if variant == "uncertainty":
        tasks = {name: entry | {"weight": "uncertainty"} for name, entry in tasks.items()}
    if variant in ("fixed", "uncertainty"):
        config.tasks = tasks
        return run_for(config, 300)

    config.checkpoint.init = {"from": "runs/multitask/fixed"}
    task, parameters = {"head": ("genre", "classifiers/.*"), "decoder": ("translation", "decoder/.*")}[variant]
    config.tasks = {task: tasks[task] | {"weight": 1.0}}
    config.optimizer.freeze_table = ((parameters, False), (r".*", True))
    return run_for(config, 100)
