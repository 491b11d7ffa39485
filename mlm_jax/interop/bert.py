"""BERT and multilingual BERT (Devlin et al. 2019): ``model_type`` "bert"."""

from __future__ import annotations

from mlm_jax.interop.family import Entry, Facts, Family, TaskHead, token_ids
from mlm_jax.interop.task_heads import DENSE, OUTPUT, QUESTION, SEQUENCE, TOKEN, layer
from mlm_jax.interop.xlm_roberta import EMBEDDINGS, IGNORED, LAYER, describe, settings

HEAD = (
    Entry("cls.predictions.transform.dense.weight", ("head/dense/kernel",)),
    Entry("cls.predictions.transform.dense.bias", ("head/dense/bias",)),
    Entry("cls.predictions.transform.LayerNorm.weight", ("head/norm/scale",)),
    Entry("cls.predictions.transform.LayerNorm.bias", ("head/norm/bias",)),
    Entry("cls.predictions.decoder.weight", ("output",)),
    Entry("cls.predictions.bias", ("output_bias",), unless="output"),
    Entry("cls.predictions.decoder.bias", ("output_bias",), only="output"),
    # It is in the file, but an untied head does not use it.
    Entry("cls.predictions.bias", ("output_bias",), only="output", copy=True),
)


FAMILY = Family(
    model_type="bert",
    base="bert.",
    table=EMBEDDINGS + LAYER + HEAD,
    settings=settings,
    describe=describe,
    architecture=lambda contents: "BertForMaskedLM" if contents.head else "BertModel",
    facts=lambda config: Facts(rows=config.get("vocab_size", 30522), ids=token_ids(config, pad=0)),
    embedding="{base}embeddings.word_embeddings.weight",
    output="cls.predictions.decoder.weight",
    head=r"^cls\.predictions\.",
    ignored=IGNORED | {r"^cls\.seq_relationship\.": "next-sentence prediction"},
    copies={
        "cls.predictions.decoder.weight": "{base}embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    name="Bert",
    heads=(
        TaskHead(
            SEQUENCE,
            (*layer("{base}pooler.dense", DENSE), *layer("classifier", OUTPUT)),
            transform="tanh",
            poolings={"first": {}},
        ),
        TaskHead(TOKEN, layer("classifier", OUTPUT)),
        TaskHead(QUESTION, layer("qa_outputs", OUTPUT)),
    ),
    renamed=((r"\.gamma$", ".weight"), (r"\.beta$", ".bias")),
)
