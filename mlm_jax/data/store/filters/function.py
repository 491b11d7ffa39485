"""``"module:function"``: a user's function that decides which examples to keep."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlm_jax.common.errors import UserError
from mlm_jax.data.store.filters.base import Filter
from mlm_jax.data.text.libraries.function import corpus_function
from mlm_jax.data.text.reading import brief


@dataclasses.dataclass(frozen=True)
class Function(Filter):
    """Keep texts for which ``function(text, language)`` is True, pairs by ``function((text, text), (language, language))``.

    Raises:
      UserError: there is no such function, or it returns something other than True or False.
    """

    source: str

    def __post_init__(self) -> None:
        corpus_function(self.source)

    def keeps(self, examples: Sequence[Any], languages: tuple[str, ...]) -> np.ndarray:
        """Return which examples to keep: ``[examples]`` bool."""
        function: Callable[[Any, Any], Any] = corpus_function(self.source)
        of = languages if len(languages) > 1 else languages[0]
        verdicts = [function(example, of) for example in examples]
        for example, verdict in zip(examples, verdicts):
            if not isinstance(verdict, (bool, np.bool_)):
                raise UserError(
                    f"the filter returns {brief(verdict)} for {brief(example)}",
                    file=self.source,
                    remedy="return True or False",
                )
        return np.array(verdicts, bool)
