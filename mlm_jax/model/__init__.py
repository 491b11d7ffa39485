"""The model room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from ml_collections import ConfigDict

from mlm_jax.model.transformer import Transformer

PREFIXES: tuple[tuple[str, ...], ...] = ((), ("layers",), ("layers", "groups"))


def create(config: ConfigDict, *, vocabulary_size: int, languages: tuple[str, ...], labels: Mapping[str, int] | None = None, seed: int = 0):
    """Return (graphdef, parameters) of the model that ``config`` describes; parameters are a plain nested dict."""
    model = Transformer(config.model, vocabulary_size=vocabulary_size, languages=languages, families=config.families,
                        tasks=tuple(config.tasks), labels=labels or {}, uncertain=_uncertain(config), rngs=nnx.Rngs(seed))  # fmt: skip
    graphdef, state = nnx.split(model, nnx.Param)
    return graphdef, nnx.to_pure_dict(state)


def abstract(config: ConfigDict, **facts: Any):
    """Return (graphdef, shapes, logical axes) without allocating anything."""
    found = {}

    def build():
        model = Transformer(config.model, vocabulary_size=facts["vocabulary_size"], languages=facts["languages"],
                            families=config.families, tasks=tuple(config.tasks), labels=facts.get("labels") or {},
                            uncertain=_uncertain(config), rngs=nnx.Rngs(0))  # fmt: skip
        found["graphdef"], state = nnx.split(model, nnx.Param)
        found["axes"] = {path: variable.get_metadata()["axes"] for path, variable in nnx.to_flat_state(state)}
        return nnx.to_pure_dict(state)

    shapes = jax.eval_shape(build)
    axes = jax.tree_util.tree_map_with_path(
        lambda path, leaf: PREFIXES[len(leaf.shape) - len(found["axes"][_names(path)])] + found["axes"][_names(path)], shapes
    )
    return found["graphdef"], shapes, axes


def merge(graphdef: Any, params: Any, **overrides: Any) -> Transformer:
    """Return the model with these parameters; ``rope_theta`` may be overridden."""
    model = nnx.merge(graphdef, params)
    for name, value in overrides.items():
        setattr(model, name, value)
    return model


def _uncertain(config: ConfigDict) -> tuple[str, ...]:
    """Return the tasks whose weight in the loss is a parameter."""
    return tuple(task for task, entry in config.tasks.items() if entry.get("weight") == "uncertainty")


def _names(path: Any) -> tuple[str, ...]:
    return tuple(entry.key for entry in path)
