"""The languages of a run, and the languages in the name of a pair. TensorFlow is not needed for this."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError, nearest
from mlm_jax.config.sources import SEPARATOR, named_sources


def pair_languages(pair: str, languages: Sequence[str]) -> tuple[str, ...]:
    """Split "de-en" into two of the given languages, whose codes may contain hyphens; () if that is not possible."""
    for first in languages:
        if pair.startswith(f"{first}-") and pair[len(first) + 1 :] in languages:
            return first, pair[len(first) + 1 :]
    return ()


def split_pair(pair: str, languages: Sequence[str] = ()) -> tuple[str, str]:
    """Return the two languages of "de-en".

    Args:
      pair: the name.
      languages: known codes, which may contain hyphens; unknown codes contain none.

    Raises:
      UserError: the name is not that of two languages.
    """
    sides = pair_languages(pair, languages) or tuple(pair.split("-"))
    if len(sides) != 2 or not all(sides):
        raise UserError(
            f"{pair!r} is not two languages",
            remedy='write "de-en", and name codes that contain a hyphen in config.languages',
        )
    return sides[0], sides[1]


def named_languages(config: ConfigDict) -> tuple[str, ...]:
    """Return the codes that a config names as single languages, from which the names of pairs are understood."""
    named = [*config.data.corpora, *(entry["language"] for entry in config.data.labelled.values())]
    return tuple(config.languages) or tuple(dict.fromkeys(named))


def languages_of(config: ConfigDict, name: str) -> tuple[str, ...]:
    """Return the language, or the two languages, of a name in the config such as "de", "de-en" or "de:wiki".

    Raises:
      UserError: the name is neither that of a language nor that of a pair.
    """
    known = named_languages(config)
    of = name.partition(SEPARATOR)[0]
    return (of,) if of in known or "-" not in of else split_pair(of, known)


def only_held_out(config: ConfigDict) -> tuple[str, ...]:
    """Return the names in ``config.data.validation`` without training text, which are test sets."""
    data = config.data
    trained = {source.stream for entries in (data.corpora, data.parallel) for source in named_sources(entries)}
    nothing: tuple[str, ...] = ()  # in the config of a shard: validation text that another shard reads
    return tuple(
        name for name, source in data.validation.items() if source != nothing and (data.mixture or name not in trained)
    )


def run_languages(config: ConfigDict) -> tuple[str, ...]:
    """Return the run's languages in index order: ``config.languages``, or else in the order in which the data names them.

    Raises:
      UserError: there are no languages; a code is not valid or is named twice; the name of a pair is not that of two languages;
        data is of a language that is missing from ``config.languages``; or held-out text is of a language that is not the run's.
    """
    found: list[str] = [*config.data.corpora]
    for pair in config.data.parallel:
        try:
            found += split_pair(pair, named_languages(config))
        except UserError as error:
            raise UserError(f"config.data.parallel: {error.problem}", remedy=error.remedy) from error
    for name in config.data.mixture_languages.values():
        found += languages_of(config, name)
    found += [entry["language"] for entry in config.data.labelled.values()]
    found = list(dict.fromkeys(found))
    if not found:
        raise UserError(
            "the config names no data", remedy="set config.data.corpora, for example {'en': 'text/en/*.txt'}"
        )
    for language in (*config.languages, *found):
        if not (isinstance(language, str) and re.fullmatch(r"[\w-]+", language)):
            raise UserError(
                f"{language!r} cannot be the code of a language", remedy="write one such as sw, zh-Hans or deu_Latn"
            )
    for number, language in enumerate(config.languages):
        if language in config.languages[:number]:
            raise UserError(f"config.languages names {language!r} twice", remedy="name each language once")
    for language in found:
        if config.languages and language not in config.languages:
            problem = (
                f"config.languages lacks {language!r}, which config.data names{nearest(language, config.languages)}"
            )
            raise UserError(problem, remedy="add it at the end, or leave config.languages out")
    languages = tuple(config.languages) or tuple(found)
    for name in only_held_out(config):
        if not (name in languages or pair_languages(name, languages)):
            known = [*config.data.corpora, *config.data.parallel, *languages]
            raise UserError(
                f"config.data.validation: {name!r} is neither a language nor a pair of languages of the run"
                f"{nearest(name, known)}",
                remedy=f"the run's languages are {', '.join(languages)}",
            )
    return languages
