"""X-MOD (Pfeiffer et al. 2022): ``model_type`` "xmod"; its adapters, one for each language, become an indexed adapter of ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mlm_jax.interop.family import Contents, Entry, Facts, require, token_ids
from mlm_jax.interop.xlm_roberta import EMBEDDINGS, HEAD, LAYER, xlm_roberta_describe, xlm_roberta_settings
from mlm_jax.interop.xlm_roberta import FAMILY as XLM_ROBERTA

ADAPTER = "{base}encoder.layer.{layer}.output.adapter_modules.{language}"
ADAPTERS = (
    Entry(f"{ADAPTER}.dense1.weight", ("encoder/{layer}/adapter/weights/down/kernel",)),
    Entry(f"{ADAPTER}.dense1.bias", ("encoder/{layer}/adapter/weights/down/bias",)),
    Entry(f"{ADAPTER}.dense2.weight", ("encoder/{layer}/adapter/weights/up/kernel",)),
    Entry(f"{ADAPTER}.dense2.bias", ("encoder/{layer}/adapter/weights/up/bias",)),
)


def settings(config: Mapping[str, Any], contents: Contents) -> dict[str, Any]:
    """Return the settings of ``config.model`` for an X-MOD config.json."""
    require(
        config,
        {"adapter_layer_norm": False, "adapter_reuse_layer_norm": True, "ln_before_adapter": True, "pre_norm": False},
    )
    width = config.get("hidden_size", 768)
    group = {
        "layers": config.get("num_hidden_layers", 12),
        "weights": "shared",
        "adapter": width // config.get("adapter_reduction_factor", 2),
        "adapter_weights": "source_language",
        "adapter_norm": "reused",
    }
    return xlm_roberta_settings(config, contents) | {"encoder": (group,)}


def describe(model: Any, facts: Facts) -> dict[str, Any]:
    """Return the config.json of a model of ours."""
    adapter = model.encoder[0].get("adapter", 0) if model.encoder else 0
    return xlm_roberta_describe(model, facts) | {
        "adapter_layer_norm": False,
        "adapter_reuse_layer_norm": True,
        "ln_before_adapter": True,
        "pre_norm": False,
        "adapter_reduction_factor": model.width // adapter if adapter else 2,
        "languages": list(facts.languages),
    }


FAMILY = dataclasses.replace(  # like XLM-RoBERTa, except for the adapters
    XLM_ROBERTA,
    model_type="xmod",
    name="Xmod",
    table=EMBEDDINGS + LAYER + ADAPTERS + HEAD,
    settings=settings,
    describe=describe,
    architecture=lambda contents: "XmodForMaskedLM" if contents.head else "XmodModel",
    facts=lambda config: Facts(
        rows=config.get("vocab_size", 30522),
        languages=tuple(config.get("languages", ("en_XX",))),
        ids=token_ids(config, pad=1, bos=0, eos=2),
    ),
)
