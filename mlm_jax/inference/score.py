"""Translation quality of a checkpoint on its run's held-out pairs: chrF++ and BLEU by target language."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.progress import track

from mlm_jax.common.console import plain_console
from mlm_jax.data.store.store import Stream
from mlm_jax.evaluation.bootstrap import Interval
from mlm_jax.evaluation.extras import metric_library
from mlm_jax.evaluation.translation import translation_scores
from mlm_jax.inference.translator import Search, Translator


def translation_metrics(
    translator: Translator, streams: Sequence[Stream], *, limit: int, reverse: bool = True, search: Search | None = None
) -> tuple[dict[str, dict[str, float]], dict[tuple[str, str], Interval]]:
    """Translate held-out pairs and score them, pooled by target language.

    Texts come from the token store, as the vocabulary normalised them (NFKC, one space between words).

    Args:
      translator: the model.
      streams: the streams of pairs, with a validation split.
      limit: the largest number of pairs of each stream; the first ones are used.
      reverse: whether to translate from the second language of a pair into the first as well.
      search: settings of the search; None means four beams.

    Returns:
      {"chrf" | "bleu": {target language, or "mean" over them: 0–100}}; and {("chrf" | "bleu", target language): interval
      of 95 %}.

    Raises:
      UserError: sacrebleu is missing, or the store is corrupt.
    """
    metric_library("sacrebleu")  # a missing library is an error now, not after the translations
    sources: dict[str, list[tuple[str, str]]] = {}  # {target: [(language, text)]}
    references: dict[str, list[str]] = {}
    for stream in streams:
        split = stream.split("validation")
        numbers = np.arange(min(split.documents, limit))
        first, second = (
            [translator.vocabulary.decode(ids.tolist()) for ids in split[side].documents(numbers)]
            for side in ("inputs", "targets")
        )
        directions = [(stream.languages, first, second), (stream.languages[::-1], second, first)]
        for (source, target), texts, translations in directions[: 2 if reverse else 1]:
            sources.setdefault(target, []).extend((source, text) for text in texts)
            references.setdefault(target, []).extend(translations)
    chrf, bleu = {}, {}
    intervals: dict[tuple[str, str], Interval] = {}
    console = plain_console(stderr=True)
    for target, given in track(
        sources.items(),
        "translating, language by language",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ):
        found = translator.translate(
            [text for _, text in given],
            target_language=target,
            source_language=[code for code, _ in given],
            search=search or Search(),
        )
        scores = translation_scores([translation.text for translation in found], references[target], target)
        chrf[target], bleu[target] = scores.chrf, scores.bleu
        intervals |= {("chrf", target): scores.chrf_interval, ("bleu", target): scores.bleu_interval}

    def averaged(values: dict[str, float]) -> dict[str, float]:
        return values | {"mean": float(np.mean([*values.values()]))}

    return {name: averaged(values) for name, values in (("chrf", chrf), ("bleu", bleu)) if values}, intervals
