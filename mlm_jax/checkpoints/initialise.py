"""Starting from another run's weights: ``config.checkpoint.init``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from mlm_jax.checkpoints.checkpoint import find_checkpoint, host, load_parameters
from mlm_jax.checkpoints.transplant import ModelSpec, transplant
from mlm_jax.common.errors import UserError
from mlm_jax.config.keys.checkpoint import INIT
from mlm_jax.config.values import several
from mlm_jax.training.paths import by_path, map_by_path
from mlm_jax.training.regex_table import check_matches, compiled

log = logging.getLogger(__name__)


def check_init(settings: Mapping[str, Any]) -> None:
    """Check that the checkpoint that ``config.checkpoint.init`` names exists, before hours go into preparing data.

    Raises:
      UserError: the checkpoint does not exist, or a key is unknown or missing.
    """
    INIT.check("checkpoint.init", settings)
    find_checkpoint(settings["from"])
    if settings.get("starts") and not Path(settings["starts"]).is_file():
        raise UserError("checkpoint.init 'starts' names no file", file=settings["starts"])


def initialise_from(params: Any, settings: Mapping[str, Any], facts: ModelSpec) -> Any:
    """Return ``params`` with the weights that ``config.checkpoint.init`` takes from another run.

    The other run may have another vocabulary, other languages and another sharing plan (:mod:`mlm_jax.checkpoints.transplant`).

    Args:
      params: newly initialised parameters, on the mesh.
      settings: {"from": workdir or checkpoint, "include": regexes, "exclude": regexes, "rename": (regex, replacement) pairs,
        "like": {new language: old one}, "starts": file of what new pieces begin as}; the first two regexes are of this run's
        paths, ``rename`` turns the other run's paths into them.
      facts: the vocabulary, the languages and the families of this run.

    Raises:
      UserError: nothing is taken, a pattern matches nothing, or a shape does not fit; the message names it.
    """
    check_init(settings)
    checkpoint = settings["from"]
    leaves = by_path(params)
    include = _matching(settings.get("include", (".*",)), list(leaves), "checkpoint.init 'include'")
    exclude = _matching(settings.get("exclude", ()), list(leaves), "checkpoint.init 'exclude'")
    loaded = load_parameters(checkpoint, device=host())
    arrays = by_path(loaded.params)
    renamed = _renamed(list(arrays), settings.get("rename", ()))
    taken = [name for name in leaves if name in renamed and name in include and name not in exclude]
    if not taken:
        raise UserError(
            "checkpoint.init takes no parameter", file=checkpoint, remedy="check include, exclude and rename"
        )

    found = transplant(
        arrays,
        ModelSpec(loaded.config, loaded.vocabulary, loaded.languages),
        {name: leaves[name] for name in taken},
        facts,
        like=settings.get("like"),
        renamed=renamed,
        starts=settings.get("starts", ""),
    )
    fresh = [name for name in leaves if name not in taken]
    log.warning("took %d parameters from %s; fresh: %s", len(taken), checkpoint, ", ".join(fresh) or "none")
    unused = [name for name in renamed if name not in taken]
    if unused:
        log.warning("parameters of %s that are not used: %s", checkpoint, ", ".join(unused))
    if found.composed or found.fresh or found.new_groups:
        log.warning(
            "pieces of the vocabulary: %d copied, %d made of parts, %d fresh; new weights of: %s",
            found.copied,
            found.composed,
            found.fresh,
            ", ".join(found.new_groups) or "nothing",
        )

    def choose(name: str, leaf: jax.Array) -> jax.Array:
        return leaf if name not in taken else jax.device_put(found.params[name].astype(leaf.dtype), leaf.sharding)

    return map_by_path(choose, params)


def _matching(patterns: Sequence[str], names: Sequence[str], key: str) -> set[str]:
    """Return the names that some pattern matches."""
    found = set()
    for pattern in (compiled(pattern, key) for pattern in several(patterns)):
        check_matches(pattern, names, key)
        found |= {name for name in names if pattern.fullmatch(name)}
    return found


def _renamed(paths: Sequence[str], rename: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return {path with every pattern replaced in it, in order: path}."""
    key = "checkpoint.init 'rename'"
    names = {path: path for path in paths}
    for pattern, replacement in rename:
        regex = compiled(pattern, key)
        after = {regex.sub(replacement, name): path for name, path in names.items()}
        if list(after) == list(names):
            raise UserError(f"{key}: {pattern!r} changes no path", remedy=f"paths are such as {list(names)[0]}")
        if len(after) < len(names):
            raise UserError(f"{key}: {pattern!r} gives two parameters the same path")
        names = after
    return names
