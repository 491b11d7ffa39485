"""A published family: its configuration in our keys, and a table from its tensors to our parameters.

A table is a tuple of :class:`Entry`. Our paths are written as if every layer stood alone
(``encoder/{layer}/attention/query/kernel``); :func:`bind` finds the layer's slice of the stacked array. An entry is used if
our model has its parameters. So one table serves models with and without biases, heads or decoders.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mlm_jax.common.errors import UserError

# Keys of config.model that do not change the function that a model computes.
FREE = (
    "dropout",
    "pooling",
    "initializer_stddev",
    "vocabulary_multiple",
    "dtype",
    "attention",
    "remat",
    "scan_layers",
    "cross_entropy_chunk",
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of a published model and our parameters that it holds.

    Attributes:
      theirs: the tensor's name; ``{base}`` is the base model's prefix, ``{layer}`` and ``{language}`` stand for each of them.
      ours: paths of parameters, concatenated along their tensor's first axis. A ``kernel`` of ours is ``[in…, out…]``,
        theirs ``[out, in]``; anything else only changes shape.
      inputs: number of leading axes of our kernel that are inputs (2 if heads are merged).
      only: a path of ours that must exist for the entry to be used, besides ``ours``.
      unless: a path of ours that must not exist for the entry to be used.
      copy: whether the tensor repeats another entry's; it is written, and ignored when read.
      after_first: whether their first layer has no such tensor; our first layer then does not use its slice of the stack.
    """

    theirs: str
    ours: tuple[str, ...]
    inputs: int = 1
    only: str = ""
    unless: str = ""
    copy: bool = False
    after_first: bool = False


@dataclasses.dataclass(frozen=True)
class Contents:
    """The parts of the model in a file of weights; config.json does not always name them.

    Attributes:
      head: whether there is a head that predicts tokens; a bare base model has none.
      decoder: whether there is a decoder.
      tied: whether the output layer is the table of token embeddings.
    """

    head: bool = True
    decoder: bool = False
    tied: bool = True

    @classmethod
    def of_model(cls, model: Any) -> Contents:
        """Return the contents of a file with a model of ours."""
        headless = (
            model.tied_embeddings and not model.head_transform and "head" not in model.biases and not model.decoder
        )
        return cls(not headless, bool(model.decoder), model.tied_embeddings)


@dataclasses.dataclass(frozen=True)
class Facts:
    """Facts in a published configuration besides ``config.model``.

    Attributes:
      rows: rows of the embedding table.
      languages: language codes in the order of indexed weights; () if there are none.
      ids: {"pad" | "bos" | "eos" | "unk" | "mask": token id}, for the ids that are known.
    """

    rows: int
    languages: tuple[str, ...] = ()
    ids: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class TaskHead:
    """The head of a task in a published file.

    Attributes:
      suffix: the suffix of the class's name, such as ForTokenClassification.
      table: their tensors and our parameters; ``{task}`` in a path of ours is the task.
      transform: the task's option ``transform``, the layers between the hidden states and the output layer.
      poolings: {the task's option ``pooling``: keys of config.json with this meaning}.
      defaults: {key of config.json: its value if the file does not have it}.
    """

    suffix: str
    table: tuple[Entry, ...]
    transform: str = "none"
    poolings: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    defaults: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Family:
    """A model type of Hugging Face transformers.

    Attributes:
      model_type: its name in config.json.
      base: prefix of the base model's tensors under a head (``roberta.``); a bare base model has none.
      table: their tensors and our parameters.
      settings: (config.json, contents) → settings of ``config.model``; raises UserError if we have no counterpart.
      describe: (``config.model``, facts) → config.json without ``architectures``. It must not fail for a model that does not
        fit: the caller finds that the settings of the config.json differ.
      architecture: contents → class name.
      embedding: name of the table of token embeddings.
      output: name of the output layer's table, if it is not tied.
      head: pattern of the names of a head's tensors.
      tied: whether the output layer is tied if config.json does not say so.
      tied_if_missing: whether the output layer is tied if the file has none, even if config.json says otherwise.
      only_output: whether the head is only the output layer, so that a tied model has no tensor of the head.
      ignored: {pattern of names that have no counterpart: why that is harmless}.
      copies: {name: the name that it repeats}, as old files do for tied weights.
      renamed: ((pattern, replacement), …) applied to names first: older spellings.
      facts: config.json → facts.
      name: the beginning of its classes' names.
      heads: heads of tasks that its files may have.
      first_position: facts → the first row in use of a learned table of positions.
    """

    model_type: str
    base: str
    table: tuple[Entry, ...]
    settings: Callable[[Mapping[str, Any], Contents], dict[str, Any]]
    describe: Callable[[Any, Facts], dict[str, Any]]
    architecture: Callable[[Contents], str]
    facts: Callable[[Mapping[str, Any]], Facts]
    embedding: str
    output: str
    head: str
    tied: bool = True
    tied_if_missing: bool = False
    only_output: bool = False
    ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    renamed: tuple[tuple[str, str], ...] = ()
    name: str = ""
    heads: tuple[TaskHead, ...] = ()
    first_position: Callable[[Facts], int] = lambda facts: 0


@dataclasses.dataclass(frozen=True)
class Bound:
    """One tensor of theirs, bound to slices of our arrays.

    Attributes:
      name: the tensor's name.
      shape: the tensor's shape.
      parts: (path, index, shape) of each of our slices.
      inputs: number of leading axes of our kernel that are inputs.
      copy: whether another tensor has the same values.
      unused: whether the file has no such tensor, and we do not use the slice.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    inputs: int
    copy: bool = False
    unused: bool = False

    def to_ours(self, tensor: np.ndarray) -> list[np.ndarray]:
        """Cut their tensor into our slices."""
        if len(self.parts) == 1:
            return [_to_ours(self.parts[0], self.inputs, tensor)]
        sizes = [_their_shape(path, shape, self.inputs)[0] for path, _, shape in self.parts]
        pieces = np.split(tensor, np.cumsum(sizes)[:-1])
        return [_to_ours(part, self.inputs, piece) for part, piece in zip(self.parts, pieces)]

    def to_theirs(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Join our slices into their tensor."""
        pieces = []
        for path, index, shape in self.parts:
            value = np.asarray(arrays[path][index])
            pieces.append(
                value.reshape(math.prod(shape[: self.inputs]), -1).T
                if _is_kernel(path)
                else value.reshape(_their_shape(path, shape, self.inputs))
            )
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def bind(
    family: Family, shapes: Mapping[str, Sequence[int]], model: Any, languages: Sequence[str], base: str
) -> dict[str, Bound]:
    """Bind a family's table to a model.

    Args:
      family: the family with the table.
      shapes: {path: shape} of our parameters.
      model: ``config.model``.
      languages: language codes in index order.
      base: prefix of the base model's tensors.

    Returns:
      {their name: its binding}.

    Raises:
      UserError: a parameter of ours is not in the table.
    """
    bound: dict[str, Bound] = {}
    for entry in family.table:
        stack = next((name for name in ("encoder", "decoder") if entry.ours[0].startswith(f"{name}/{{layer}}")), "")
        layers = _layers(model, stack) if stack else [("", 0)]
        for layer, (group, offset) in enumerate(layers):
            for number, language in enumerate(languages) if "{language}" in entry.theirs else [(-1, "")]:
                index = ((offset,) if stack else ()) + ((number,) if number >= 0 else ())
                paths = [path.replace("{layer}", group) for path in entry.ours]
                needed = [*paths, entry.only.replace("{layer}", group)] if entry.only else paths
                if entry.unless.replace("{layer}", group) in shapes or not all(path in shapes for path in needed):
                    continue
                name = (
                    entry.theirs.replace("{base}", base).replace("{layer}", str(layer)).replace("{language}", language)
                )
                parts = tuple((path, index, tuple(shapes[path][len(index) :])) for path in paths)
                theirs = [_their_shape(path, shape, entry.inputs) for path, _, shape in parts]
                shape = (sum(shape[0] for shape in theirs), *theirs[0][1:])
                bound[name] = Bound(name, shape, parts, entry.inputs, entry.copy, entry.after_first and layer == 0)
    covered: dict[str, int] = dict.fromkeys(shapes, 0)
    for one in (one for one in bound.values() if not one.copy):
        for path, _, shape in one.parts:
            covered[path] += math.prod(shape)
    for path, size in covered.items():
        if size != math.prod(shapes[path]):
            raise UserError(f"parameter {path!r} has no counterpart in a model of type {family.model_type!r}")
    return bound


def _layers(model: Any, stack: str) -> list[tuple[str, int]]:
    """Return (path of the group's layers, offset in it) for each layer of a stack."""
    groups = enumerate(getattr(model, stack))
    return [(f"{number}/layers", offset) for number, group in groups for offset in range(group["layers"])]


def _is_kernel(path: str) -> bool:
    return path.endswith("/kernel")


def _their_shape(path: str, shape: Sequence[int], inputs: int) -> tuple[int, ...]:
    if _is_kernel(path):
        return math.prod(shape[inputs:]), math.prod(shape[:inputs])
    return (math.prod(shape),) if path.endswith("/bias") else tuple(shape)


def _to_ours(part: tuple[str, tuple[int, ...], tuple[int, ...]], inputs: int, tensor: np.ndarray) -> np.ndarray:
    path, _, shape = part
    return (tensor.T if _is_kernel(path) else tensor).reshape(shape)


def canonical(model: Any) -> dict[str, Any]:
    """Return the settings that determine the function of a model: with defaults, and without keys that have no effect."""
    settings = {key: value for key, value in dict(model).items() if key not in FREE}
    rope, learned, relative = (model.position == kind for kind in ("rope", "learned", "relative"))
    layers = sum(group["layers"] for group in model.encoder)
    every = min(model.global_every, layers)  # beyond the last layer it has no effect
    if learned:  # the first row in use has no effect; moved() puts it where a family has it
        settings["max_positions"] = model.max_positions - model.position_offset
    settings |= {
        "encoder": _canonical_groups(model.encoder),
        "decoder": _canonical_groups(model.decoder),
        "kv_heads": model.kv_heads or model.heads,
        "head_width": model.head_width or model.width // model.heads,
        "biases": tuple(sorted(model.biases)),
        "norms": _canonical_norms(model),
        "max_positions": None if relative else settings["max_positions"],
        "position_offset": None,
        "type_boundary": None,  # the tokenizer of a folder writes the types
        "relative": dict(model.relative) if relative else None,
        "rope_theta": model.rope_theta if rope else None,
        "local_rope_theta": model.local_rope_theta if rope and every > 1 else None,
        "window": model.window if every > 1 else None,
        "global_every": max(every, 1),
        "cross_lingual": dict(model.cross_lingual),
    }
    return {key: value for key, value in settings.items() if value is not None}


def _canonical_norms(model: Any) -> tuple[str, ...]:
    norms = set(model.norms)
    if "embedding" not in norms:  # an embedding norm would replace layer 0's own norm
        norms.add("first_attention")
    if model.norm_position == "post":  # a layer's norm comes after it, in the first layer too
        norms.discard("first_attention")
    if not model.decoder:
        norms.discard("output_scale")
    return tuple(sorted(norms))


def _canonical_groups(groups: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Join neighbouring groups that are equal."""
    joined: list[dict[str, Any]] = []
    for group in groups:
        full: dict[str, Any] = {"weights": "shared", "adapter": 0, **group}
        if full["adapter"]:
            weights = full["weights"]
            own = "source_language" if weights == "shared" else weights
            full = {"adapter_weights": own, "adapter_norm": "own", **full}
        else:
            full = {key: value for key, value in full.items() if not key.startswith("adapter")}
        if joined and {**joined[-1], "layers": 0} == {**full, "layers": 0} and full["weights"] == "shared":
            joined[-1]["layers"] += full["layers"]
        else:
            joined.append(full)
    return tuple(joined)


def moved(family: Family, model: Any, facts: Facts) -> Any:
    """Return ``config.model`` with the family's first learned position, and the same number of positions in use."""
    shift = family.first_position(facts) - model.position_offset
    if model.position != "learned" or not shift:
        return model
    changed = copy.deepcopy(model)
    changed.update(position_offset=model.position_offset + shift, max_positions=model.max_positions + shift)
    return changed


def move_positions(table: np.ndarray, shift: int) -> np.ndarray:
    """Return ``[positions + shift, width]`` of a learned table: unused rows are added or removed at its beginning."""
    return table[-shift:] if shift < 0 else np.concatenate([np.zeros((shift, table.shape[1]), table.dtype), table])


def differences(family: Family, model: Any, facts: Facts, default: Callable[[], Any]) -> list[tuple[str, Any, Any]]:
    """Return (key, our value, the family's value) for every key of ``config.model`` that the family cannot express."""
    described = family.describe(moved(family, model, facts), facts)
    published = default()
    published.update(family.settings(described, Contents.of_model(model)))
    ours, theirs = canonical(model), canonical(published)
    return [
        (key, ours.get(key), theirs.get(key))
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    ]


class ForeignConfig(dict):
    """A published JSON file; a value has the type of the default that is given to :meth:`get`, or is an error."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value, or the default if the file does not have the key.

        Raises:
          UserError: the value has another type than the default, or is ``null``; the message names the key.
        """
        value = super().get(key, default)
        if default is not None:
            kind, belongs = KINDS[type(default)]
            if not belongs(value):
                raise UserError(f"{key} is {json.dumps(value)}; it must be {kind}")
        return value


KINDS: dict[type, tuple[str, Callable[[Any], bool]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    # All integers in these files are counts or sizes, below 2³¹.
    int: ("a whole number from 1 to 2³¹", lambda value: type(value) is int and 0 < value <= 2**31),
    float: ("a number from 0", lambda value: type(value) in (int, float) and 0 <= value < math.inf),
    str: ("a text", lambda value: isinstance(value, str)),
    tuple: (
        "a list of texts",
        lambda value: isinstance(value, list | tuple) and all(isinstance(v, str) for v in value),
    ),
    dict: ("an object", lambda value: isinstance(value, dict)),
}


def optional(config: Mapping[str, Any], key: str, default: Any) -> Any:
    """Return a value, or the default if the file does not have the key or has ``null``."""
    return default if config.get(key) is None else config.get(key, default)


def require(config: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Check that keys of a configuration, if they exist, have the only values with a counterpart here.

    Raises:
      UserError: a key has another value; the message names both.
    """
    for key, value in values.items():
        if config.get(key, value) != value:
            raise UserError(f"{key} is {config[key]!r}, which has no counterpart here (only {value!r} has)")


def lookup(table: Mapping[str, str], key: str, config: Mapping[str, Any], default: str) -> str:
    """Return our name of a published value such as an activation.

    Raises:
      UserError: the value has no counterpart; the message names key and value.
    """
    value = config.get(key, default)
    if value not in table:
        raise UserError(f"{key} is {value!r}, which has no counterpart here (only {', '.join(sorted(table))} have)")
    return table[value]


def reverse(table: Mapping[str, str], value: str) -> str:
    """Return the published name of one of our values: the first that fits, or the first of all if none fits."""
    return next((theirs for theirs, ours in table.items() if ours == value), next(iter(table)))


def unscaled(rope: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return an object of RoPE settings, if it does not scale the frequencies.

    Args:
      rope: the settings; the type is called ``rope_type``, or ``type`` in older files.
      key: the key of the settings in config.json.

    Raises:
      UserError: the frequencies are scaled, for which we have no counterpart.
    """
    for name in ("rope_type", "type"):
        if optional(rope, name, "default") != "default":
            raise UserError(f"{key}.{name} is {rope[name]!r}, which has no counterpart here")
    return rope


def token_ids(config: Mapping[str, Any], **defaults: int | None) -> dict[str, int]:
    """Return the special ids that a config.json names, or else the family's defaults.

    Raises:
      UserError: one of them is not a number.
    """
    found = {}
    for name in ("pad", "bos", "eos", "unk", "mask"):
        key = f"{name}_token_id"
        value = config[key] if key in config else defaults.get(name)
        if isinstance(value, list):  # several tokens may end a text; ours is the first
            value = value[0] if value else None
        if value is not None:
            if type(value) is not int or value < 0:
                raise UserError(f"{key} is {json.dumps(value)}; it must be the number of a token")
            found[name] = value
    return found


def matches(patterns: Iterable[str], name: str) -> bool:
    """Return whether one of the patterns occurs in the name."""
    return any(re.search(pattern, name) for pattern in patterns)
