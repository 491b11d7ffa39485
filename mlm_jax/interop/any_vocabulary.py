"""Opens a vocabulary: a folder, a SentencePiece model, a workdir, a published folder or a name on the Hub."""

from __future__ import annotations

from pathlib import Path

from mlm_jax.checkpoints.checkpoint import describe
from mlm_jax.common.addresses import is_local
from mlm_jax.common.errors import UserError
from mlm_jax.common.foreign_files import read_json
from mlm_jax.data.vocabulary.folder import load_vocabulary
from mlm_jax.data.vocabulary.pieces import FACTS, Vocabulary
from mlm_jax.interop.folder import TOKENIZER_FILES, local_folder
from mlm_jax.interop.published_tokenizer import read_vocabulary

PUBLISHED = ("tokenizer.json", "tokenizer_config.json", "config.json")  # one of them is in every published folder


def any_vocabulary(source: str | Path) -> Vocabulary:
    """Open a vocabulary. For a name on the Hub, only the tokenizer's files are downloaded.

    Args:
      source: the folder of a vocabulary of ours, a SentencePiece ``.model`` file, a workdir or one of its checkpoints (also
        their addresses in an object store), a folder
        saved by transformers, or the name of a model on the Hugging Face Hub.

    Raises:
      UserError: ``source`` is none of these, or is damaged.
    """
    if not is_local(source):
        return describe(source).vocabulary
    path = Path(source)
    if path.is_file():
        return Vocabulary.from_model(path, (), 0)
    if (path / FACTS).is_file():
        return load_vocabulary(path)
    if path.is_dir() and not any((path / name).is_file() for name in PUBLISHED):
        return describe(path).vocabulary
    if (path / "checkpoints").is_dir():  # a workdir, which has a config.json of its own
        return describe(path).vocabulary
    folder = local_folder(source, TOKENIZER_FILES)
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if not isinstance(config, dict):
        raise UserError("this is not the configuration of a model", file=folder / "config.json")
    return read_vocabulary(folder, str(config.get("model_type")), None, {})
