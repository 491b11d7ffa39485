"""``language``: texts that are in another language than their corpus."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache
from typing import Any

from mlm_jax.common.errors import UserError
from mlm_jax.common.extras import install_command
from mlm_jax.config.option import option
from mlm_jax.config.values import Number, whole
from mlm_jax.data.store.filters.base import TextFilter
from mlm_jax.data.store.filters.letters import letters

CALLED = {"nb": "no", "fil": "tl"}  # {code: py3langid's code for it}
LONGEST = 2000  # characters of a text that are used; more would not change the result


@dataclasses.dataclass(frozen=True)
class Language(TextFilter):
    """Drop texts that py3langid is sure are in another language.

    Short texts stay, as does all text of a language that py3langid does not know. A language and its varieties (ar and arz, zh
    and yue) count as one, and so do several codes of a language (de, deu, deu_Latn).

    Raises:
      UserError: py3langid or langcodes is not installed, or the code of a language is not valid.

    Source: Lui and Baldwin 2012, langid.py.
    """

    sure: float = option(0.9, Number(0, 1), "Lowest probability of another language at which a text is dropped.")
    shortest: int = option(40, whole(0), "Letters of the shortest text that is judged; shorter texts stay.")

    def __post_init__(self) -> None:
        _identifier()

    def keeps_texts(self, texts: Sequence[str], language: str) -> Sequence[bool]:
        """Return which texts to keep."""
        return [not self._is_foreign(text, language) for text in texts]

    def cannot_judge(self, language: str) -> str:
        """Return why text of a language cannot be judged; "" if it can."""
        return "" if group(language) in _identifier().groups else f"py3langid does not know {language!r}"

    def _is_foreign(self, text: str, language: str) -> bool:
        own, known = group(language), _identifier()
        if own not in known.groups or letters(text[:LONGEST]) < self.shortest:
            return False
        found, probability = known.classify(text[:LONGEST])
        return group(found) != own and probability >= self.sure


@cache
def group(code: str) -> str:
    """Return one code for all codes of a language and its varieties.

    Raises:
      UserError: it is not the code of a language.
    """
    import langcodes

    try:
        found = langcodes.get(code).prefer_macrolanguage().language or code
    except langcodes.LanguageTagError as error:
        raise UserError(
            f"{code!r} is not the code of a language, so its text cannot be identified",
            remedy='name the languages that the filter is for: {"filter": "language", "only": ("de",)}',
        ) from error
    return CALLED.get(found, found)


class _Identifier:
    def __init__(self) -> None:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        self._model: Any = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        self.groups = {group(code) for code in self._model.labels}

    def classify(self, text: str) -> tuple[str, float]:
        return self._model.classify(text)


@cache
def _identifier() -> _Identifier:
    try:
        import langcodes  # noqa: F401
        import py3langid  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed, and the filter 'language' needs it", remedy=install_command("filters")
        ) from error
    return _Identifier()
