"""Checkpoints: asynchronous, sharded, self-contained, restored onto any mesh; one cut short is passed over."""

from __future__ import annotations

import base64
import errno
import json
import logging
import re
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from mlm_jax.config import default_config
from mlm_jax.data.vocabulary import Vocabulary
from mlm_jax.errors import UserError
from mlm_jax.grow import Facts, transplant
from mlm_jax.training.regex_table import parameter_names, path_name
from mlm_jax.training.state import TrainState

log = logging.getLogger(__name__)
logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax logs a page for every checkpoint

CONFIG = "config.json"
# What may change between a run and its continuation: it moves no number of the steps that are done, or (steps) the user
# plainly wants it to.
MAY_CHANGE = ("steps", "checkpoint.", "evaluation.", "mesh.", "training.log_every", "training.profile", "training.wandb",
              "training.microbatches", "training.nonfinite", "data.store", "data.workers", "model.attention",
              "model.remat", "model.cross_entropy_chunk")  # fmt: skip


class Loaded(NamedTuple):
    """What a checkpoint holds for those who use the model.

    Attributes:
      step: of the run.
      config: the run's.
      vocabulary: that its tokens are of.
      languages: codes in index order.
      labels: {task: names of its classes}.
      params: nested dict of arrays.
    """

    step: int
    config: ConfigDict
    vocabulary: Vocabulary
    languages: tuple[str, ...]
    labels: dict[str, tuple[str, ...]]
    params: Any


def config_json(config: ConfigDict) -> dict[str, Any]:
    """Return a config as plain JSON values (tuples as lists)."""
    return json.loads(json.dumps(config.to_dict(), default=list))


def config_from_json(values: Mapping[str, Any]) -> ConfigDict:
    """Return a config from :func:`config_json`; keys that this version does not know are left out."""
    config = default_config()
    _fill(config, values)
    return config


def _fill(config: ConfigDict, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if key not in config:
            log.warning("the checkpoint's config key %r is not known to this version", key)
        elif isinstance(config[key], ConfigDict):
            _fill(config[key], value)
        else:
            config[key] = _tuples(value)


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return {key: _tuples(item) for key, item in value.items()} if isinstance(value, dict) else value


def check_workdir(workdir: str | Path, config: ConfigDict) -> None:
    """Check that a workdir is new or belongs to this config.

    Raises:
      UserError: it belongs to another one; the message lists the keys that differ.
    """
    file = Path(workdir) / CONFIG
    mine = config_json(config)
    if file.exists():
        try:
            theirs = json.loads(file.read_text())
        except ValueError as error:
            raise UserError("this is not JSON", file=file, remedy="delete it if the workdir is yours") from error
        different = [key for key in differing_keys(theirs, mine) if not key.startswith(MAY_CHANGE)]
        if different:
            raise UserError(f"this workdir belongs to another config; these keys differ: {', '.join(different)}", file=file,
                            remedy="use a new workdir, with checkpoint.init to start from these weights")  # fmt: skip


def claim_workdir(workdir: str | Path, config: ConfigDict) -> None:
    """Write the config into a workdir, for :func:`check_workdir` and for people."""
    file = Path(workdir) / CONFIG
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(config_json(config), indent=1, ensure_ascii=False))


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted keys at which two nested dictionaries differ."""
    different = []
    for key in sorted({*one, *other}):
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            different += differing_keys(a, b, f"{prefix}{key}.")
        elif a != b:
            different.append(prefix + key)
    return different


class Checkpoints:
    """The checkpoints of a run, in WORKDIR/checkpoints/STEP.

    Args:
      workdir: of the run.
      config: of the run.
      vocabulary: kept in every checkpoint, as are the config and the languages.
      languages: codes in index order.
      labels: {task: names of its classes}.
    """

    def __init__(self, workdir: str | Path, config: ConfigDict, vocabulary: Vocabulary, languages: tuple[str, ...],
                 labels: Mapping[str, tuple[str, ...]]):  # fmt: skip
        self.config = config
        self.facts = {"config": config_json(config), "languages": list(languages), "vocabulary": _pack(vocabulary),
                      "labels": {task: list(names) for task, names in labels.items()}}  # fmt: skip
        options = ocp.CheckpointManagerOptions(
            max_to_keep=config.checkpoint.keep_last, keep_period=config.checkpoint.keep_every or None,
            enable_async_checkpointing=True, create=True,
        )  # fmt: skip
        self.folder = Path(workdir).resolve() / "checkpoints"
        self.manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, step: int, state: TrainState | Mapping[str, Any]) -> None:
        """Begin to write a checkpoint; training goes on meanwhile.

        Args:
          step: steps done.
          state: all of it, or {"params": …} for weights that only start other runs.

        Raises:
          UserError: the disk is full (found now or by a later call); earlier checkpoints are untouched.
        """
        if step in self.manager.all_steps():
            return
        arguments = ocp.args.Composite(state=ocp.args.PyTreeSave(state), facts=ocp.args.JsonSave(self.facts))
        self._guarded(lambda: self.manager.save(step, args=arguments, force=True))

    def wait(self) -> None:
        """Wait until everything is on disk.

        Raises:
          UserError: the disk is full.
        """
        self._guarded(self.manager.wait_until_finished)

    def restore(self, abstract: TrainState) -> TrainState | None:
        """Return the state of the last whole checkpoint, laid out as ``abstract`` says; None if there is none.

        A checkpoint that cannot be read is passed over, said aloud and set aside as STEP.damaged.

        Args:
          abstract: shapes with shardings; the mesh need not be the one that wrote the checkpoint.

        Raises:
          UserError: there are checkpoints, but none can be read.
        """
        steps = sorted(self.manager.all_steps(), reverse=True)
        for step in steps:
            try:
                state = _read(self.folder / str(step), abstract)
            except Exception as error:  # Orbax raises many kinds for damaged files
                log.warning("checkpoint %s is damaged (%s): passing it over", step, " ".join(str(error).split())[:200])
                if jax.process_index() == 0:
                    (self.folder / str(step)).rename(self.folder / f"{step}.damaged")
                self.manager.reload()
                continue
            return state
        if steps:
            raise UserError("no checkpoint can be read", file=self.folder, remedy="see the warnings above; use another workdir")
        return None

    def _guarded(self, action: Any) -> None:
        try:
            action()
        except Exception as error:
            text = str(error)
            if "No space left" in text or getattr(error, "errno", None) == errno.ENOSPC:
                raise UserError("the disk is full; earlier checkpoints are whole", file=self.folder,
                                remedy="free some space and run the same command again") from error  # fmt: skip
            raise


def _read(folder: Path, abstract: Any) -> Any:
    """Read the arrays of ``abstract`` (a whole state, or {"params": …}) from one checkpoint."""
    with ocp.PyTreeCheckpointer() as reader:
        return reader.restore(folder / "state", args=ocp.args.PyTreeRestore(
            item=abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract), partial_restore=True,
        ))  # fmt: skip


def find_checkpoint(place: str | Path) -> Path:
    """Return the folder of a checkpoint: ``place`` itself, or the last whole one of a workdir.

    Raises:
      UserError: there is none.
    """
    place = Path(place).resolve()
    for folder in (place, place / "checkpoints"):
        if (folder / "state").is_dir():
            return folder
        steps = [child for child in folder.glob("*") if child.name.isdigit() and (child / "state").is_dir()]
        if steps:
            return max(steps, key=lambda child: int(child.name))
    raise UserError("there is no checkpoint here", file=place, remedy="name a workdir or one of its checkpoints")


def load_facts(folder: Path) -> dict[str, Any]:
    """Return what a checkpoint says of itself: config, languages, labels, vocabulary.

    Raises:
      UserError: the file is missing or damaged.
    """
    try:
        return json.loads((folder / "facts" / "metadata").read_text())
    except (OSError, ValueError) as error:
        raise UserError("the checkpoint is damaged: its facts cannot be read", file=folder) from error


def load_parameters(place: str | Path) -> Loaded:
    """Load a model for use: its parameters (the average where the run kept one), config, vocabulary and languages.

    Args:
      place: a workdir, or one of its checkpoints.

    Raises:
      UserError: there is no checkpoint, or it is damaged.
    """
    folder = find_checkpoint(place)
    facts = load_facts(folder)
    config = config_from_json(facts["config"])
    field = "average" if config.training.ema else "params"
    try:
        params = _restore_field(folder, field)
    except Exception as error:  # Orbax raises many kinds for damaged files
        raise UserError(f"the checkpoint is damaged: {' '.join(str(error).split())[:200]}", file=folder,
                        remedy="use an earlier checkpoint of the run") from error  # fmt: skip
    labels = {task: tuple(names) for task, names in facts["labels"].items()}
    step = int(folder.name) if folder.name.isdigit() else 0
    return Loaded(step, config, _unpack(facts["vocabulary"]), tuple(facts["languages"]), labels, params)


def _restore_field(folder: Path, field: str) -> Any:
    """Read one field of the state onto this process's first device, whatever mesh wrote it."""
    with ocp.PyTreeCheckpointer() as reader:
        metadata = reader.metadata(folder / "state").item_metadata.tree[field]
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), metadata)
    return _read(folder, {field: shapes})[field]


def initialise_from(params: Any, settings: Mapping[str, Any], facts: Facts) -> Any:
    """Return ``params`` with what ``config.checkpoint.init`` takes from another run's weights.

    The other run may have another vocabulary, other languages and another sharing plan (:mod:`mlm_jax.grow`).

    Args:
      params: freshly initialised, on the mesh.
      settings: {"from", "include", "exclude", "rename", "like"}.
      facts: of this run.

    Raises:
      UserError: nothing is taken, or a shape does not fit; the message names the parameter.
    """
    known = ("from", "include", "exclude", "rename", "like")
    for key in settings:
        if key not in known:
            raise UserError(f"checkpoint.init has no key {key!r}", remedy=f"its keys are {', '.join(known)}")
    include, exclude = settings.get("include", (".*",)), settings.get("exclude", ())
    source = {}
    loaded = load_parameters(settings["from"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(loaded.params):
        name = path_name(path)
        for pattern, replacement in settings.get("rename", ()):
            name = re.sub(pattern, replacement, name)
        source[name] = leaf
    taken = {
        name
        for name in parameter_names(params)
        if name in source and _any_match(include, name) and not _any_match(exclude, name)
    }
    if not taken:
        raise UserError("checkpoint.init takes no parameter", file=settings["from"], remedy="check include, exclude and rename")

    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    found = transplant(
        source, Facts(loaded.config, loaded.vocabulary, loaded.languages),
        {name: leaf for name, leaf in leaves.items() if name in taken}, facts, like=settings.get("like"),
    )  # fmt: skip
    fresh = [name for name in leaves if name not in taken]
    log.warning("took %d parameters from %s; fresh: %s", len(taken), settings["from"], ", ".join(fresh) or "none")
    if found.composed or found.fresh or found.new_groups:
        log.warning("pieces of the vocabulary: %d copied, %d made of parts, %d fresh; new weights of: %s",
                    found.copied, found.composed, found.fresh, ", ".join(found.new_groups) or "nothing")  # fmt: skip

    def choose(path: Any, leaf: jax.Array) -> jax.Array:
        name = path_name(path)
        return leaf if name not in taken else jax.device_put(found.params[name].astype(leaf.dtype), leaf.sharding)

    return jax.tree_util.tree_map_with_path(choose, params)


def _any_match(patterns: Any, name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _pack(vocabulary: Vocabulary) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        vocabulary.save(folder)
        return {file.name: base64.b64encode(file.read_bytes()).decode() for file in sorted(Path(folder).iterdir())}


def _unpack(files: Mapping[str, str]) -> Vocabulary:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(base64.b64decode(content))
        return Vocabulary.load(folder)


class StopSignal:
    """Notes SIGTERM and SIGINT instead of dying of them; a second signal kills as ever."""

    def __enter__(self) -> StopSignal:
        self.received = False
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self.received = True
        for known, handler in self._before.items():
            signal.signal(known, handler)
