"""Checks of several keys together, which need neither the model's code nor devices nor data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError, nearest
from mlm_jax.config.keys.adapt import check_growth
from mlm_jax.config.keys.mixing import STRATEGY
from mlm_jax.config.values import BadValue

CHARACTER_HASHES = 8  # hashes of a character, each of which gives a part of its embedding (CANINE)
# {key of a phase: the strategy that it implies}
DECIDED_BY = {"alpha": "alpha", "unimax_epochs": "unimax", "rates": "explicit"}


def check_together(config: ConfigDict) -> None:
    """Check values against each other; each by itself is of its key's kind.

    Raises:
      BadValue: values do not fit each other; the key is one that can be changed.
      UserError: several keys together cannot work.
    """
    check_model(config.model)
    _check_rows(config)
    check_curriculum(config)
    _check_rates(config)
    _check_sources(config)
    check_schedule(config.optimizer, config.steps)
    _check_adapt(config)
    if config.evaluation.patience and not config.evaluation.select:
        raise BadValue(
            "evaluation.patience",
            "evaluation.patience is set, but evaluation.select names no metric that could stop improving",
            "set evaluation.select, such as eval/loss/mean",
        )


def _check_sources(config: ConfigDict) -> None:
    for name in ("corpora", "parallel", "labelled", "filters"):
        if config.data.mixture and config.data[name]:
            raise BadValue(
                f"data.{name}",
                f"data.mixture and data.{name} are both set, but a mixture is read instead of the other",
                f"leave one of them out, or register what data.{name} names as a task of the mixture",
            )


def _check_adapt(config: ConfigDict) -> None:
    adapt, grow = config.adapt, config.adapt.grow
    if not adapt.model:
        for name in ("trim", "grow", "only_new", "like"):
            if adapt[name]:
                problem = f"adapt.{name} is set, but adapt.model names no model"
                raise BadValue(f"adapt.{name}", problem, "set adapt.model, or leave it out")
        return
    for key, value in (("checkpoint.init", config.checkpoint.init), ("vocabulary.path", config.vocabulary.path)):
        if value:
            problem = f"{key} and adapt.model are both set, but adapt.model decides the weights and the vocabulary"
            raise BadValue(key, problem, "leave one of them out")
    if adapt.only_new and not grow:
        problem = "adapt.only_new trains new pieces only, but there is no adapt.grow"
        raise BadValue(
            "adapt.only_new", problem, "set adapt.grow, or optimizer.freeze_table for other parts of the model"
        )
    if adapt.only_new and config.optimizer.freeze_table != ((".*", False),):
        problem = "adapt.only_new and optimizer.freeze_table are both set"
        raise BadValue("optimizer.freeze_table", problem, "leave one of them out")
    if grow and not grow.get("text") and grow["language"] not in config.data.corpora:
        problem = f"there is no text of {grow['language']!r} from which adapt.grow could learn pieces"
        raise BadValue("adapt.grow", problem, f"set data.corpora of {grow['language']!r}, or 'text'")
    if grow:
        check_growth("adapt.grow", grow)


def longest_row(model: ConfigDict) -> int:
    """Return the most tokens of a row that ``config.model`` has positions for."""
    return model.max_positions - (model.position_offset if model.position == "learned" else 0)


# ------------------------------------------------------------------------------------------------ model


def check_model(config: ConfigDict) -> None:
    """Check the values of ``config.model`` against each other.

    Raises:
      UserError: two values do not fit each other; a BadValue if one key can be named.
    """
    if not config.encoder:
        raise BadValue("model.encoder", "model.encoder has no layer group", 'write ({"layers": 12},)')
    _check_heads(config)
    for name in ("encoder", "decoder"):
        for index, entry in enumerate(config[name]):
            _check_layer_group(f"model.{name}[{index}]", entry, config.norm_position)
    if config.global_every > 1 and config.window < 2:
        raise UserError(
            f"model.window is {config.window}, so layers with a window would attend to nothing but themselves",
            remedy="widen it, or set model.global_every=1",
        )
    if config.type_boundary >= 0 and config.embedding_types < 2:
        raise BadValue(
            "model.type_boundary",
            f"model.type_boundary begins type 1, but model.embedding_types is {config.embedding_types}",
            "set model.embedding_types=2, or model.type_boundary=-1",
        )
    buckets, distance = config.relative["buckets"], config.relative["max_distance"]
    if buckets % 4 or distance <= buckets // 2:
        raise UserError(
            f"model.relative cannot put distances up to {distance} into {buckets} buckets",
            remedy="use a multiple of 4 buckets, and a max_distance of more than half as many",
        )
    if config.character_downsampling:
        _check_characters(config)
    _check_lora(config)


def _check_heads(config: ConfigDict) -> None:
    if not config.head_width and config.width % config.heads:
        raise BadValue(
            "model.heads",
            f"model.width {config.width} cannot be divided among {config.heads} heads",
            "choose a divisor of model.width, or set model.head_width",
        )
    if config.kv_heads and config.heads % config.kv_heads:
        raise BadValue(
            "model.kv_heads",
            f"model.kv_heads {config.kv_heads} does not divide model.heads {config.heads}",
            "choose a divisor, or 0 for as many",
        )
    head_dim = config.head_width or config.width // config.heads
    if config.position == "rope" and head_dim % 2:
        raise UserError(
            f"RoPE needs heads of an even width, not {head_dim}", remedy="change model.heads or model.head_width"
        )


def _check_layer_group(key: str, entry: Mapping[str, Any], norm_position: str) -> None:
    weights, adapter = entry.get("weights", "shared"), entry.get("adapter_weights", "shared")
    if weights != "shared" and adapter not in ("shared", weights):
        raise BadValue(
            f"{key}.adapter_weights",
            f"{key} has weights indexed by {weights!r} and adapters by {adapter!r}",
            "share the weights, or index both by the same",
        )
    if entry.get("adapter_norm") == "reused" and norm_position != "post":
        raise BadValue(
            f"{key}.adapter_norm",
            f"{key}.adapter_norm is 'reused', but norms come before each part",
            "use 'own', or model.norm_position='post'",
        )


def _check_lora(config: ConfigDict) -> None:
    if config.activation not in ("geglu", "geglu_tanh", "swiglu") and "gate" in config.lora.get("products", ()):
        raise BadValue(
            "model.lora.products",
            f"model.lora.products names 'gate', which a layer with model.activation={config.activation!r} does not have",
            "leave it out",
        )


def _check_characters(config: ConfigDict) -> None:
    if config.character_downsampling < 2:
        raise UserError(
            f"model.character_downsampling is {config.character_downsampling}", remedy="use 0 (off), or 2 or more"
        )
    if config.position == "relative":
        raise UserError(
            "a character encoder has no relative positions", remedy="use model.position='rope' or 'learned'"
        )
    if config.window < 2:
        raise UserError(
            f"model.window is {config.window}, so characters would not attend to their neighbours", remedy="widen it"
        )
    if config.width % CHARACTER_HASHES:
        raise UserError(
            f"model.width {config.width} cannot be divided among {CHARACTER_HASHES} hashes of a character",
            remedy=f"use a multiple of {CHARACTER_HASHES}",
        )


# ------------------------------------------------------------------------------------------------ tasks and phases


def _check_rows(config: ConfigDict) -> None:
    for task, entry in config.tasks.items():
        runs, rest = divmod(entry["rows"], entry.get("same_language_rows", 1))
        if rest:
            key = f"tasks.{task}.same_language_rows"
            problem = f"{key} is {entry['same_language_rows']}, but {entry['rows']} rows cannot come in such runs"
            raise BadValue(key, problem, f"make tasks.{task}.rows a multiple of it")
        if runs % config.training.microbatches:
            raise BadValue(
                "training.microbatches",
                f"tasks.{task}.rows is {entry['rows']}, which {config.training.microbatches} microbatches cannot share",
                "make it a multiple of training.microbatches"
                + " · same_language_rows" * ("same_language_rows" in entry),
            )


def check_curriculum(config: ConfigDict) -> None:
    """Check the phases of a run against the rest of the config, except languages and pairs, which depend on the data.

    Raises:
      BadValue: a phase names an unknown task, or a key that its strategy or the model does not use, or the phases do not
        take ``config.steps`` steps.
    """
    for index, entry in enumerate(config.curriculum):
        key = f"curriculum[{index}]"
        phase_strategy(key, entry, config.mixing.strategy)
        for option in ("mask_rate", "length", "rows"):
            for task in entry[option] if isinstance(entry.get(option), Mapping) else ():
                if task not in config.tasks:
                    problem = f"{key}.{option} names the unknown task {task!r}{nearest(task, config.tasks)}"
                    raise BadValue(f"{key}.{option}", problem, f"the tasks are {', '.join(config.tasks)}")
        for base in ("rope_theta", "local_rope_theta"):
            if base in entry and config.model.position != "rope":
                raise BadValue(
                    f"{key}.{base}",
                    f"{key} has a {base}, but model.position is {config.model.position!r}",
                    "leave it out, or set model.position='rope'",
                )
    total = sum(entry["steps"] for entry in config.curriculum)
    if config.curriculum and total != config.steps:
        last = config.curriculum[-1]["steps"] + config.steps - total
        raise BadValue(
            "curriculum",
            f"the curriculum's phases take {total} steps, but the run has {config.steps}",
            f"set steps={total}" + (f", or the last phase's steps to {last}" if last > 0 else ""),
        )


def phase_strategy(key: str, entry: Mapping[str, Any], default: str) -> str:
    """Return the mixing strategy that a phase names, or that its other keys imply.

    Raises:
      BadValue: another key of the phase belongs to another strategy.
    """
    meant = [strategy for option, strategy in DECIDED_BY.items() if option in entry]
    strategy = entry.get("strategy", meant[0] if meant else default)
    STRATEGY.check(f"{key}.strategy", strategy)
    for option, other in DECIDED_BY.items():
        if option in entry and other != strategy:
            problem = f"{key} mixes by {strategy}, which has no use for {option!r}"
            raise BadValue(f"{key}.{option}", problem, f"leave out {option!r}")
    return strategy


def _check_rates(config: ConfigDict) -> None:
    explicit = any("rates" in entry or entry.get("strategy") == "explicit" for entry in config.curriculum)
    if config.mixing.rates and config.mixing.strategy != "explicit" and not explicit:
        raise BadValue(
            "mixing.rates",
            f"mixing.rates is set, but mixing.strategy is {config.mixing.strategy!r}, which has no use for it",
            "set mixing.strategy='explicit', or leave mixing.rates out",
        )


# ------------------------------------------------------------------------------------------------ schedule


def check_schedule(optimizer: ConfigDict, steps: int) -> None:
    """Check that the parts of the learning rate's schedule fit into the run.

    Raises:
      UserError: they do not.
    """
    warmup, decay = warmup_and_decay(optimizer, steps)
    if warmup + decay > steps:
        parts = f"optimizer.warmup_steps={warmup}" + (f" and decay_steps={decay}" if decay else "")
        raise UserError(
            f"{parts} are more than the run's {steps} steps",
            remedy="shorten them, write shares of the run such as 0.05 and 0.1, or raise steps",
        )


def warmup_and_decay(optimizer: ConfigDict, steps: int) -> tuple[int, int]:
    """Return (steps of the warm-up, steps of the decay at the end); the decay is 0 unless the schedule is wsd."""
    return steps_of(optimizer.warmup_steps, steps), steps_of(
        optimizer.decay_steps, steps
    ) if optimizer.schedule == "wsd" else 0


def steps_of(value: float, steps: int) -> int:
    """Return a number of steps; a value below 1 is a share of the run's steps."""
    return round(value * steps) if value < 1 else int(value)
