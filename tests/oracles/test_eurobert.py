"""EuroBERT against transformers."""

import pytest
from transformers import EuroBertConfig, EuroBertForMaskedLM

from tests.interop import parity
from tests.interop.encoder_checks import EncoderChecks

IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "mask_token_id": 3}
CONFIGS = {
    "grouped keys and values": {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 44,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 250.0},
    },
    "tied, wide heads": {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "head_dim": 12,
        "tie_word_embeddings": True,
        "max_position_embeddings": 99,
    },
    "all biases, one key head": {
        "vocab_size": 47,
        "hidden_size": 20,
        "intermediate_size": 52,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "attention_bias": True,
        "mlp_bias": True,
        "hidden_act": "gelu",
        "rms_norm_eps": 1e-3,
    },
}


def make(name):
    """transformers' model of a configuration, with random weights."""
    model = parity.random_model(EuroBertForMaskedLM, EuroBertConfig(**CONFIGS[name], **IDS))
    return model


@pytest.fixture(params=CONFIGS, scope="module")
def pair(request, tmp_path_factory):
    model = make(request.param)
    return model, parity.load(parity.save(model, tmp_path_factory.mktemp("theirs")))


class TestEuroBert(EncoderChecks):
    family = "eurobert"
