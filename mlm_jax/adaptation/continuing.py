"""A config to continue the training of a model: its architecture and vocabulary, with rates for continued training."""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from mlm_jax.checkpoints.checkpoint import Described, describe
from mlm_jax.checkpoints.starts import FILE
from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.config.together import longest_row
from mlm_jax.data.vocabulary.folder import load_vocabulary
from mlm_jax.data.vocabulary.pieces import FACTS
from mlm_jax.interop.exporting import special_ids
from mlm_jax.interop.family import Facts
from mlm_jax.interop.published_tokenizer import UNUSED_ROWS
from mlm_jax.interop.task_heads import options_for, published_head, without_token_head
from mlm_jax.interop.weights import choose_family

MACHINE = ("attention", "remat", "scan_layers", "cross_entropy_chunk", "dtype")  # keys that depend on the machine


def continued_config(checkpoint: str | Path, vocabulary: str | Path = "") -> ConfigDict:
    """Return the default config with the model, the vocabulary and the weights of a checkpoint.

    It has the checkpoint's ``config.model`` and ``data.prefix``. The caller sets the data, and the tasks unless they are masked
    language modelling.

    Args:
      checkpoint: a workdir or one of its checkpoints.
      vocabulary: a folder that ``mlm-jax grow`` wrote; "" is the checkpoint's own vocabulary.

    Raises:
      UserError: there is no checkpoint, or the folder of its vocabulary or of the grown one does not exist.
    """
    checkpoint = Path(checkpoint).resolve()
    described = describe(checkpoint)
    config = default_config()
    own = {key: config.model[key] for key in MACHINE}
    config.model.update(described.config.model)
    config.model.update(own)
    config.families, config.data.prefix = described.config.families, described.config.data.prefix
    folder = Path(vocabulary).resolve() if vocabulary else vocabulary_folder(checkpoint, described)
    size = load_vocabulary(folder).size
    # The rows of an imported table may not be such a multiple.
    if -size % config.model.vocabulary_multiple > UNUSED_ROWS:
        config.model.vocabulary_multiple = 1
    config.vocabulary.update(path=str(folder), size=size)
    starts = {"starts": str(folder / FILE)} if vocabulary and (folder / FILE).is_file() else {}
    config.checkpoint.init = {"from": str(checkpoint), **starts}
    room = longest_row(config.model)
    config.tasks = {name: {**task, "length": min(task["length"], room)} for name, task in config.tasks.items()}
    config.optimizer.learning_rate = 1e-4  # a trained model needs a lower rate than a new one
    return config


def head_options(checkpoint: str | Path, objective: str) -> dict[str, str]:
    """Return the options of a fine-tuning task whose head ``export-hf`` can write: "transform" and "pooling".

    Each family in transformers has one form of head. A task that was trained with another form could not be exported.

    Args:
      checkpoint: a workdir or one of its checkpoints, to fine-tune from.
      objective: objective of the task, such as classification or token_classification.

    Raises:
      UserError: no family can express the model, or the family that can has no head for this objective.
    """
    described = describe(checkpoint)
    ids = special_ids(described.vocabulary, described.vocabulary.pad_id)
    facts = Facts(described.vocabulary.size, described.languages, ids)
    family = choose_family(without_token_head(described.config.model), facts)
    return options_for(published_head(family, objective))


def vocabulary_folder(checkpoint: Path, described: Described) -> Path:
    """Return a folder with the files of a checkpoint's vocabulary.

    Args:
      checkpoint: the checkpoint, or its workdir.
      described: facts of the checkpoint.

    Raises:
      UserError: there is no such folder.
    """
    config = described.config
    folders = [
        parent / name for parent in (checkpoint, *checkpoint.parents[:2]) for name in ("vocabulary", "store/vocabulary")
    ]
    folders += [Path(path) for path in (config.vocabulary.path, f"{config.data.store}/vocabulary")]
    for folder in folders:  # a checkpoint is WORKDIR/checkpoints/STEP
        if (folder / FACTS).is_file() and load_vocabulary(folder).fingerprint == described.vocabulary.fingerprint:
            return folder.resolve()
    raise UserError(
        "none of the folders of the checkpoint's run contains its vocabulary",
        file=checkpoint,
        remedy="give the folder of its vocabulary, such as STORE/vocabulary",
    )
