"""EuroBERT (Boizard et al. 2025): ``model_type`` "eurobert"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlm_jax.interop.family import (
    Contents,
    Entry,
    Facts,
    Family,
    TaskHead,
    lookup,
    optional,
    require,
    reverse,
    token_ids,
    unscaled,
)
from mlm_jax.interop.task_heads import DENSE, OUTPUT, SEQUENCE, TOKEN, layer

ACTIVATIONS = {
    "silu": "swiglu",
    "swish": "swiglu",
    "gelu": "geglu",
    "gelu_pytorch_tanh": "geglu_tanh",
    "gelu_new": "geglu_tanh",
}

TABLE = (
    Entry("{base}embed_tokens.weight", ("embedding",)),
    Entry("{base}layers.{layer}.input_layernorm.weight", ("encoder/{layer}/attention_norm/scale",)),
    *(
        Entry(
            f"{{base}}layers.{{layer}}.self_attn.{theirs}_proj.{end}",
            (f"encoder/{{layer}}/attention/{ours}/{our_end}",),
        )
        for theirs, ours in (("q", "query"), ("k", "key"), ("v", "value"))
        for end, our_end in (("weight", "kernel"), ("bias", "bias"))
    ),
    Entry("{base}layers.{layer}.self_attn.o_proj.weight", ("encoder/{layer}/attention/output/kernel",), inputs=2),
    Entry("{base}layers.{layer}.self_attn.o_proj.bias", ("encoder/{layer}/attention/output/bias",)),
    Entry("{base}layers.{layer}.post_attention_layernorm.weight", ("encoder/{layer}/mlp_norm/scale",)),
    *(
        Entry(f"{{base}}layers.{{layer}}.mlp.{part}_proj.{end}", (f"encoder/{{layer}}/mlp/{part}/{our_end}",))
        for part in ("gate", "up", "down")
        for end, our_end in (("weight", "kernel"), ("bias", "bias"))
    ),
    Entry("{base}norm.weight", ("encoder_norm/scale",)),
    Entry("lm_head.weight", ("output",)),
    Entry("lm_head.bias", ("output_bias",)),
)


def settings(config: Mapping[str, Any], contents: Contents) -> dict[str, Any]:
    """Return the settings of ``config.model`` for a EuroBERT config.json."""
    require(config, {"pretraining_tp": 1})
    heads = config.get("num_attention_heads", 12)
    width = config.get("hidden_size", 768)
    biases = {"attention": "attention_bias", "mlp": "mlp_bias", "head": "mlp_bias"}  # the head's follows the layers'
    return {
        "encoder": ({"layers": config.get("num_hidden_layers", 12), "weights": "shared"},),
        "decoder": (),
        "width": width,
        "heads": heads,
        "kv_heads": optional(config, "num_key_value_heads", heads),
        "head_width": optional(config, "head_dim", width // heads),
        "mlp_width": config.get("intermediate_size", 3072),
        "activation": lookup(ACTIVATIONS, "hidden_act", config, "silu"),
        "norm": "rms",
        "norm_position": "pre",
        "norm_epsilon": config.get("rms_norm_eps", 1e-5),
        "biases": tuple(
            ours for ours, key in biases.items() if config.get(key, False) and (ours != "head" or contents.head)
        ),
        "position": "rope",
        "max_positions": config.get("max_position_embeddings", 8192),
        "rope_theta": rope_theta(config),
        "global_every": 1,
        "norms": ("first_attention", "final"),
        "tied_embeddings": contents.tied,
        "head_transform": False,
        "initializer_stddev": config.get("initializer_range", 0.02),
    }


def rope_theta(config: Mapping[str, Any]) -> float:
    """Return RoPE's base, in the spelling of old or of new files.

    Raises:
      UserError: the frequencies are scaled in a way that we have no counterpart of.
    """
    unscaled(optional(config, "rope_scaling", {}), "rope_scaling")
    rope = unscaled(optional(config, "rope_parameters", {}), "rope_parameters")
    return float(rope.get("rope_theta", config.get("rope_theta", 10_000.0)))


def describe(model: Any, facts: Facts) -> dict[str, Any]:
    """Return the config.json of a model of ours."""
    return {
        "vocab_size": facts.rows,
        "hidden_size": model.width,
        "intermediate_size": model.mlp_width,
        "num_hidden_layers": sum(group["layers"] for group in model.encoder),
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads or model.heads,
        "head_dim": model.head_width or model.width // model.heads,
        "hidden_act": reverse(ACTIVATIONS, model.activation),
        "max_position_embeddings": model.max_positions,
        "initializer_range": model.initializer_stddev,
        "rms_norm_eps": model.norm_epsilon,
        "attention_bias": "attention" in model.biases,
        "attention_dropout": 0.0,
        "mlp_bias": "mlp" in model.biases,
        "rope_parameters": {"rope_type": "default", "rope_theta": float(model.rope_theta)},
        "rope_theta": float(model.rope_theta),  # how releases before transformers 5 spell it
        "tie_word_embeddings": model.tied_embeddings,
        **{f"{name}_token_id": facts.ids.get(name) for name in ("pad", "bos", "eos", "mask")},
    }


FAMILY = Family(
    model_type="eurobert",
    base="model.",
    table=TABLE,
    settings=settings,
    describe=describe,
    architecture=lambda contents: "EuroBertForMaskedLM",
    facts=lambda config: Facts(
        rows=config.get("vocab_size", 128256), ids=token_ids(config, pad=128001, bos=128000, eos=128001, mask=128002)
    ),
    embedding="{base}embed_tokens.weight",
    output="lm_head.weight",
    head=r"^lm_head\.",
    tied=False,
    only_output=True,
    name="EuroBert",
    heads=(
        TaskHead(
            SEQUENCE,
            (*layer("dense", DENSE), *layer("classifier", OUTPUT)),
            transform="gelu",
            defaults={"classifier_pooling": "late"},
            poolings={
                ours: {"classifier_pooling": theirs}
                for ours, theirs in (("mean", "mean"), ("first", "bos"), ("late", "late"))
            },
        ),
        TaskHead(TOKEN, layer("classifier", OUTPUT)),
    ),
    copies={"lm_head.weight": "{base}embed_tokens.weight"},
)
