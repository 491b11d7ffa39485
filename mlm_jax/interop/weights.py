"""Conversion of published weights and configurations to ours and back, tensor by tensor."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mlm_jax import model as model_room
from mlm_jax.common.errors import UserError, nearest
from mlm_jax.common.foreign_files import read_json
from mlm_jax.config import default_config
from mlm_jax.data.text.labelled import OUTPUTS as ANSWERS
from mlm_jax.interop import bert, eurobert, modernbert, t5, xlm_roberta, xmod
from mlm_jax.interop.family import (
    Bound,
    Contents,
    Facts,
    Family,
    ForeignConfig,
    TaskHead,
    bind,
    differences,
    matches,
    moved,
)
from mlm_jax.interop.task_heads import OUTPUT, QUESTION, head_of, label_names, task_of, with_head
from mlm_jax.interop.tensors import TensorReader, TensorWriter
from mlm_jax.training.paths import by_path

log = logging.getLogger(__name__)

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (xlm_roberta.FAMILY, bert.FAMILY, modernbert.FAMILY, eurobert.FAMILY, *t5.FAMILIES, xmod.FAMILY)
}
# The order in which a model of ours looks for a family that can express it.
EXPORTED_AS = ("modernbert", "xlm-roberta", "bert", "eurobert", "t5", "mt5", "umt5", "xmod")


def misspelt(kind: str) -> str:
    """Return ``"; did you mean …?"`` for a misspelt model type; "" for another family, such as "roberta"."""
    close = [
        name
        for name in FAMILIES
        if abs(len(name) - len(kind)) <= 1 and SequenceMatcher(None, name, kind).ratio() > 0.85
    ]
    return f"; did you mean {close[0]!r}?" if close else ""


def read_config(folder: str | Path) -> ForeignConfig:
    """Return a published config.json.

    Raises:
      UserError: it is missing, not JSON, or its model type is unknown here.
    """
    file = Path(folder) / "config.json"
    if not file.exists():
        raise UserError(
            "there is no config.json", file=folder, remedy="give a folder saved by Hugging Face transformers"
        )
    config = read_json(file, object_hook=ForeignConfig)
    kind = config.get("model_type") if isinstance(config, ForeignConfig) else None
    if kind is None:
        raise UserError("this is not the configuration of a model: it has no model_type", file=file)
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UserError(
            f"model_type {kind!r} is unknown here{misspelt(str(kind))}",
            file=file,
            remedy=f"one of {', '.join(FAMILIES)} can be read",
        )
    return config


class Published:
    """A folder of a published model: its family, its settings in our keys, and its weights, which are read on demand.

    Args:
      folder: a folder with config.json and safetensors.
      finite: whether a NaN or infinite weight is an error.

    Attributes:
      family: its family, with the table that fits.
      facts: rows of the embedding table, languages, special ids.
      settings: the settings of ``config.model``.
      task_head: the head of a task that the files hold in place of one that predicts tokens, or None.
      task: options of a task of ours with such a head; its name is that of its objective.
      labels: names of the head's classes.

    Raises:
      UserError: a file is missing or damaged, or a part of the configuration has no counterpart; the message names it.
    """

    def __init__(self, folder: str | Path, *, finite: bool = True):
        self.folder, self.finite = Path(folder), finite
        self.config = read_config(folder)
        self.family = FAMILIES[self.config["model_type"]]
        self.tensors = TensorReader(folder)
        self.names = {self._renamed(name): name for name in self.tensors}  # our table's spelling → the file's
        self.base = self.family.base if any(name.startswith(self.family.base) for name in self.names) else ""
        try:
            self.task_head = head_of(self.family, self.config.get("architectures"))
            self.task: dict[str, Any] = {}
            self.labels: tuple[str, ...] = ()
            if self.task_head:
                outputs = self._outputs(self.task_head)
                self.task = task_of(self.task_head, self.config, outputs)
                self.family = with_head(self.family, self.task_head, self.task["objective"])
                of_span = self.task_head.suffix == QUESTION
                self.labels = ANSWERS["questions"] if of_span else label_names(self.config, outputs)
            self.facts = self.family.facts(self.config)
            self._check_size("num_hidden_layers", self.config.get("num_hidden_layers", 1), most=len(self.names))
            self.contents = self._contents()
            self.settings = self.family.settings(self.config, self.contents)
            self._check_sizes()
        except UserError as error:
            raise UserError(
                error.problem, file=error.file or self.folder / "config.json", remedy=error.remedy
            ) from error

    def _renamed(self, name: str) -> str:
        for pattern, replacement in self.family.renamed:
            name = re.sub(pattern, replacement, name)
        return name

    def _outputs(self, head: TaskHead) -> int:
        """Return the number of outputs of a task's head."""
        output = next(entry.theirs for entry in head.table if entry.ours[0] == f"{OUTPUT}/kernel")
        if output not in self.names:
            raise UserError(f"tensor {output!r} is missing{nearest(output, self.names)}", file=self.folder)
        return self.tensors.shapes[self.names[output]][0]

    def _contents(self) -> Contents:
        family, names = self.family, self.names
        head = not self.task_head and any(matches([family.head], name) for name in names)
        embedding = family.embedding.replace("{base}", self.base)
        self._adopt_twin(embedding)
        if embedding not in names:
            # The output layer is not the table of embeddings.
            others = [name for name in names if name != family.output]
            raise UserError(f"tensor {embedding!r} is missing{nearest(embedding, others)}", file=self.folder)
        says_tied = self.config.get("tie_word_embeddings", family.tied)
        if family.output not in names:
            tied = says_tied or not head or family.tied_if_missing
        else:  # as in transformers, weights that differ are not tied, even if the configuration says so
            tied = says_tied and np.array_equal(self.read(family.output), self.read(embedding))
        return Contents(head, any(name.startswith("decoder.") for name in names), bool(tied))

    def _adopt_twin(self, name: str) -> None:
        """If a tensor is missing, but the file has the tensor that it is tied to, read that one."""
        if name in self.names or name == self.family.output:
            return
        pairs = [(copy, original.replace("{base}", self.base)) for copy, original in self.family.copies.items()]
        for twin in [copy for copy, original in pairs if original == name] + [
            original for copy, original in pairs if copy == name
        ]:
            if twin in self.names and twin != self.family.output:
                self.names[name] = self.names[twin]
                return

    def _check_sizes(self) -> None:
        """Check sizes in config.json against the headers of the files, before arrays of these sizes are made.

        Raises:
          UserError: a size in config.json is larger than the files.
        """
        embedding = self.family.embedding.replace("{base}", self.base)
        shape, expected = self.tensors.shapes[self.names[embedding]], (self.facts.rows, self.settings["width"])
        if shape != expected:
            raise UserError(
                f"tensor {embedding!r} is of shape {list(shape)}, but config.json asks for {list(expected)}",
                file=self.folder,
            )
        for stack in ("encoder", "decoder"):
            layers = sum(group["layers"] for group in self.settings[stack])
            self._check_size(f"the number of layers of the {stack}", layers, most=len(self.names))
        self._check_size("the number of languages", len(self.facts.languages), most=len(self.names))
        for key in ("mlp_width", "heads", "kv_heads", "head_width", "embedding_types"):
            self._check_size(key, self.settings.get(key, 0), most=self.tensors.elements)
        if self.settings["position"] == "learned":
            self._check_size("max_position_embeddings", self.settings["max_positions"], most=self.tensors.elements)

    def _check_size(self, name: str, value: int, *, most: int) -> None:
        if value > most:
            raise UserError(f"{name} is {value}, which is more than the tensors or numbers in the files ({most})")

    def read(self, name: str) -> np.ndarray:
        """Return the tensor of this name, in the spelling of our table.

        Raises:
          UserError: it holds a number that is not finite, which is not allowed.
        """
        tensor = self.tensors.read(self.names[name])
        if self.finite and not np.isfinite(tensor).all():
            raise UserError(
                f"tensor {name!r} holds NaN or infinite numbers",
                file=self.folder,
                remedy="download it again, or allow weights that are not finite",
            )
        return tensor

    def params(
        self, shapes: Mapping[str, Sequence[int]], model: Any, languages: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Return our parameters, float32, by path.

        Args:
          shapes: {path: shape} of our model.
          model: ``config.model``.
          languages: language codes in index order.

        Raises:
          UserError: a tensor is missing, unknown or has another shape; the message names it.
        """
        bound = bind(self.family, shapes, model, languages, self.base)
        for name, one in bound.items():
            if not (one.copy or one.unused):
                self._adopt_twin(name)
        self._check(bound)
        arrays = {path: np.empty(shape, np.float32) for path, shape in shapes.items()}
        for one in bound.values():
            if one.unused:
                for path, index, _ in one.parts:
                    arrays[path][index] = 1.0 if path.endswith("/scale") else 0.0
        for name in self.names:  # in the order of files, so that each is opened once
            if name in bound and not bound[name].copy:
                one = bound[name]
                for (path, index, _), piece in zip(one.parts, one.to_ours(self.read(name))):
                    arrays[path][index] = piece
        return arrays

    def _check(self, bound: Mapping[str, Bound]) -> None:
        for name, one in bound.items():
            if one.copy or one.unused and name not in self.names:
                continue
            if one.unused:
                raise UserError(f"tensor {name!r} has no place in a model of this configuration", file=self.folder)
            if name not in self.names:
                raise UserError(f"tensor {name!r} is missing{nearest(name, self.names)}", file=self.folder)
            shape = self.tensors.shapes[self.names[name]]
            if shape != one.shape:
                raise UserError(
                    f"tensor {name!r} is of shape {list(shape)}, but config.json asks for {list(one.shape)}",
                    file=self.folder,
                )
        left_out = set()
        for name in self.names:
            if name in bound:
                continue
            original = self.family.copies.get(name, "").replace("{base}", self.base)
            why = next((why for pattern, why in self.family.ignored.items() if matches([pattern], name)), "")
            if original in bound:
                if not np.array_equal(self.read(name), self.read(original)):
                    raise UserError(
                        f"tensors {name!r} and {original!r} should be the same, but differ", file=self.folder
                    )
            elif why:
                left_out.add(why)
            else:
                raise UserError(
                    f"tensor {name!r} has no place in a model of this configuration{nearest(name, bound)}",
                    file=self.folder,
                )
        for why in sorted(left_out):
            log.warning("left out: %s", why)


def flat_shapes(
    config: ConfigDict, rows: int, languages: Sequence[str], labels: Mapping[str, int] | None = None
) -> dict[str, tuple[int, ...]]:
    """Return {path: shape} of the parameters of a model; ``labels`` are {task: number of classes} of its heads."""
    _, shapes, _ = model_room.abstract(config, vocabulary_size=rows, languages=tuple(languages), labels=labels or {})
    return {path: tuple(leaf.shape) for path, leaf in by_path(shapes).items()}


def choose_family(model: Any, facts: Facts, wanted: str = "") -> Family:
    """Return the family in which a model of ours can be exported.

    Args:
      model: ``config.model``.
      facts: the size of its vocabulary, its languages and its special ids.
      wanted: a model type; "": the first that fits.

    Raises:
      UserError: no family fits (or not the requested one); the message names the keys that prevent it for the nearest family.
    """
    if wanted and wanted not in FAMILIES:
        raise UserError(
            f"model_type {wanted!r} is unknown here{misspelt(wanted)}", remedy=f"one of {', '.join(FAMILIES)}"
        )
    found = {
        name: differences(FAMILIES[name], model, facts, lambda: default_config().model)
        for name in ([wanted] if wanted else EXPORTED_AS)
    }
    # Among the families that fit, prefer one whose table of positions need not be moved.
    best = min(found, key=lambda name: (len(found[name]), moved(FAMILIES[name], model, facts) is not model))
    if found[best]:
        fields = "; ".join(f"model.{key} is {ours!r}, not {theirs!r}" for key, ours, theirs in found[best])
        raise UserError(
            f"this model cannot be expressed as {best!r}" + ("" if wanted else ", the nearest family") + f": {fields}"
        )
    return FAMILIES[best]


def write_weights(
    writer: TensorWriter,
    family: Family,
    params: Mapping[str, np.ndarray],
    model: Any,
    languages: Sequence[str],
    base: str = "",
) -> None:
    """Write our parameters under the family's names.

    Args:
      writer: gets the tensors one by one.
      family: the family with the table.
      params: {path: array} of all written parameters.
      model: ``config.model``.
      languages: language codes in index order.
      base: prefix of the base model's tensors; "" is the family's own if there is a head that predicts tokens, else none.
    """
    shapes = {path: tuple(value.shape) for path, value in params.items()}
    if not base:
        base = family.base if Contents.of_model(model).head or family.only_output else ""
    for name, one in bind(family, shapes, model, languages, base).items():
        if not one.unused:
            writer.add(name, one.to_theirs(params))
