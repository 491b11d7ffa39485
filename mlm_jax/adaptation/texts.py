"""Text by language for the verbs that change a vocabulary, from the same sources as ``config.data``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.data.store.streams import sources
from mlm_jax.data.text.languages import split_pair

MOST_DOCUMENTS = 200_000  # most documents from which new pieces are learned


def texts_of(source: Any, language: str) -> Iterator[str]:
    """Yield the training text of a source, as ``config.data.corpora`` takes it.

    Args:
      source: files, a function, a data set library, or several of them by name.
      language: language of the text.

    Raises:
      UserError: as :func:`.corpora.documents`.
    """
    config = default_config()
    config.data.corpora = {language: source}
    for one in sources(config):
        yield from itertools.chain.from_iterable(one.batches("train"))


def translations_of(pairs: Mapping[str, Any], language: str, known: Sequence[str]) -> list[tuple[str, str]]:
    """Return translations as (text of the new language, text of another one).

    Args:
      pairs: {pair of languages: source of its parallel text, as ``config.data.parallel`` takes it}.
      language: the new language.
      known: codes of the languages that the model knows.

    Raises:
      UserError: a pair does not name the new language, or there is no translation in its files.
    """
    found: list[tuple[str, str]] = []
    config = default_config()
    config.languages = codes = tuple(dict.fromkeys((language, *known)))
    for name, source in pairs.items():
        sides = split_pair(name, codes)
        if language not in sides:
            raise UserError(
                f"the translations of {name!r} are not of {language!r}", remedy=f"name a pair such as {language}-en"
            )
        turned = sides[1] == language
        config.data.parallel = {name: source}
        batches = itertools.chain.from_iterable(one.batches("train") for one in sources(config))
        both = filter(all, itertools.chain.from_iterable(batches))
        read = [(b, a) if turned else (a, b) for a, b in itertools.islice(both, MOST_DOCUMENTS)]
        if not read:
            raise UserError(f"there is no translation of {name}", remedy="check its files")
        found += read
    return found
