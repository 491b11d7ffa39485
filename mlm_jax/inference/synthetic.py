"""Synthetic parallel text: translations by a model, kept if an encoder gives both sides similar embeddings.

In back-translation (Sennrich et al. 2016) the translation is the source, with a tag before it (Caswell et al. 2019), so that a
model learns to write real text. In forward translation the translation is the target, for translate-train and self-training.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mlm_jax import __version__
from mlm_jax.common.errors import UserError, nearest
from mlm_jax.common.files import writing
from mlm_jax.common.lines import windows
from mlm_jax.evaluation.retrieval import NEIGHBOURS, nearest_neighbours, normalize, ratio_margin
from mlm_jax.inference.encoder import Model
from mlm_jax.inference.translator import Search, Translator

KINDS = ("back", "forward")
WINDOW = 4096  # pairs whose neighbourhoods are searched together
BACK_TAG = "<BT>"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The settings of a synthetic corpus.

    Attributes:
      kind: ``back``: (translation, text) | ``forward``: (text, translation).
      source_language: the source language of the texts; None if the translator has no language-specific parts.
      target_language: the target language of the translations.
      search: settings of the search.
      margin: the smallest ratio margin of a pair that is kept (Artetxe & Schwenk 2019); 0 keeps all pairs.
      tag: text before back-translations, by which a model can distinguish them from real text.

    Raises:
      UserError: the kind is unknown, the language of the text is not given, or the search returns several translations.
    """

    kind: str
    source_language: str | None
    target_language: str
    search: Search = Search()
    margin: float = 1.0
    tag: str = BACK_TAG

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(
                f"no kind of synthetic text {self.kind!r}{nearest(self.kind, KINDS)}", remedy="use back or forward"
            )
        if self.source_language is None:
            raise UserError("a synthetic corpus needs the language of its text", remedy="give --from")
        if self.search.count > 1:
            raise UserError("a synthetic corpus takes the best translation of each text", remedy="leave out --n-best")

    @property
    def pair(self) -> str:
        """Name of the corpus in ``config.data.parallel``: the languages of its two columns."""
        sides = str(self.source_language), self.target_language
        return "-".join(sides[::-1] if self.kind == "back" else sides)


def synthetic_pairs(
    translator: Translator, encoder: Model, texts: Iterable[str], recipe: Recipe, counts: Counter[str]
) -> Iterator[tuple[str, str]]:
    """Yield the two columns of a synthetic corpus; memory does not grow with the corpus.

    Args:
      translator: writes the translations.
      encoder: its sentence embeddings give the margins; it may be the translator.
      texts: monolingual sentences.
      recipe: the settings of the corpus.
      counts: the numbers of texts, cut texts, kept pairs, and dropped pairs by reason are added to it.

    Raises:
      UserError: a language is unknown to one of the models.
    """
    found = translator.stream(
        texts,
        target_language=recipe.target_language,
        source_language=recipe.source_language,
        search=recipe.search,
        counts=counts,
    )
    for window in windows(found, WINDOW):
        candidates = []
        for text, translation in window:
            written = as_column(translation.text)
            reason = (
                "empty text"
                if not translation.hypotheses
                else "empty translation"
                if not written
                else "translation does not end"
                if not translation.hypotheses[0].ended
                else "translation is the text"
                if written == as_column(text)
                else ""
            )
            counts[f"dropped: {reason}" if reason else "judged"] += 1
            candidates += [] if reason else [(as_column(text), written)]
        counts["texts"] += len(window)
        for text, written in _near_enough(encoder, candidates, recipe, counts):
            counts["kept"] += 1
            back = f"{recipe.tag} {written}".strip(), text
            yield back if recipe.kind == "back" else (text, written)


def pair_margins(sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return ``[pairs]`` ratio margins: the similarity of the two sides of a pair, relative to their nearest other sentences.

    cos(x, y) / ((r(x) + r(y)) / 2), r the mean cosine to the 4 nearest sentences of the other side (Artetxe & Schwenk
    2019, ratio margin).

    Args:
      sources: ``[pairs, width]`` embeddings.
      targets: ``[pairs, width]`` embeddings of the other sides. A single pair has no neighbours, and its margin is 1.
    """
    sources, targets = normalize(sources), normalize(targets)
    k = NEIGHBOURS["ratio_margin"]
    around_source = nearest_neighbours(sources, targets, k)[1].mean(axis=1)  # [pairs]
    around_target = nearest_neighbours(targets, sources, k)[1].mean(axis=1)
    return ratio_margin(np.einsum("nw,nw->n", sources, targets), (around_source + around_target) / 2)


def provenance(
    translator: Translator,
    encoder: Model,
    recipe: Recipe,
    counts: Counter[str],
    *,
    checkpoint: str,
    judge: str,
    text: str,
) -> dict[str, Any]:
    """Return the provenance of a synthetic corpus, as JSON values.

    Args:
      translator: the model that wrote the translations.
      encoder: the model that gave the margins.
      recipe: the settings of the corpus.
      counts: the counts of :func:`synthetic_pairs`.
      checkpoint: the path of the translator.
      judge: the path of the encoder.
      text: the path of the texts.
    """

    def made_by(checkpoint: str, model: Model) -> dict[str, Any]:
        return {"checkpoint": checkpoint, "step": model.step, "vocabulary": model.vocabulary.fingerprint}

    return {
        "synthetic": recipe.kind,
        "pair": recipe.pair,
        "text": text,
        "translator": made_by(checkpoint, translator),
        "encoder": made_by(judge, encoder),
        "recipe": dataclasses.asdict(recipe),
        "counts": dict(sorted(counts.items())),
        "mlm_jax": __version__,
    }


def provenance_file(corpus: str | Path) -> Path:
    """Return the path of a corpus file's provenance: ``NAME.tsv.json`` in the same folder."""
    return Path(f"{corpus}.json")


def write_provenance(corpus: str | Path, facts: dict[str, Any]) -> None:
    """Write a corpus's provenance into its folder."""
    with writing(str(provenance_file(corpus))) as file:
        file.write(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def as_column(text: str) -> str:
    """Return a text as a column of a TSV file: without tabs, line ends and double spaces."""
    return " ".join(text.split())


def _near_enough(
    encoder: Model, pairs: list[tuple[str, str]], recipe: Recipe, counts: Counter[str]
) -> list[tuple[str, str]]:
    if not pairs or not recipe.margin:
        return pairs
    if len(pairs) == 1:  # its margin is always 1
        counts["dropped: without neighbours to be judged by"] += 1
        return []
    languages = (recipe.source_language, recipe.target_language)
    sides = (encoder.embed(list(side), language=code) for side, code in zip(zip(*pairs), languages))
    margins = pair_margins(*sides)
    counts["dropped: below the margin"] += int((margins < recipe.margin).sum())
    return [pair for pair, margin in zip(pairs, margins) if margin >= recipe.margin]
