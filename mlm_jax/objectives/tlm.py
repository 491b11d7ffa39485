"""Translation language modelling: both sides of a pair share one segment, and tokens of both are masked."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mlm_jax.data.loading.batch import Rows, TaskBatch
from mlm_jax.objectives.base import Context, concatenate_rows
from mlm_jax.objectives.masking import Masked
from mlm_jax.objectives.mlm import MaskedExamples, MaskedLanguageModelling, weigh


@dataclasses.dataclass(frozen=True)
class TranslationLanguageModelling(MaskedLanguageModelling):
    """Masked language modelling over a sentence and its translation side by side (Lample & Conneau 2019).

    Positions restart at 0 in the translation, and each side has the embedding of its language. The other language helps to
    predict masked words. The loss weights each side's tokens by 1/N_l of its own language.
    """

    kind: ClassVar[str] = "pairs"
    symmetric: ClassVar[bool] = True
    mixes_languages: ClassVar[bool] = True

    def longest_row(self, length: int) -> int:
        """Return the number of tokens of both sides."""
        return 2 * length

    def prepare(self, batch: TaskBatch, key: jax.Array, context: Context) -> MaskedExamples:
        """Mask tokens of both sides and put the sides next to each other: ``[rows, 2 · length]``."""
        both = concatenate_rows(batch["inputs"], batch["targets"])  # [2 rows, length]
        return jax.tree.map(jnp.asarray, side_by_side(weigh(self.mask(key, both, context), context)))


def side_by_side(stacked: MaskedExamples) -> MaskedExamples:
    """Turn ``[2 rows, length]`` (all first sides, then all second sides) into ``[rows, 2 · length]``."""
    masked, length = stacked.masked, stacked.masked.rows.tokens.shape[1]

    def join(x: jax.Array) -> jax.Array:
        return jnp.concatenate(jnp.split(x, 2), axis=1)

    given = masked.rows
    languages = jnp.repeat(jnp.stack(jnp.split(given.language, 2), axis=1), length, axis=1)  # [rows, 2 · length]
    rows = Rows(join(given.tokens), join(given.segment_ids), join(given.positions), languages)
    shift = jnp.repeat(jnp.asarray([0, length]), len(masked.positions) // 2)[:, None]
    joined = Masked(rows, join(masked.positions + shift), join(masked.labels), join(masked.chosen))
    return MaskedExamples(joined, join(stacked.language), join(stacked.weights))
