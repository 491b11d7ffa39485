"""Language codes in the files of others: ``de-DE`` and ``DE_at`` are ``de``."""

from __future__ import annotations

from collections.abc import Collection


def plain_code(code: str) -> str:
    """Return a code in lower case, with hyphens."""
    return code.casefold().replace("_", "-")


def code_of(language: str, codes: Collection[str]) -> str:
    """Return the code, among several, of a language: an equal one, or else one of which either is the primary subtag, or ""."""
    near = (code for code in codes if _primary(code) == language or code == _primary(language))
    return language if language in codes else next(near, "")


def _primary(code: str) -> str:
    return code.partition("-")[0]
