"""Open a vocabulary, whichever kind it is of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mlm_jax.common.errors import UserError
from mlm_jax.data.vocabulary.pieces import FACTS, Vocabulary
from mlm_jax.data.vocabulary.published import PublishedVocabulary

KINDS: dict[str, type[Vocabulary]] = {"bytes": Vocabulary, "sentencepiece": Vocabulary, "tokenizers": PublishedVocabulary}


def load_vocabulary(folder: str | Path) -> Vocabulary:
    """Read the vocabulary that its ``save`` wrote into a folder.

    Raises:
      UserError: there is no vocabulary, or it is damaged.
    """
    folder = Path(folder)
    try:
        facts = json.loads((folder / FACTS).read_text())
        return KINDS[facts["kind"]].load(folder, facts)
    except FileNotFoundError as error:
        raise UserError("there is no vocabulary here", file=folder,
                        remedy="mlm-jax prepare, grow or import-hf writes one") from error  # fmt: skip
    except (ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"the vocabulary is damaged: {error}", file=folder, remedy="make or copy it again") from error


def open_vocabulary(path: str | Path, languages: Sequence[str], sentinels: int) -> Vocabulary:
    """Open what ``config.vocabulary.path`` names: the folder of a vocabulary, or a SentencePiece model.

    Args:
      path: a folder, or a ``.model`` file, to which special pieces that it lacks are appended.
      languages: that get a language token in a model; a folder has its own.
      sentinels: as languages.

    Raises:
      UserError: there is no vocabulary, or it is damaged.
    """
    return load_vocabulary(path) if Path(path).is_dir() else Vocabulary.from_model(path, languages, sentinels)
