"""T5, mT5 and umT5 (Raffel et al. 2020; Xue et al. 2021; Chung et al. 2023), encoder-decoder or encoder alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mlm_jax.interop.family import Contents, Entry, Facts, Family, lookup, optional, reverse, token_ids

ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gated-gelu": "geglu_tanh",
    "gated-silu": "swiglu",
}


def _attention(theirs: str, ours: str) -> tuple[Entry, ...]:
    return (
        *(
            Entry(f"{theirs}.{letter}.weight", (f"{ours}/{part}/kernel",))
            for letter, part in (("q", "query"), ("k", "key"), ("v", "value"))
        ),
        Entry(f"{theirs}.o.weight", (f"{ours}/output/kernel",), inputs=2),
    )


def _stack(stack: str, mlp: int) -> tuple[Entry, ...]:
    """Return the table of an encoder or a decoder; ``mlp`` is the index of the feed-forward layer among a layer's sublayers."""
    block, ours = f"{stack}.block.{{layer}}.layer", f"{stack}/{{layer}}"
    gate = f"{ours}/mlp/gate/kernel"
    return (
        Entry(f"{block}.0.layer_norm.weight", (f"{ours}/attention_norm/scale",)),
        *_attention(f"{block}.0.SelfAttention", f"{ours}/attention"),
        Entry(f"{block}.{mlp}.layer_norm.weight", (f"{ours}/mlp_norm/scale",)),
        Entry(f"{block}.{mlp}.DenseReluDense.wi.weight", (f"{ours}/mlp/up/kernel",), unless=gate),
        Entry(f"{block}.{mlp}.DenseReluDense.wi_0.weight", (gate,)),
        Entry(f"{block}.{mlp}.DenseReluDense.wi_1.weight", (f"{ours}/mlp/up/kernel",), only=gate),
        Entry(f"{block}.{mlp}.DenseReluDense.wo.weight", (f"{ours}/mlp/down/kernel",)),
        Entry(f"{stack}.final_layer_norm.weight", (f"{stack}_norm/scale",)),
        # T5 and mT5 have one table of relative positions for each stack, in its first layer; umT5 has one for each layer.
        Entry(f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", (f"{stack}_relative",)),
        Entry(f"{block}.0.SelfAttention.relative_attention_bias.weight", (f"{ours}/attention/relative",)),
    )


TABLE = (
    Entry("shared.weight", ("embedding",)),
    *_stack("encoder", 1),
    *_stack("decoder", 2),
    Entry("decoder.block.{layer}.layer.1.layer_norm.weight", ("decoder/{layer}/memory_norm/scale",)),
    *_attention("decoder.block.{layer}.layer.1.EncDecAttention", "decoder/{layer}/memory_attention"),
    Entry("lm_head.weight", ("output",)),
)


def settings(
    config: Mapping[str, Any], contents: Contents, *, per_layer: bool, feed_forward: str, scaled: bool
) -> dict[str, Any]:
    """Return the settings of ``config.model`` for a config.json of this kind.

    Args:
      config: the published config.json.
      contents: the contents of the file.
      per_layer: whether every layer has its own table of relative positions.
      feed_forward: the family's default feed-forward layer.
      scaled: whether the decoder's output is divided by √d_model before the output layer.
    """
    layers = config.get("num_layers", 6)
    return {
        "encoder": ({"layers": layers, "weights": "shared"},),
        "decoder": ({"layers": optional(config, "num_decoder_layers", layers), "weights": "shared"},)
        if contents.decoder
        else (),
        "width": config.get("d_model", 512),
        "heads": config.get("num_heads", 8),
        "head_width": config.get("d_kv", 64),
        "mlp_width": config.get("d_ff", 2048),
        "activation": lookup(ACTIVATIONS, "feed_forward_proj", config, feed_forward),
        "norm": "rms",
        "norm_position": "pre",
        "norm_epsilon": config.get("layer_norm_epsilon", 1e-6),
        "biases": (),
        "position": "relative",
        "relative": {
            "buckets": config.get("relative_attention_num_buckets", 32),
            "max_distance": config.get("relative_attention_max_distance", 128),
            "per_layer": per_layer,
        },
        "global_every": 1,
        "attention_scale": False,
        "norms": ("first_attention", "final") + (("output_scale",) if scaled else ()),
        "tied_embeddings": contents.tied,
        "head_transform": False,
        "dropout": float(config.get("dropout_rate", 0.1)),
    }


def describe(model: Any, facts: Facts) -> dict[str, Any]:
    """Return the config.json of a model of ours."""
    proj = reverse(ACTIVATIONS, model.activation)
    return {
        "vocab_size": facts.rows,
        "d_model": model.width,
        "d_kv": model.head_width or model.width // model.heads,
        "d_ff": model.mlp_width,
        "num_layers": sum(group["layers"] for group in model.encoder),
        "num_decoder_layers": sum(group["layers"] for group in model.decoder),
        "num_heads": model.heads,
        "relative_attention_num_buckets": model.relative["buckets"],
        "relative_attention_max_distance": model.relative["max_distance"],
        "dropout_rate": model.dropout,
        "layer_norm_epsilon": model.norm_epsilon,
        "feed_forward_proj": proj,
        "is_encoder_decoder": bool(model.decoder),
        "tie_word_embeddings": model.tied_embeddings,
        "pad_token_id": facts.ids.get("pad"),
        "eos_token_id": facts.ids.get("eos"),
        "decoder_start_token_id": facts.ids.get("start", facts.ids.get("pad")),
    }


def _family(
    model_type: str,
    name: str,
    *,
    rows: int,
    feed_forward: str,
    per_layer: bool,
    scaled: Callable[[Mapping[str, Any], Contents], bool],
    describe: Callable[[Any, Facts], dict[str, Any]] = describe,
) -> Family:
    return Family(
        model_type=model_type,
        base="",
        table=TABLE,
        settings=lambda config, contents: settings(
            config, contents, per_layer=per_layer, feed_forward=feed_forward, scaled=scaled(config, contents)
        ),
        describe=describe,
        architecture=lambda contents: f"{name}ForConditionalGeneration" if contents.decoder else f"{name}EncoderModel",
        facts=lambda config: Facts(rows=config.get("vocab_size", rows), ids=token_ids(config, pad=0, eos=1)),
        embedding="shared.weight",
        output="lm_head.weight",
        head=r"^lm_head\.",
        tied_if_missing=True,
        only_output=True,
        ignored={r"block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.": "an unused table of old files"},
        copies={
            "lm_head.weight": "shared.weight",
            "encoder.embed_tokens.weight": "shared.weight",
            "decoder.embed_tokens.weight": "shared.weight",
        },
    )


def t5_is_scaled(config: Mapping[str, Any], contents: Contents) -> bool:
    """Return whether T5 scales the decoder's output: as in transformers, by ``tie_word_embeddings``, tied weights or not."""
    return config.get("scale_decoder_outputs", config.get("tie_word_embeddings") is not False)


def umt5_is_scaled(config: Mapping[str, Any], contents: Contents) -> bool:
    """Return whether umT5 scales the decoder's output: the value in config.json, or else whether the weights are tied."""
    return config.get("scale_decoder_outputs", contents.tied)


def describe_t5(model: Any, facts: Facts) -> dict[str, Any]:
    """Return the config.json of a T5 or a umT5, in which tied means scaled."""
    scaled = "output_scale" in model.norms
    return describe(model, facts) | {"tie_word_embeddings": scaled, "scale_decoder_outputs": scaled}


FAMILIES = (
    _family("t5", "T5", rows=32128, feed_forward="relu", per_layer=False, scaled=t5_is_scaled, describe=describe_t5),
    _family("mt5", "MT5", rows=250112, feed_forward="gated-gelu", per_layer=False, scaled=lambda *_: False),
    _family(
        "umt5",
        "UMT5",
        rows=250112,
        feed_forward="gated-gelu",
        per_layer=True,
        scaled=umt5_is_scaled,
        describe=describe_t5,
    ),
)
