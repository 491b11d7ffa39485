r"""From a published encoder to one of your own: docs/adapt.md describes all steps.

    mlm-jax trim FacebookAI/xlm-roberta-base --text tl='adapt/text/tl/*.txt' --text en='adapt/text/en/*.txt' --out adapt/small
    mlm-jax grow adapt/small --language tl --text 'adapt/text/tl/*.txt' --old-text en='adapt/text/en/*.txt' --out adapt/vocabulary
    mlm-jax train --config configs/adapt.py:continue --workdir adapt/continued
    mlm-jax train --config configs/adapt.py:entities --workdir adapt/entities
    mlm-jax export-hf adapt/entities --task entities --out adapt/published

To keep the whole vocabulary, run ``import-hf`` (to ``adapt/model``) instead of ``trim``. ``grow`` may be left out. ``continue``
trains everything on the new language and replays the old ones; ``rows`` trains the new pieces alone. ``topic`` and ``entities``
then fine-tune the result. Copy this file and change the upper part; ``continue,FOLDER`` reads another folder than ``adapt``,
which holds

    text/tl/*.txt, text/en/*.txt          a document a line, a folder for each language
    held_out/tl/*.txt, held_out/en/*.txt  text to evaluate on; without it a hundredth of the text is held out
    labels/topic-train.tsv, topic-test.tsv            text, tab, label
    labels/entities-train.conll, entities-test.conll  a word and its tag a line
"""

from pathlib import Path

from mlm_jax.adaptation.continuing import continued_config, head_options
from mlm_jax.adaptation.grow import old_rows
from mlm_jax.common.errors import UserError, nearest
from mlm_jax.config.together import longest_row
from mlm_jax.data.vocabulary.folder import load_vocabulary

NEW, OLD = "tl", ("en",)  # the language to learn, and those to keep
REPLAYED = 0.25  # share of the rows that old languages get, so that they are not forgotten
STEPS, ROWS, LENGTH = 2_000, 32, 256  # of continued training
LEARNING_RATE = 2e-4  # for a base model; with a few layers, 1e-3
FINE_TUNING = {"steps": 1_000, "rows": 32, "length": 128, "learning_rate": 5e-5}  # with a few layers, 5e-4
STAGES = ("continue", "rows", "topic", "entities")


def get_config(argument="continue"):
    stage, _, folder = argument.partition(",")
    if stage not in STAGES:
        raise UserError(f"no stage {stage!r}{nearest(stage, STAGES)}", remedy=f"use one of {', '.join(STAGES)}")
    folder = Path(folder or "adapt").resolve()
    return continued(folder, stage) if stage in STAGES[:2] else fine_tuned(folder, stage)


def continued(folder, stage):
    """Continue masked language modelling: the learning rate warms up again, stays, and decays in the last fifth."""
    found = [folder / name for name in ("small", "model") if (folder / name).is_dir()]
    if not found:
        problem = f"neither {folder}/small nor {folder}/model is there"
        raise UserError(problem, remedy="import a model first: mlm-jax import-hf MODEL --out FOLDER/model")
    model = found[0]
    grown = folder / "vocabulary" if (folder / "vocabulary").is_dir() else ""
    config = continued_config(model, vocabulary=grown)
    config.data.corpora = {code: f"{folder}/text/{code}/*.txt" for code in (NEW, *OLD)}
    if (folder / "held_out").is_dir():
        config.data.validation = {code: f"{folder}/held_out/{code}/*.txt" for code in (NEW, *OLD)}
    config.mixing.strategy = "explicit"
    config.mixing.rates = {NEW: 1 - REPLAYED, **{code: REPLAYED / len(OLD) for code in OLD}}
    config.steps = STEPS
    length = min(LENGTH, longest_row(config.model))
    config.tasks = {"mlm": {"objective": "mlm", "rows": ROWS, "length": length, "mask_rate": 0.3}}
    config.optimizer.update(learning_rate=LEARNING_RATE, warmup_steps=0.1, decay_steps=0.2)
    if stage == "rows" and not grown:
        raise UserError("the vocabulary has no new pieces", remedy="grow the vocabulary first, or train with continue")
    if stage == "rows":  # the model and the old pieces stay the same bit for bit
        rows = old_rows(load_vocabulary(model / "vocabulary"), load_vocabulary(grown))
        config.optimizer.freeze_table = ((r"embedding|output|output_bias", rows), (r".*", True))
    return config


def fine_tuned(folder, task):
    """Train a head that export-hf can write, and the encoder with it."""
    place = folder / "continued"
    config = continued_config(place)
    objective, form = {"topic": ("classification", "tsv"), "entities": ("token_classification", "conll")}[task]
    files = {
        split: f"{folder}/labels/{task}-{name}.{form}" for split, name in (("train", "train"), ("validation", "test"))
    }
    config.data.labelled = {task: {"format": form, "language": NEW, **files}}
    config.steps = FINE_TUNING["steps"]
    rows = {"rows": FINE_TUNING["rows"], "length": min(FINE_TUNING["length"], longest_row(config.model))}
    config.tasks = {task: {"objective": objective, **rows, **head_options(place, objective)}}
    config.optimizer.update(learning_rate=FINE_TUNING["learning_rate"], schedule="linear", warmup_steps=0.1)
    return config
