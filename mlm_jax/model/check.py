"""Checks of ``config.model`` that need no data: what does not exist, and what cannot work together."""

from __future__ import annotations

from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError, nearest
from mlm_jax.config.check import MODEL_NUMBERS, BadValue, check_number
from mlm_jax.model.attention import IMPLEMENTATIONS
from mlm_jax.model.characters import HASHES
from mlm_jax.model.cross_lingual import FUSIONS, SCORES
from mlm_jax.model.layers import ACTIVATIONS, GATED
from mlm_jax.model.sharing import indexes
from mlm_jax.model.stack import SCAN_LAYERS

CHOICES = {  # {key: the values there are}
    "activation": ("gelu", "gelu_tanh", "relu", *GATED),
    "norm": ("layer", "rms"),
    "norm_position": ("pre", "post"),
    "position": ("rope", "learned", "relative", "none"),
    "dtype": ("auto", "float32", "bfloat16"),
    "attention": IMPLEMENTATIONS,
    "remat": ("none", "dots", "full"),
    "scan_layers": SCAN_LAYERS,
}
PARTS = {  # {key: what it may name}
    "biases": ("norm", "attention", "mlp", "head"),
    "norms": ("embedding", "first_attention", "final", "output_scale"),
}
assert all(GATED.get(name, name) in ACTIVATIONS for name in CHOICES["activation"])


def check_model(config: ConfigDict) -> None:
    """Check the keys of ``config.model`` against each other.

    Raises:
      UserError: a value does not exist (the nearest one is named) or does not go with another one.
    """
    for key, known in CHOICES.items():
        if config[key] not in known:
            raise BadValue(f"model.{key}", f"model.{key} is {config[key]!r}{nearest(config[key], known)}",
                           f"use one of {', '.join(known)}")  # fmt: skip
    for key, known in PARTS.items():
        for name in config[key]:
            if name not in known:
                raise BadValue(f"model.{key}", f"model.{key} names {name!r}{nearest(name, known)}",
                               f"name any of {', '.join(known)}")  # fmt: skip
    for key, (least, most) in MODEL_NUMBERS.items():
        check_number(f"model.{key}", config[key], least, most)
    if not config.encoder:
        raise BadValue("model.encoder", "model.encoder has no layer group", 'write ({"layers": 12},)')
    _check_heads(config)
    for entry in (*config.encoder, *config.decoder):
        indexes(entry)
        if entry.get("adapter_norm") == "reused" and config.norm_position != "post":
            raise UserError("a layer group's adapter_norm is 'reused', but norms come before each part",
                            remedy="use 'own', or model.norm_position='post'")  # fmt: skip
    if config.global_every > 1 and config.window < 2:
        raise UserError(f"model.window is {config.window}, so local layers would see nothing but themselves",
                        remedy="widen it, or set model.global_every=1")  # fmt: skip
    _check_relative(config)
    if config.character_downsampling:
        _check_characters(config)
    if config.cross_lingual:
        _check_cross_lingual(config)


def _check_heads(config: ConfigDict) -> None:
    if not config.head_width and config.width % config.heads:
        raise BadValue("model.heads", f"model.width {config.width} cannot be divided among {config.heads} heads",
                       "choose a divisor of model.width, or set model.head_width")  # fmt: skip
    if config.kv_heads and config.heads % config.kv_heads:
        raise BadValue("model.kv_heads", f"model.kv_heads {config.kv_heads} does not divide model.heads {config.heads}",
                       "choose a divisor, or 0 for as many")  # fmt: skip
    head_dim = config.head_width or config.width // config.heads
    if config.position == "rope" and head_dim % 2:
        raise UserError(f"heads of width {head_dim} cannot be turned in pairs by RoPE", remedy="make them even")


def _check_relative(config: ConfigDict) -> None:
    wanted = ("buckets", "max_distance", "per_layer")
    if sorted(config.relative) != sorted(wanted):
        raise UserError(
            f"model.relative has the keys {', '.join(config.relative)}", remedy=f"give it {', '.join(wanted)}"
        )
    buckets, distance, per_layer = (config.relative[key] for key in wanted)
    check_number("model.relative.buckets", buckets, 4, whole=True)
    check_number("model.relative.max_distance", distance, 3)
    if not isinstance(per_layer, bool):
        raise BadValue("model.relative.per_layer", f"model.relative.per_layer is {per_layer!r}", "use True or False")
    if buckets % 4 or distance <= buckets // 2:
        raise UserError(f"model.relative cannot put distances up to {distance} into {buckets} buckets",
                        remedy="use a multiple of 4 buckets, and a max_distance of more than half as many")  # fmt: skip


def _check_cross_lingual(config: ConfigDict) -> None:
    known = {"score": SCORES, "fuse": FUSIONS}
    for key in {**known, **config.cross_lingual}:
        if key not in known or key not in config.cross_lingual:
            raise UserError(
                f"model.cross_lingual has the keys {', '.join(config.cross_lingual)}", remedy="give it score and fuse"
            )
        value = config.cross_lingual[key]
        if value not in known[key]:
            raise UserError(f"model.cross_lingual {key} is {value!r}{nearest(value, known[key])}",
                            remedy=f"use one of {', '.join(known[key])}")  # fmt: skip


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
        raise UserError(f"model.window is {config.window}, so characters would see no neighbours", remedy="widen it")
    if config.width % HASHES:
        raise UserError(
            f"model.width {config.width} cannot be put together of {HASHES} hashes",
            remedy=f"use a multiple of {HASHES}",
        )
