"""Zero-shot transfer of classifiers: scores by source and target language, and the transfer gap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mlm_jax.common.errors import UserError, nearest


class TransferMatrix(NamedTuple):
    """Scores of models fine-tuned on one language each and tested on others.

    Attributes:
      metric: name of the scores, such as ``accuracy`` or ``f1``.
      sources: languages on which a model was fine-tuned.
      targets: languages on which it was tested.
      scores: ``[sources, targets]``; NaN for pairs without a value.
      selected_by: metric that chose each source's checkpoint, such as ``eval/accuracy/en``; "" is the last checkpoint.
        Choosing on a target's labels is no longer zero-shot.
    """

    metric: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    scores: np.ndarray
    selected_by: tuple[str, ...]

    def transfer(self, source: str) -> float:
        """Return the mean score on the targets other than the source.

        Raises:
          UserError: the source is unknown, or was tested on no other language.
        """
        row = self.scores[self._index(self.sources, source)]
        others = [score for target, score in zip(self.targets, row) if target != source and np.isfinite(score)]
        if not others:
            raise UserError(f"{source!r} was not tested on any other language")
        return float(np.mean(others))

    def gap(self, source: str) -> float:
        """Return the transfer gap: the score on the source minus the mean on the other languages (Hu et al. 2020).

        Raises:
          UserError: as in :meth:`transfer`.
        """
        own = self.scores[self._index(self.sources, source), self._index(self.targets, source)]
        return float(own) - self.transfer(source)

    @staticmethod
    def _index(codes: tuple[str, ...], code: str) -> int:
        if code not in codes:
            raise UserError(f"no language {code!r} in the transfer matrix{nearest(code, codes)}")
        return codes.index(code)


def transfer_matrix(
    scores: Mapping[str, Mapping[str, float]], metric: str = "accuracy", selected_by: Mapping[str, str] | None = None
) -> TransferMatrix:
    """Arrange {source: {target: score}} as a matrix, targets in the order of their first appearance.

    Args:
      scores: the scores of each fine-tuned model on each language.
      metric: name of the scores.
      selected_by: {source: metric that chose its checkpoint}.
    """
    sources = tuple(scores)
    found = dict.fromkeys(target for row in scores.values() for target in row)
    targets = (*(code for code in sources if code in found), *(code for code in found if code not in sources))
    matrix = np.array([[scores[source].get(target, np.nan) for target in targets] for source in sources])
    chosen = tuple((selected_by or {}).get(source, "") for source in sources)
    return TransferMatrix(metric, sources, targets, matrix, chosen)
