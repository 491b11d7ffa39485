"""Classification of whole texts and of single tokens, by the task's own head."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mlm_jax.common.errors import UserError, nearest
from mlm_jax.config.option import option
from mlm_jax.config.values import ByName, Number, choice
from mlm_jax.data.loading.batch import Rows, TaskBatch
from mlm_jax.objectives.base import Context, Metrics, means_by_language
from mlm_jax.objectives.labelled import POOLING, Labelled, LabelledExamples


@dataclasses.dataclass(frozen=True)
class OneClass(Labelled):
    """Mean −log P(class | hidden states), or with class weights Σ w[class] · −log P / Σ w[class]."""

    kind: ClassVar[str] = "labelled"
    class_weights: Mapping[str, float] = option(
        {}, ByName(Number(0), '{"B-PER": 2.0}'), "weights of classes in the training loss; 1 for those left out"
    )

    def check_labels(self, name: str, classes: Sequence[str], per_token: bool) -> None:
        """Check the kind of labels, and that every class with a weight exists.

        Raises:
          UserError: the labels are of the other kind, or from :meth:`weights_of`.
        """
        super().check_labels(name, classes, per_token)
        self.weights_of(classes)

    def prepare(self, batch: TaskBatch, key: jax.Array, context: Context) -> LabelledExamples:
        """Weight each label by the weight of its class, divided by the sum of these weights in the global batch."""
        examples = super().prepare(batch, key, context)
        if not self.class_weights:
            return examples
        of_class = jnp.asarray(self.weights_of(context.labels[self.task]))
        weights = of_class[jnp.maximum(examples.labels, 0)] * self.is_real(examples.labels)
        return examples._replace(weights=weights / jnp.maximum(weights.sum(), 1e-9))

    def weights_of(self, names: Sequence[str]) -> np.ndarray:
        """Return the weights of classes, ``[classes]`` float32.

        Args:
          names: the names of the classes.

        Raises:
          UserError: a weight names a class that does not exist, or all weights are 0.
        """
        key = f"tasks.{self.task}.class_weights"
        for name in self.class_weights:
            if name not in names:
                raise UserError(
                    f"{key} names {name!r}, which is not a class of the task{nearest(name, names)}",
                    remedy=f"its classes are {', '.join(names)}",
                )
        weights = np.array([self.class_weights.get(name, 1.0) for name in names], np.float32)
        if not weights.any():
            raise UserError(f"{key} are all 0", remedy="give a class a weight above 0")
        return weights

    def loss(
        self, model: Any, examples: LabelledExamples, context: Context, key: jax.Array | None
    ) -> tuple[jax.Array, Metrics]:
        """Return the weighted mean loss, and loss and accuracy by language without class weights."""
        logits = self.outputs(model, examples.rows, key)
        labels = jnp.maximum(examples.labels, 0)
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]
        values = {"loss": losses, "accuracy": logits.argmax(axis=-1) == labels}
        metrics = means_by_language(values, self.is_real(examples.labels), examples.rows.language, context)
        return (losses * examples.weights).sum(), metrics


@dataclasses.dataclass(frozen=True)
class Classification(OneClass):
    """Mean −log P(class | text)."""

    published_head: ClassVar[tuple[str, str | None]] = ("ForSequenceClassification", "single_label_classification")
    pooling: str = option("mean", choice("mean", "first", "late"), POOLING)


@dataclasses.dataclass(frozen=True)
class TokenClassification(OneClass):
    """Mean −log P(class of a word's first piece | text), for example for named entities."""

    per_token: ClassVar[bool] = True
    published_head: ClassVar[tuple[str, str | None]] = ("ForTokenClassification", None)

    def predictions(self, model: Any, rows: Rows) -> jax.Array:
        """Return the likeliest class of each token, ``[rows, length]``."""
        return self.outputs(model, rows).argmax(axis=-1)
