"""XLM-RoBERTa (Conneau et al. 2020): ``model_type`` "xlm-roberta"; BERT and X-MOD share most of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlm_jax.common.errors import UserError
from mlm_jax.interop.family import Contents, Entry, Facts, Family, TaskHead, lookup, require, reverse, token_ids
from mlm_jax.interop.task_heads import DENSE, OUTPUT, QUESTION, SEQUENCE, TOKEN, layer

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}

EMBEDDINGS = (
    Entry("{base}embeddings.word_embeddings.weight", ("embedding",)),
    Entry("{base}embeddings.position_embeddings.weight", ("position_embedding",)),
    Entry("{base}embeddings.token_type_embeddings.weight", ("type_embedding",)),
    Entry("{base}embeddings.LayerNorm.weight", ("embedding_norm/scale",)),
    Entry("{base}embeddings.LayerNorm.bias", ("embedding_norm/bias",)),
)
LAYER = (
    *(
        Entry(
            f"{{base}}encoder.layer.{{layer}}.attention.self.{part}.{theirs}",
            (f"encoder/{{layer}}/attention/{part}/{ours}",),
        )
        for part in ("query", "key", "value")
        for theirs, ours in (("weight", "kernel"), ("bias", "bias"))
    ),
    Entry(
        "{base}encoder.layer.{layer}.attention.output.dense.weight",
        ("encoder/{layer}/attention/output/kernel",),
        inputs=2,
    ),
    Entry("{base}encoder.layer.{layer}.attention.output.dense.bias", ("encoder/{layer}/attention/output/bias",)),
    Entry("{base}encoder.layer.{layer}.attention.output.LayerNorm.weight", ("encoder/{layer}/attention_norm/scale",)),
    Entry("{base}encoder.layer.{layer}.attention.output.LayerNorm.bias", ("encoder/{layer}/attention_norm/bias",)),
    Entry("{base}encoder.layer.{layer}.intermediate.dense.weight", ("encoder/{layer}/mlp/up/kernel",)),
    Entry("{base}encoder.layer.{layer}.intermediate.dense.bias", ("encoder/{layer}/mlp/up/bias",)),
    Entry("{base}encoder.layer.{layer}.output.dense.weight", ("encoder/{layer}/mlp/down/kernel",)),
    Entry("{base}encoder.layer.{layer}.output.dense.bias", ("encoder/{layer}/mlp/down/bias",)),
    Entry("{base}encoder.layer.{layer}.output.LayerNorm.weight", ("encoder/{layer}/mlp_norm/scale",)),
    Entry("{base}encoder.layer.{layer}.output.LayerNorm.bias", ("encoder/{layer}/mlp_norm/bias",)),
)
HEAD = (
    Entry("lm_head.dense.weight", ("head/dense/kernel",)),
    Entry("lm_head.dense.bias", ("head/dense/bias",)),
    Entry("lm_head.layer_norm.weight", ("head/norm/scale",)),
    Entry("lm_head.layer_norm.bias", ("head/norm/bias",)),
    Entry("lm_head.decoder.weight", ("output",)),
    Entry("lm_head.bias", ("output_bias",), unless="output"),
    Entry("lm_head.decoder.bias", ("output_bias",), only="output"),
    Entry("lm_head.bias", ("output_bias",), only="output", copy=True),  # in the file, but unused by an untied head
)
# Tensors in files of this kind that a language model does not need.
IGNORED = {
    r"\.position_ids$|\.token_type_ids$": "a buffer of consecutive numbers",
    r"(^|\.)pooler\.": "the pooler of next-sentence prediction, which language modelling does not use",
}


def settings(config: Mapping[str, Any], contents: Contents) -> dict[str, Any]:
    """Return the settings of ``config.model`` for a config.json of this kind; positions begin at row 0."""
    require(config, {"is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute"})
    return {
        "encoder": ({"layers": config.get("num_hidden_layers", 12), "weights": "shared"},),
        "decoder": (),
        "width": config.get("hidden_size", 768),
        "heads": config.get("num_attention_heads", 12),
        "mlp_width": config.get("intermediate_size", 3072),
        "activation": lookup(ACTIVATIONS, "hidden_act", config, "gelu"),
        "norm": "layer",
        "norm_position": "post",
        "norm_epsilon": config.get("layer_norm_eps", 1e-12),
        "biases": ("norm", "attention", "mlp") + (("head",) if contents.head else ()),
        "position": "learned",
        "max_positions": config.get("max_position_embeddings", 512),
        "position_offset": 0,
        "global_every": 1,
        "embedding_types": config.get("type_vocab_size", 2),
        "norms": ("embedding",),
        "tied_embeddings": contents.tied,
        "head_transform": contents.head,
        "dropout": float(config.get("hidden_dropout_prob", 0.1)),
        "initializer_stddev": config.get("initializer_range", 0.02),
    }


def describe(model: Any, facts: Facts) -> dict[str, Any]:
    """Return the config.json of a model of ours."""
    return {
        "vocab_size": facts.rows,
        "hidden_size": model.width,
        "num_hidden_layers": sum(group["layers"] for group in model.encoder),
        "num_attention_heads": model.heads,
        "intermediate_size": model.mlp_width,
        "hidden_act": reverse(ACTIVATIONS, model.activation),
        "hidden_dropout_prob": model.dropout,
        "attention_probs_dropout_prob": 0.0,  # we have none
        "max_position_embeddings": model.max_positions,
        "type_vocab_size": model.embedding_types,
        "initializer_range": model.initializer_stddev,
        "layer_norm_eps": model.norm_epsilon,
        "tie_word_embeddings": model.tied_embeddings,
        **{f"{name}_token_id": facts.ids.get(name) for name in ("pad", "bos", "eos")},
    }


def xlm_roberta_settings(config: Mapping[str, Any], contents: Contents) -> dict[str, Any]:
    """Return the settings: positions begin after that of padding, and the activation of the head is always GELU."""
    if contents.head:
        require(config, {"hidden_act": "gelu"})
    pad = token_ids(config, pad=1).get("pad")
    if pad is None:
        raise UserError("pad_token_id is null; positions are counted from it")
    if pad + 1 >= config.get("max_position_embeddings", 512):
        raise UserError(f"pad_token_id is {pad}; positions are counted from it, and the model has fewer")
    return settings(config, contents) | {"position_offset": pad + 1}


def xlm_roberta_describe(model: Any, facts: Facts) -> dict[str, Any]:
    """Return the config.json of a model of ours; if there is a head, it cannot have another activation."""
    described = describe(model, facts)
    return described | {"hidden_act": "gelu"} if Contents.of_model(model).head else described


HEADS = (
    TaskHead(
        SEQUENCE,
        (*layer("classifier.dense", DENSE), *layer("classifier.out_proj", OUTPUT)),
        transform="tanh",
        poolings={"first": {}},
    ),
    TaskHead(TOKEN, layer("classifier", OUTPUT)),
    TaskHead(QUESTION, layer("qa_outputs", OUTPUT)),
)


def first_position(facts: Facts) -> int:
    """Return the row of the first position, which is after that of padding."""
    return facts.ids.get("pad", 1) + 1


FAMILY = Family(
    model_type="xlm-roberta",
    base="roberta.",
    table=EMBEDDINGS + LAYER + HEAD,
    settings=xlm_roberta_settings,
    describe=xlm_roberta_describe,
    architecture=lambda contents: "XLMRobertaForMaskedLM" if contents.head else "XLMRobertaModel",
    facts=lambda config: Facts(rows=config.get("vocab_size", 30522), ids=token_ids(config, pad=1, bos=0, eos=2)),
    embedding="{base}embeddings.word_embeddings.weight",
    output="lm_head.decoder.weight",
    head=r"^lm_head\.",
    name="XLMRoberta",
    heads=HEADS,
    first_position=first_position,
    ignored=IGNORED,
    copies={
        "lm_head.decoder.weight": "{base}embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
)
