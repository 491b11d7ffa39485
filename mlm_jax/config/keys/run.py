"""Keys of the run as a whole, which stand in no group: ``seed``, ``steps``, ``languages``, ``families``."""

from __future__ import annotations

import re
from typing import Any

from mlm_jax.config.values import ByName, Fits, Key, are_names, whole

ABOUT = "The run as a whole."


def _are_language_codes(value: Any) -> bool:
    return are_names(value) and all(re.fullmatch(r"[\w-]+", code) for code in value)


KEYS: tuple[Key, ...] = (
    Key("seed", 0, whole(), "Seed of the initial weights, of the order of the data and of the masks."),
    Key("steps", 10_000, whole(1), "Optimizer steps of the whole run."),
    Key(
        "languages",
        (),
        Fits(_are_language_codes, "language codes such as sw, zh-Hans or deu_Latn"),
        "Language codes in the order of their indices. () takes the order in which `data` names them.",
    ),
    Key(
        "families",
        {},
        ByName(Fits(are_names, 'a tuple of languages: ("de", "en")'), '{"germanic": ("de", "en")}'),
        'Languages of each family, for layer groups whose weights are indexed by "family".',
    ),
)
