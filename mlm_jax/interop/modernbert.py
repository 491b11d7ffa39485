"""ModernBERT and mmBERT (Warner et al. 2024; Marone et al. 2025): ``model_type`` "modernbert"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlm_jax.common.errors import UserError
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
from mlm_jax.interop.task_heads import DENSE, OUTPUT, QUESTION, SEQUENCE, TOKEN, layer, norm

ACTIVATIONS = {"gelu": "geglu", "gelu_pytorch_tanh": "geglu_tanh", "gelu_new": "geglu_tanh", "silu": "swiglu"}
PLAIN = {"geglu": "gelu", "geglu_tanh": "gelu_pytorch_tanh", "swiglu": "silu"}  # activation of the head's dense layer

TABLE = (
    Entry("{base}embeddings.tok_embeddings.weight", ("embedding",)),
    Entry("{base}embeddings.norm.weight", ("embedding_norm/scale",)),
    Entry("{base}embeddings.norm.bias", ("embedding_norm/bias",)),
    Entry("{base}layers.{layer}.attn_norm.weight", ("encoder/{layer}/attention_norm/scale",), after_first=True),
    Entry("{base}layers.{layer}.attn_norm.bias", ("encoder/{layer}/attention_norm/bias",), after_first=True),
    Entry(
        "{base}layers.{layer}.attn.Wqkv.weight",
        tuple(f"encoder/{{layer}}/attention/{part}/kernel" for part in ("query", "key", "value")),
    ),
    Entry(
        "{base}layers.{layer}.attn.Wqkv.bias",
        tuple(f"encoder/{{layer}}/attention/{part}/bias" for part in ("query", "key", "value")),
    ),
    Entry("{base}layers.{layer}.attn.Wo.weight", ("encoder/{layer}/attention/output/kernel",), inputs=2),
    Entry("{base}layers.{layer}.attn.Wo.bias", ("encoder/{layer}/attention/output/bias",)),
    Entry("{base}layers.{layer}.mlp_norm.weight", ("encoder/{layer}/mlp_norm/scale",)),
    Entry("{base}layers.{layer}.mlp_norm.bias", ("encoder/{layer}/mlp_norm/bias",)),
    Entry("{base}layers.{layer}.mlp.Wi.weight", ("encoder/{layer}/mlp/gate/kernel", "encoder/{layer}/mlp/up/kernel")),
    Entry("{base}layers.{layer}.mlp.Wi.bias", ("encoder/{layer}/mlp/gate/bias", "encoder/{layer}/mlp/up/bias")),
    Entry("{base}layers.{layer}.mlp.Wo.weight", ("encoder/{layer}/mlp/down/kernel",)),
    Entry("{base}layers.{layer}.mlp.Wo.bias", ("encoder/{layer}/mlp/down/bias",)),
    Entry("{base}final_norm.weight", ("encoder_norm/scale",)),
    Entry("{base}final_norm.bias", ("encoder_norm/bias",)),
    Entry("head.dense.weight", ("head/dense/kernel",)),
    Entry("head.dense.bias", ("head/dense/bias",)),
    Entry("head.norm.weight", ("head/norm/scale",)),
    Entry("head.norm.bias", ("head/norm/bias",)),
    Entry("decoder.weight", ("output",)),
    Entry("decoder.bias", ("output_bias",)),
)


def settings(config: Mapping[str, Any], contents: Contents) -> dict[str, Any]:
    """Return the settings of ``config.model`` for a ModernBERT config.json."""
    activation = lookup(ACTIVATIONS, "hidden_activation", config, "gelu")
    if contents.head:
        require(config, {"classifier_activation": PLAIN[activation], "classifier_bias": config.get("mlp_bias", False)})
    biases = {"norm": "norm_bias", "attention": "attention_bias", "mlp": "mlp_bias"}
    thetas = rope_thetas(config)
    layers = config.get("num_hidden_layers", 22)
    return {
        "encoder": ({"layers": layers, "weights": "shared"},),
        "decoder": (),
        "width": config.get("hidden_size", 768),
        "heads": config.get("num_attention_heads", 12),
        "mlp_width": config.get("intermediate_size", 1152),
        "activation": activation,
        "norm": "layer",
        "norm_position": "pre",
        "norm_epsilon": config.get("norm_eps", 1e-5),
        "biases": tuple(ours for ours, key in biases.items() if config.get(key, False))
        + (("head",) if contents.head and config.get("decoder_bias", True) else ()),
        "position": "rope",
        "max_positions": config.get("max_position_embeddings", 8192),
        "rope_theta": thetas[0],
        "local_rope_theta": thetas[1],
        "window": config.get("local_attention", 128),
        "global_every": global_every(config, layers),
        "norms": ("embedding", "final"),
        "tied_embeddings": contents.tied,
        "head_transform": contents.head,
        "initializer_stddev": config.get("initializer_range", 0.02),
    }


def rope_thetas(config: Mapping[str, Any]) -> tuple[float, float]:
    """Return RoPE's bases (global, local), in the spelling of old or of new files.

    Raises:
      UserError: the frequencies are scaled in a way that we have no counterpart of.
    """
    unscaled(optional(config, "rope_scaling", {}), "rope_scaling")
    parameters = unscaled(optional(config, "rope_parameters", {}), "rope_parameters")
    whole, windowed = (
        unscaled(optional(parameters, kind, {}), f"rope_parameters.{kind}")
        for kind in ("full_attention", "sliding_attention")
    )
    theta = float(optional(whole, "rope_theta", optional(config, "global_rope_theta", 160_000.0)))
    # null means the base of the layers without a window
    local = theta if "local_rope_theta" in config and config["local_rope_theta"] is None else 10_000.0
    return theta, float(optional(windowed, "rope_theta", optional(config, "local_rope_theta", local)))


def global_every(config: Mapping[str, Any], layers: int) -> int:
    """Return n if layers 0, n, 2n … have no window.

    Raises:
      UserError: the layers without a window are not evenly spaced.
    """
    if config.get("layer_types") is None:
        return config.get("global_attn_every_n_layers", 3)
    kinds = config.get("layer_types", ())
    whole = [index for index, kind in enumerate(kinds) if kind == "full_attention"]
    every = whole[1] if len(whole) > 1 else max(layers, 1)
    if len(kinds) != layers or whole != list(range(0, layers, every)):
        raise UserError(f"layer_types {list(kinds)} does not have full attention at every n-th layer from the first")
    return every


def describe(model: Any, facts: Facts) -> dict[str, Any]:
    """Return the config.json of a model of ours."""
    layers = sum(group["layers"] for group in model.encoder)
    kinds = ["sliding_attention" if index % max(model.global_every, 1) else "full_attention" for index in range(layers)]
    return {
        "vocab_size": facts.rows,
        "hidden_size": model.width,
        "intermediate_size": model.mlp_width,
        "num_hidden_layers": layers,
        "num_attention_heads": model.heads,
        "hidden_activation": reverse(ACTIVATIONS, model.activation),
        "classifier_activation": PLAIN.get(model.activation, "gelu"),
        "max_position_embeddings": model.max_positions,
        "initializer_range": model.initializer_stddev,
        "initializer_cutoff_factor": 2.0,  # text-embeddings-inference requires this key
        "norm_eps": model.norm_epsilon,
        "norm_bias": "norm" in model.biases,
        "attention_bias": "attention" in model.biases,
        "mlp_bias": "mlp" in model.biases,
        "classifier_bias": "mlp" in model.biases,
        "decoder_bias": "head" in model.biases,
        "layer_types": kinds,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": float(model.rope_theta)},
            "sliding_attention": {"rope_type": "default", "rope_theta": float(model.local_rope_theta)},
        },
        "local_attention": model.window,
        # Older releases of transformers and other readers of the format use these spellings.
        "global_attn_every_n_layers": model.global_every,
        "global_rope_theta": float(model.rope_theta),
        "local_rope_theta": float(model.local_rope_theta),
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "mlp_dropout": 0.0,
        "tie_word_embeddings": model.tied_embeddings,
        **{
            f"{name}_token_id": facts.ids.get(key)
            for name, key in (("pad", "pad"), ("bos", "bos"), ("eos", "eos"), ("cls", "bos"), ("sep", "eos"))
        },
    }


HEAD_OF_TASK = (*layer("head.dense", DENSE), *norm("head.norm"), *layer("classifier", OUTPUT))

FAMILY = Family(
    model_type="modernbert",
    base="model.",
    table=TABLE,
    settings=settings,
    describe=describe,
    architecture=lambda contents: "ModernBertForMaskedLM" if contents.head else "ModernBertModel",
    facts=lambda config: Facts(rows=config.get("vocab_size", 50368), ids=token_ids(config)),
    embedding="{base}embeddings.tok_embeddings.weight",
    output="decoder.weight",
    head=r"^(head|decoder)\.",
    copies={"decoder.weight": "{base}embeddings.tok_embeddings.weight"},
    name="ModernBert",
    heads=(
        TaskHead(
            SEQUENCE,
            HEAD_OF_TASK,
            transform="head",
            defaults={"classifier_pooling": "cls"},
            poolings={"mean": {"classifier_pooling": "mean"}, "first": {"classifier_pooling": "cls"}},
        ),
        TaskHead(TOKEN, HEAD_OF_TASK, transform="head"),
        TaskHead(QUESTION, HEAD_OF_TASK, transform="head"),
    ),
)
