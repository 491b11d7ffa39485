"""Grow the vocabulary of a model: read the text, add pieces, choose how their embeddings begin, count what changes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mlm_jax.adaptation.grow import Recut, grow_vocabulary, language_specific, old_rows, recut
from mlm_jax.adaptation.starts import STARTS
from mlm_jax.adaptation.texts import MOST_DOCUMENTS, texts_of, translations_of
from mlm_jax.checkpoints.checkpoint import describe
from mlm_jax.checkpoints.starts import FILE, write_starts
from mlm_jax.common.errors import UserError
from mlm_jax.config.keys.adapt import check_growth
from mlm_jax.config.values import BadValue
from mlm_jax.data.text.languages import run_languages
from mlm_jax.data.vocabulary.folder import load_vocabulary
from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.interop.folder import new_folder

NONE: Mapping[str, Any] = MappingProxyType({})


class GrowReport(NamedTuple):
    """What a vocabulary gained, and how much text is tokenized differently.

    Attributes:
      pieces: number of pieces before and after.
      new: number of new pieces; some of them may have taken reserved ids.
      translated: number of new pieces that begin as pieces of translations.
      translations: number of translations that were read.
      changes: {language: changes in the tokens of its text}, of the new language first.
    """

    pieces: tuple[int, int]
    new: int
    translated: int
    translations: int
    changes: dict[str, Recut]

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        before, after = self.pieces
        found = [f"{self.new:,} new pieces; the vocabulary had {before:,} and has {after:,}"]
        if self.translations:
            found.append(
                f"{self.translated:,} of them begin as old pieces of {self.translations:,} translations; "
                "the others as the mean of the old pieces that spell them"
            )
        for code, count in self.changes.items():
            share = 100 * count.after / max(count.before, 1) - 100
            unknown = f", of which unknown {count.unknown_before:,} → {count.unknown_after:,}"
            found.append(
                f"{code}: {count.changed:,} of {count.texts:,} texts change their ids; "
                f"{count.before:,} tokens → {count.after:,} ({share:+.2f} %)"
                + (unknown if count.unknown_before or count.unknown_after else "")
            )
        return found


def grow(
    checkpoint: str | Path,
    language: str,
    text: Any,
    out: str | Path,
    *,
    pieces: int = 2000,
    old_texts: Mapping[str, Any] = NONE,
    start: str = "spelling",
    pairs: Mapping[str, Any] = NONE,
) -> GrowReport:
    """Write a model's vocabulary with a language added, for a run that continues with it (:func:`.continued_config`).

    Args:
      checkpoint: a workdir or one of its checkpoints.
      language: code of the new language.
      text: text of the new language, a source as in ``config.data.corpora``.
      out: folder of the new vocabulary, which must not exist yet.
      pieces: most pieces to add.
      old_texts: {language that the model knows: source} of texts, to count those whose ids change.
      start: how the embeddings of new pieces begin: "spelling" or "lexicon".
      pairs: {pair of languages: source} of translations, which "lexicon" reads.

    Returns:
      the numbers that ``mlm-jax grow`` prints.

    Raises:
      UserError: as :func:`.grow_vocabulary`; an argument is not valid; there is no checkpoint, no text or no translation; or the
        folder exists, or cannot be written.
    """
    check_growth("grow", {"language": language, "text": text, "pieces": pieces, "start": start, "pairs": pairs})
    if Path(out).exists():
        raise UserError("this folder already exists", file=out, remedy="name another folder")
    described = describe(checkpoint)
    old = described.vocabulary
    documents = [*itertools.islice(filter(str.strip, texts_of(text, language)), MOST_DOCUMENTS)]
    if not documents:
        raise UserError("there is no text in it", file=str(text), remedy="give text of the new language")
    translations = translations_of(pairs, language, described.languages)
    grown = grow_vocabulary(old, language, documents, pieces)
    mixtures = STARTS[start](old, grown, translations)
    changes = {language: recut(old, grown, documents)}
    for code, source in old_texts.items():
        changes[code] = recut(old, grown, itertools.islice(texts_of(source, code), MOST_DOCUMENTS))
    with new_folder(out) as scratch:
        grown.save(scratch)
        if pairs:
            write_starts(scratch / FILE, mixtures, old, grown)
    new = grown.size - sum(behind - first for first, behind in old_rows(old, grown))
    return GrowReport((old.size, grown.size), new, len(mixtures), len(translations), changes)


def freeze_old(config: ConfigDict, checkpoint: str | Path, vocabulary: str | Path) -> None:
    """Let a config train the new pieces and the new languages' own weights only.

    All other weights, and the outputs for old text without new pieces, stay the same bit for bit.

    Args:
      config: a config that continues the model, with its data.
      checkpoint: the model, a workdir or one of its checkpoints.
      vocabulary: the folder that :func:`grow` wrote.

    Raises:
      BadValue: ``config.languages`` does not begin with the languages of the model, whose own weights would be mixed up.
    """
    model = describe(checkpoint)
    known = model.languages
    if language_specific(config.model):
        own = run_languages(config)
        if config.languages and own[: len(known)] != known:
            problem = (
                f"the model has weights of {', '.join(known)}, but languages begins with {', '.join(own[: len(known)])}"
            )
            remedy = "begin with the languages of the model, in the same order, or leave languages out"
            raise BadValue("languages", problem, remedy)
        config.languages = tuple(dict.fromkeys((*known, *own)))
    config.optimizer.freeze_table = freeze_table(
        model.vocabulary, load_vocabulary(vocabulary), config.model, len(known)
    )


def freeze_table(old: Vocabulary, grown: Vocabulary, model: ConfigDict, languages: int) -> tuple[tuple[str, Any], ...]:
    """Return the ``optimizer.freeze_table`` that trains new pieces and the weights of new languages only.

    Args:
      old: the vocabulary of the trained model.
      grown: the vocabulary with new pieces.
      model: ``config.model``.
      languages: number of languages of the trained model, which are the first of the run's.
    """
    rows = old_rows(old, grown)
    table: list[tuple[str, Any]] = [
        ("embedding|output|output_bias", old.size if rows == ((0, old.size),) else rows),
        *((pattern, languages) for pattern in language_specific(model)),
        (".*", True),
    ]
    return tuple(table)
