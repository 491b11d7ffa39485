"""Codes of languages as others write them: ``de-DE`` and ``DE_at`` are ``de``."""

from __future__ import annotations

from collections.abc import Collection


def plain_code(code: str) -> str:
    """Return a code in small letters, with hyphens."""
    return code.casefold().replace("_", "-")


def code_of(language: str, codes: Collection[str]) -> str:
    """Return which code means a language: the same in full, else one if either is the other's primary subtag, or ""."""
    near = (code for code in codes if _primary(code) == language or code == _primary(language))
    return language if language in codes else next(near, "")


def _primary(code: str) -> str:
    return code.partition("-")[0]
