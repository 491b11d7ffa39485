"""Lift: by which factor sampling and the weights of the loss increase the weight of a language over its share of the text."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mlm_jax.data.loading.loader import Loader

NOTICEABLE = 1.25  # a lift that is worth a warning


def lifts(loader: Loader, task: str, step: int) -> dict[str, tuple[float, float]]:
    """Return {language: (lift by sampling, lift by 1/N_l)} of a task whose loss is normalised by language.

    Sampling lifts a language by its planned share divided by its share of the text's tokens. The weight 1/N_l lifts each of its
    tokens by (1/number of languages) divided by its planned share. The product of both is the weight of a token, relative to a
    plain average over all tokens.

    Args:
      loader: the loader of the run.
      task: a task that reads text.
      step: the step whose planned shares are used.
    """
    planned = {language: share for language, share in loader.planned_shares(task, step).items() if share}
    tokens = dict.fromkeys(planned, 0)
    for stream in loader.streams(task):
        for language in stream.languages:
            if language in tokens:
                tokens[language] += stream.split("train").tokens
    whole = sum(tokens.values())
    return {
        language: (share * whole / tokens[language], 1 / (len(planned) * share)) for language, share in planned.items()
    }


def warning(found: Mapping[str, tuple[float, float]]) -> str:
    """Return a warning that sampling and weights both lift the same languages; "" if they lift none twice."""
    twice = {language: both for language, both in found.items() if min(both) > NOTICEABLE}
    if not twice:
        return ""
    by_product = sorted(twice.items(), key=lambda item: -np.prod(item[1]))
    shown = ", ".join(f"{language} {a:.2g} × {b:.2g} = {a * b:.2g}" for language, (a, b) in by_product)
    return (
        f"these languages are weighted up twice, by sampling (mixing) and by the weight 1/N_l (training.normalize): {shown}; "
        "with training.normalize='token' only sampling does it"
    )
