"""XLM-RoBERTa against transformers."""

import pytest
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

from tests.interop import parity
from tests.interop.encoder_checks import EncoderChecks

CONFIGS = {
    "as published": {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 44,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "max_position_embeddings": 31,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
    },
    "untied, two types": {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 40,
        "type_vocab_size": 2,
        "tie_word_embeddings": False,
    },
    "padding is 0, one head": {
        "vocab_size": 47,
        "hidden_size": 20,
        "intermediate_size": 52,
        "num_hidden_layers": 4,
        "num_attention_heads": 1,
        "max_position_embeddings": 35,
        "type_vocab_size": 3,
        "pad_token_id": 0,
        "bos_token_id": 3,
        "eos_token_id": 1,
    },
}


def make(name):
    """transformers' model of a configuration, with random weights."""
    config = XLMRobertaConfig(**CONFIGS[name])
    model = parity.random_model(XLMRobertaForMaskedLM, config)
    if not config.tie_word_embeddings:  # transformers keeps a bias here that nothing reads
        model.lm_head.bias.data.copy_(model.lm_head.decoder.bias.data)
    return model


@pytest.fixture(params=CONFIGS, scope="module")
def pair(request, tmp_path_factory):
    model = make(request.param)
    return model, parity.load(parity.save(model, tmp_path_factory.mktemp("theirs")))


class TestXlmRoberta(EncoderChecks):
    family = "xlm-roberta"
    pad = 1

    def rows(self, model):
        return parity.random_rows(model.config.vocab_size, pad=model.config.pad_token_id)

    def inputs(self, model, rows, packed):
        return parity.their_inputs(rows, packed=packed, offset=model.config.pad_token_id + 1)
