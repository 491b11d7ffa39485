"""Extractive question answering: the first and the last token of the answer in a text."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mlm_jax.config.option import option
from mlm_jax.config.values import choice
from mlm_jax.data.loading.batch import TaskBatch
from mlm_jax.data.store.question_rows import END, START
from mlm_jax.objectives.base import Context, Metrics, mean_weights, means_by_language
from mlm_jax.objectives.labelled import Labelled, LabelledExamples

RULES = (
    "rules by which answers are compared in exact match and F1: those of SQuAD's script, English ones whatever the language is "
    "(as XTREME has them for XQuAD and TyDi QA); or of MLQA's, with each language's articles, and Chinese character by character"
)


@dataclasses.dataclass(frozen=True)
class QuestionAnswering(Labelled):
    """½ (−log P(first token of the answer) − log P(its last token)), each over all tokens of the row (Devlin et al. 2019).

    If a row does not contain the answer (another window of a long text, or an unanswerable question), the label is the row's first
    token.
    """

    kind: ClassVar[str] = "questions"
    per_token: ClassVar[bool] = True
    published_head: ClassVar[tuple[str, str | None]] = ("ForQuestionAnswering", None)
    answer_rules: str = option("squad", choice("squad", "mlqa"), RULES)

    def prepare(self, batch: TaskBatch, key: jax.Array, context: Context) -> LabelledExamples:
        """Find the first and the last token of each row's answer, ``[rows, 2]``, or −1; all rows have the same weight."""
        labels = jnp.asarray(batch["labels"])  # [rows, length]
        flags = jnp.stack([(labels > 0) & (labels & flag > 0) for flag in (START, END)], axis=1)  # [rows, 2, length]
        found = flags.any(axis=2).all(axis=1)  # a row that is cut may have lost its answer
        positions = jnp.where(found[:, None], flags.argmax(axis=2), -1)  # [rows, 2]
        return LabelledExamples(batch["inputs"], positions, found * mean_weights(found.sum(), found))

    def loss(
        self, model: Any, examples: LabelledExamples, context: Context, key: jax.Array | None
    ) -> tuple[jax.Array, Metrics]:
        """Return the mean loss, and by language: the loss, and the share of rows in which both tokens are the likeliest ones."""
        rows = examples.rows
        logits = jnp.where((rows.segment_ids > 0)[..., None], self.outputs(model, rows, key), -1e9)
        logits = jnp.swapaxes(logits, 1, 2)  # [rows, 2, length]
        positions = jnp.maximum(examples.labels, 0)[..., None]
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), positions, axis=2).mean(axis=(1, 2))  # [rows]
        hits = (logits.argmax(axis=2) == positions[..., 0]).all(axis=1)
        metrics = means_by_language(
            {"loss": losses, "accuracy": hits}, examples.labels[:, 0] >= 0, rows.language, context
        )
        return (losses * examples.weights).sum(), metrics
