"""BERT against transformers."""

import pytest
from transformers import BertConfig, BertForMaskedLM

from tests.interop import parity
from tests.interop.encoder_checks import EncoderChecks

CONFIGS = {
    "as published": {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 44,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "max_position_embeddings": 30,
    },
    "relu, untied": {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 20,
        "hidden_act": "relu",
        "tie_word_embeddings": False,
        "type_vocab_size": 1,
    },
    "tanh approximation of gelu": {
        "vocab_size": 47,
        "hidden_size": 20,
        "intermediate_size": 52,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "max_position_embeddings": 35,
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-4,
    },
}


def make(name):
    """transformers' model of a configuration, with random weights."""
    config = BertConfig(**CONFIGS[name])
    model = parity.random_model(BertForMaskedLM, config)
    if not config.tie_word_embeddings:  # transformers keeps a bias here that nothing reads
        model.cls.predictions.bias.data.copy_(model.cls.predictions.decoder.bias.data)
    return model


@pytest.fixture(params=CONFIGS, scope="module")
def pair(request, tmp_path_factory):
    model = make(request.param)
    return model, parity.load(parity.save(model, tmp_path_factory.mktemp("theirs")))


class TestBert(EncoderChecks):
    family = "bert"
