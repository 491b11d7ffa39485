"""Open a vocabulary of any kind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mlm_jax.common.addresses import refuse_to_read
from mlm_jax.common.errors import UserError, one_line
from mlm_jax.common.foreign_files import MOST_TOKENIZER, check_file
from mlm_jax.data.vocabulary.pieces import FACTS, Read, Vocabulary
from mlm_jax.data.vocabulary.published import PublishedVocabulary

KINDS: dict[str, type[Vocabulary]] = {
    "bytes": Vocabulary,
    "sentencepiece": Vocabulary,
    "tokenizers": PublishedVocabulary,
}
MOST_SENTINELS = 1 << 20


def load_vocabulary(folder: str | Path) -> Vocabulary:
    """Read a vocabulary from the folder in which ``save`` wrote it.

    Raises:
      UserError: there is no vocabulary, or it is damaged.
    """
    return read_vocabulary(lambda name: _content(Path(folder, name)), folder)


def _content(file: Path) -> bytes:
    if file.exists() or file.is_symlink():
        check_file(file, MOST_TOKENIZER)
    return file.read_bytes()


def read_vocabulary(read: Read, folder: str | Path) -> Vocabulary:
    """Make a vocabulary from its files.

    Args:
      read: function that returns the content of a file, given its name in ``files()`` of a vocabulary; it raises
        FileNotFoundError if there is no such file.
      folder: folder, for messages.

    Raises:
      UserError: there is no vocabulary, or it is damaged.
    """
    try:
        facts = json.loads(read(FACTS))
        if not 0 <= facts.get("sentinels", 0) <= MOST_SENTINELS or not all(
            isinstance(code, str) for code in facts["languages"]
        ):
            raise ValueError("it has languages or sentinels that no vocabulary has")
        return KINDS[facts["kind"]].from_files(facts, read)
    except FileNotFoundError as error:
        raise UserError(
            "there is no vocabulary here", file=folder, remedy="mlm-jax prepare, grow or import-hf writes one"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise UserError(
            f"the vocabulary is damaged: {one_line(error)}", file=folder, remedy="make or copy it again"
        ) from error


def open_vocabulary(path: str | Path, languages: Sequence[str], sentinels: int) -> Vocabulary:
    """Open the vocabulary at ``config.vocabulary.path``: the folder of a vocabulary, or a SentencePiece model.

    Args:
      path: a folder, or a ``.model`` file, to which missing special pieces are appended.
      languages: languages that get a language token in a model; a folder has its own.
      sentinels: number of sentinels that a model gets; a folder has its own.

    Raises:
      UserError: there is no vocabulary, or it is damaged.
    """
    refuse_to_read(path)
    return load_vocabulary(path) if Path(path).is_dir() else Vocabulary.from_model(path, languages, sentinels)
