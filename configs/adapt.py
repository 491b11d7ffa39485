r"""From a published encoder to one of your own: docs/adapt.md describes all steps.

    mlm-jax trim FacebookAI/xlm-roberta-base --text tl='adapt/text/tl/*.txt' --text en='adapt/text/en/*.txt' --out adapt/small
    mlm-jax grow adapt/small --language tl --text 'adapt/text/tl/*.txt' --old-text en='adapt/text/en/*.txt' --out adapt/vocabulary
    mlm-jax train --config configs/adapt.py:continue --workdir adapt/continued
    mlm-jax train --config configs/adapt.py:entities --workdir adapt/entities
    mlm-jax export-hf adapt/entities --task entities --out adapt/published

To keep the whole vocabulary, run ``import-hf`` (to ``adapt/model``) instead of ``trim``. ``grow`` may be left out. Without
``trim`` and ``import-hf``, ``continue`` itself imports ``MODEL``, trims it and grows its vocabulary. ``continue`` trains
everything on the new language and replays the old ones; ``rows`` trains the new pieces alone. ``topic`` and ``entities`` then
fine-tune the result. Copy this file and change the upper part; ``continue,FOLDER`` reads another folder than ``adapt``, which
contains

    text/tl/*.txt, text/en/*.txt          a document a line, a folder for each language
    held_out/tl/*.txt, held_out/en/*.txt  text to evaluate on; without it a hundredth of the text is held out
    labels/topic-train.tsv, topic-test.tsv            text, tab, label
    labels/entities-train.conll, entities-test.conll  a word and its tag a line
"""

from pathlib import Path

from mlm_jax.adaptation.continuing import continued_config, head_options
from mlm_jax.adaptation.grow_model import freeze_old
from mlm_jax.common.errors import UserError, nearest
from mlm_jax.config import default_config
from mlm_jax.config.together import longest_row

MODEL = "FacebookAI/xlm-roberta-base"  # a name on the Hub, or a folder; only used if there is neither adapt/small nor adapt/model
NEW, OLD = "tl", ("en",)  # the language to learn, and those to keep
PIECES = 2_000  # most pieces to add to MODEL's vocabulary
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
    text = {code: f"{folder}/text/{code}/*.txt" for code in (NEW, *OLD)}
    config = begun(folder, text, only_new=stage == "rows")
    if (folder / "held_out").is_dir():
        config.data.validation = {code: f"{folder}/held_out/{code}/*.txt" for code in (NEW, *OLD)}
    config.mixing.strategy = "explicit"
    config.mixing.rates = {NEW: 1 - REPLAYED, **{code: REPLAYED / len(OLD) for code in OLD}}
    config.steps = STEPS
    length = min(LENGTH, longest_row(config.model))
    config.tasks = {"mlm": {"objective": "mlm", "rows": ROWS, "length": length, "mask_rate": 0.3}}
    config.optimizer.update(learning_rate=LEARNING_RATE, warmup_steps=0.1, decay_steps=0.2)
    return config


def begun(folder, text, only_new):
    """Begin with the model that trim or import-hf made, and the vocabulary of grow; without them, with MODEL.

    If only the new pieces are trained, the model and the old pieces stay the same bit for bit.
    """
    found = [folder / name for name in ("small", "model") if (folder / name).is_dir()]
    if not found:  # the run imports, trims and grows it
        config = default_config()
        config.data.corpora = text
        config.adapt.update(model=MODEL, trim=text, grow={"language": NEW, "pieces": PIECES}, only_new=only_new)
        return config
    grown = folder / "vocabulary" if (folder / "vocabulary").is_dir() else ""
    config = continued_config(found[0], vocabulary=grown)
    if only_new and not grown:
        raise UserError("the vocabulary has no new pieces", remedy="grow the vocabulary first, or train with continue")
    config.data.corpora = text
    if only_new:
        freeze_old(config, found[0], grown)
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
