"""Trim a model: a smaller vocabulary (:mod:`mlm_jax.adaptation.trim`) and the model without the rows of the other pieces."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlm_jax.adaptation.texts import texts_of
from mlm_jax.adaptation.trim import trim_parameters, trim_vocabulary
from mlm_jax.checkpoints.checkpoint import host, load_parameters
from mlm_jax.common.errors import UserError
from mlm_jax.interop.folder import new_folder
from mlm_jax.interop.importing import UNDETERMINED, import_hf, is_published, write_workdir
from mlm_jax.interop.model_card import base_model, write_source
from mlm_jax.training.paths import by_path

IMPORTED = "imported"  # a published model while it is trimmed
BYTES = 4  # of a parameter, in float32


class TrimReport(NamedTuple):
    """Sizes of a model before and after it was trimmed, each as (before, after).

    Attributes:
      pieces: number of pieces of the vocabulary.
      parameters: number of parameters of the model.
      tokens_per_word: {language: tokens for each word of its text}.
    """

    pieces: tuple[int, int]
    parameters: tuple[int, int]
    tokens_per_word: dict[str, tuple[float, float]]

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        before, after = self.parameters
        megabytes = [count * BYTES * 1e-6 for count in self.parameters]
        return [
            f"pieces      {self.pieces[0]:>14,} → {self.pieces[1]:>14,}",
            f"parameters  {before:>14,} → {after:>14,}  ({100 * after / before - 100:+.1f} %)",
            f"megabytes   {megabytes[0]:>14,.1f} → {megabytes[1]:>14,.1f}  (float32)",
            *(f"tokens per word, {code}: {a:.3f} → {b:.3f}" for code, (a, b) in self.tokens_per_word.items()),
        ]


def trim(model: str | Path, texts: Mapping[str, Any], out: str | Path) -> TrimReport:
    """Write a model with a smaller vocabulary as a new workdir. For the given text its outputs stay the same bit for bit.

    Args:
      model: a workdir or one of its checkpoints; or a published model, a folder or a name on the Hub, which is imported first.
      texts: {language: source}, as in ``config.data.corpora``: the text whose tokens must not change. If a published model names
        no languages, it gets these.
      out: workdir to make.

    Raises:
      UserError: as :func:`.trim_vocabulary` and :func:`.import_hf`; a text does not exist; or ``out`` exists already.
    """
    found = {language: [*texts_of(source, language)] for language, source in texts.items()}
    for language, documents in found.items():
        if not any(map(str.strip, documents)):
            raise UserError(f"there is no text of {language!r}", remedy="check its files")
    out = Path(os.path.abspath(out))
    with new_folder(out) as scratch:
        workdir = import_hf(model, scratch / IMPORTED) if is_published(model) else model
        loaded = load_parameters(workdir, device=host())
        base = base_model(loaded, workdir)
        trimmed = trim_vocabulary(loaded.vocabulary, [text for documents in found.values() for text in documents])
        flat = {**by_path(loaded.params)}
        smaller = trim_parameters(flat, trimmed.kept)
        before, after = (sum(value.size for value in params.values()) for params in (flat, smaller))
        config = loaded.config
        config.model.vocabulary_multiple = 1
        if config.model.type_boundary >= 0:
            config.model.type_boundary = int(np.searchsorted(trimmed.kept, config.model.type_boundary))
        shutil.rmtree(scratch / IMPORTED, ignore_errors=True)
        if base:
            write_source(scratch, base, False, is_changed=True)
        languages = tuple(found) if loaded.languages == UNDETERMINED else loaded.languages
        write_workdir(scratch, config, trimmed.vocabulary, languages, smaller, loaded.labels)
    per_word = {}
    for language, documents in found.items():
        words = max(sum(len(text.split()) for text in documents), 1)
        counts = [sum(map(len, each.encode_batch(documents))) for each in (loaded.vocabulary, trimmed.vocabulary)]
        per_word[language] = (counts[0] / words, counts[1] / words)
    return TrimReport((loaded.vocabulary.size, trimmed.vocabulary.size), (before, after), per_word)
