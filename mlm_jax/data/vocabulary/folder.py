"""Open a vocabulary of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlm_jax.common.addresses import refuse_to_read
from mlm_jax.common.errors import UserError, one_line
from mlm_jax.common.foreign_files import MOST_JSON, MOST_TOKENIZER, check_file, parse_json
from mlm_jax.data.vocabulary.pieces import FACTS, FINGERPRINT, Read, Vocabulary
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
    again = "make or copy it again"
    try:
        described = read(FACTS)
        if len(described) > MOST_JSON:
            raise ValueError(f"{FACTS} has {len(described):,} bytes, and at most {MOST_JSON:,} are read")
        facts = parse_json(described, Path(folder, FACTS))
        _check_facts(facts)
        found = KINDS[facts["kind"]].from_files(facts, read)
        if facts.get(FINGERPRINT, found.fingerprint) != found.fingerprint:
            raise ValueError("it has changed since it was written: its checksum differs")
        return found
    except FileNotFoundError as error:
        raise UserError(
            "there is no vocabulary here", file=folder, remedy="mlm-jax prepare, grow or import-hf writes one"
        ) from error
    except UserError as error:
        raise UserError(f"the vocabulary is damaged: {error.problem}", file=folder, remedy=again) from error
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise UserError(f"the vocabulary is damaged: {one_line(error)}", file=folder, remedy=again) from error


def _check_facts(facts: Any) -> None:
    """Check the facts that all kinds of vocabularies have.

    Raises:
      ValueError: a fact is not one of a vocabulary.
    """
    sentinels, languages = facts.get("sentinels", 0), facts["languages"]
    if type(sentinels) is not int or not 0 <= sentinels <= MOST_SENTINELS:
        raise ValueError("it has a number of sentinels that no vocabulary has")
    if not isinstance(languages, list) or not all(isinstance(code, str) for code in languages):
        raise ValueError("its languages are not a list of codes")


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
