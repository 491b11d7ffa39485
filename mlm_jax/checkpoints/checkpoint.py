"""Find a checkpoint and load its model for inference; damaged checkpoints are skipped."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from ml_collections import ConfigDict

from mlm_jax import model as model_room
from mlm_jax.checkpoints.contents import Damaged, array_shapes, brief, damage, load_facts, read_arrays, unpack
from mlm_jax.checkpoints.metrics import read_metrics, score
from mlm_jax.checkpoints.workdir import config_from_json
from mlm_jax.common.bucket import local_path, original
from mlm_jax.common.errors import UserError
from mlm_jax.common.quiet import quiet_orbax
from mlm_jax.config.check import check_values
from mlm_jax.data.loading import curriculum
from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.training.paths import by_path

log = logging.getLogger(__name__)
Found = TypeVar("Found")

MOST_SHRUNK = 100  # the largest compression factor of the weights in a checkpoint's files
SMALL = 1 << 28  # bytes of weights whose files may be of any size


class Described(NamedTuple):
    """A checkpoint's facts: :class:`Loaded` without the parameters."""

    step: int
    config: ConfigDict
    vocabulary: Vocabulary
    languages: tuple[str, ...]
    labels: dict[str, tuple[str, ...]]


class Loaded(NamedTuple):
    """A checkpoint's model, for inference.

    Attributes:
      step: the step of the run.
      config: the config of the run.
      vocabulary: the vocabulary of its tokens.
      languages: language codes in index order.
      labels: {task: names of its classes}.
      params: nested dict of arrays.
    """

    step: int
    config: ConfigDict
    vocabulary: Vocabulary
    languages: tuple[str, ...]
    labels: dict[str, tuple[str, ...]]
    params: Any


def find_checkpoint(checkpoint: str | Path) -> Path:
    """Return the folder of a checkpoint: ``checkpoint`` itself; or, for a workdir, the best checkpoint if its run selects one, else
    the last.

    Raises:
      UserError: there is no checkpoint.
    """
    return _candidates(checkpoint)[0]


@quiet_orbax()
def load_parameters(checkpoint: str | Path, *, device: jax.Device | None = None) -> Loaded:
    """Load a model for inference: its parameters (the average if the run kept one), config, vocabulary and languages.

    Args:
      checkpoint: a workdir (damaged checkpoints are skipped), or one of its checkpoints.
      device: the device of the parameters; by default this process's first one.

    Raises:
      UserError: there is no checkpoint, or it is damaged.
    """
    return _first_whole(checkpoint, lambda folder: _load(folder, device or jax.local_devices()[0]))


def describe(checkpoint: str | Path) -> Described:
    """Return a checkpoint's facts, without its parameters.

    Args:
      checkpoint: as in :func:`load_parameters`.

    Raises:
      UserError: there is no checkpoint, or it is damaged.
    """
    return _first_whole(checkpoint, lambda folder: _describe(folder, load_facts(folder)))


def _first_whole(checkpoint: str | Path, read: Callable[[Path], Found]) -> Found:
    """Return the result of ``read`` for the likeliest checkpoint that is complete.

    A run that is under way removes old checkpoints. If it has removed one meanwhile, the search begins again.
    """
    candidates = _candidates(checkpoint)
    for folder in candidates:
        try:
            return read(folder)
        except Damaged as error:
            if not folder.is_dir():
                return _first_whole(checkpoint, read)
            if folder == candidates[-1]:
                raise UserError(
                    f"the checkpoint is damaged: {error}", file=folder, remedy="use another checkpoint of the run"
                ) from error
            log.warning("checkpoint %s is damaged and is skipped (%s)", folder.name, error)
    raise AssertionError("unreachable: the last candidate returns or raises")


def check_arrays(loaded: Loaded, wanted: Any = None) -> None:
    """Check that a checkpoint's arrays are those of the model that its config describes.

    Args:
      loaded: the checkpoint.
      wanted: the parameters of that model, or their shapes; None: they are computed here.

    Raises:
      UserError: an array is missing, or its config describes it with another shape.
    """
    if wanted is None:
        wanted = model_room.abstract(
            loaded.config,
            vocabulary_size=loaded.vocabulary.size,
            languages=loaded.languages,
            labels={task: len(names) for task, names in loaded.labels.items()},
        )[1]
    described, there = by_path(wanted), by_path(loaded.params)
    for name in sorted({*described, *there}):
        shapes = [tuple(some[name].shape) if name in some else "missing" for some in (described, there)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"the checkpoint of step {loaded.step} is damaged: array {name!r} is {shapes[0]} by its config, "
                f"but {shapes[1]} in its files",
                remedy="use another checkpoint of the run",
            )


def host() -> jax.Device:
    """Return the host as a device, because the weights of several accelerators may not fit on the first one."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
        return jax.local_devices()[0]


def _candidates(checkpoint: str | Path) -> list[Path]:
    """Return the checkpoints that ``checkpoint`` may mean, the likeliest first."""
    here = Path(os.path.realpath(local_path(checkpoint)))
    for folder in (here, here / "checkpoints"):
        if (folder / "state").is_dir():
            return [folder]
        steps = [child for child in folder.glob("*") if child.name.isdigit() and (child / "state").is_dir()]
        if steps:
            steps.sort(key=lambda child: int(child.name), reverse=True)
            select = _select(steps)
            return sorted(steps, key=lambda child: score(select, read_metrics(child)), reverse=True)  # stable
    raise UserError(
        "there is no checkpoint here", file=original(here), remedy="name a workdir or one of its checkpoints"
    )


def _select(folders: Sequence[Path]) -> str:
    """Return the metric by which a run selects its best checkpoint, from the first of these that can be read."""
    for folder in folders:
        try:
            return config_from_json(load_facts(folder)["config"]).evaluation.select
        except (Damaged, UserError):
            continue
    return ""


def _describe(folder: Path, facts: Mapping[str, Any]) -> Described:
    try:
        config = config_from_json(facts["config"], folder.parent.parent)  # WORKDIR/checkpoints/STEP
        check_values(config)
        vocabulary = unpack(facts["vocabulary"], folder)
    except UserError as error:
        raise Damaged(error.problem) from error
    labels = {task: tuple(names) for task, names in facts["labels"].items()}
    step = int(folder.name) if folder.name.isdigit() else 0
    # The bases of the rotary positions with which these weights were trained.
    config.model.rope_theta, config.model.local_rope_theta = curriculum.rope_bases(config, step)
    return Described(step, config, vocabulary, tuple(facts["languages"]), labels)


def _load(folder: Path, device: jax.Device) -> Loaded:
    facts = load_facts(folder)
    described = _describe(folder, facts)
    field = "average" if described.config.training.ema else "params"
    try:
        shapes = array_shapes(folder)
        if field not in shapes:  # an imported model, whose checkpoint has only parameters
            field = "params"
        shapes = shapes[field]
        _check_sizes(folder, described.config, shapes)
    except Damaged:
        raise
    except Exception as error:  # Orbax raises many kinds for damaged files
        raise Damaged(brief(error)) from error
    there = jax.sharding.SingleDeviceSharding(device)
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=there), shapes)
    arrays = read_arrays(folder, {field: wanted})
    if problem := damage(arrays, facts["checksums"]):
        raise Damaged(problem)
    return Loaded(*described, arrays[field])


def _check_sizes(folder: Path, config: ConfigDict, described: Any) -> None:
    """Check that the size in a checkpoint's metadata is possible, before memory is allocated for it.

    Raises:
      Damaged: its arrays would be far larger than its files, or its config has more layers than any array has rows.
    """
    arrays = jax.tree.leaves(described)
    claimed = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in arrays)
    there = sum(file.stat().st_size for file in (folder / "state").rglob("*") if file.is_file())
    if claimed > max(MOST_SHRUNK * there, SMALL):
        raise Damaged(f"its metadata describes arrays of {claimed:,} bytes, but its files have {there:,}")
    longest = max((size for leaf in arrays for size in leaf.shape), default=0)
    for group in (*config.model.encoder, *config.model.decoder):
        layers = group.get("layers", 0) if isinstance(group, Mapping) else 0
        if not isinstance(layers, int) or layers > max(longest, len(arrays)):
            raise Damaged(f"its config has {layers!r} layers, which its arrays cannot contain")
