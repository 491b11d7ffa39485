"""ModernBERT and mmBERT against transformers."""

import pytest
from transformers import ModernBertConfig, ModernBertForMaskedLM

from tests.interop import parity
from tests.interop.encoder_checks import EncoderChecks

IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
CONFIGS = {
    "every third layer global": {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "local_attention": 6,
        "max_position_embeddings": 40,
    },
    "all biases, tanh, untied": {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 36,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "local_attention": 9,
        "global_attn_every_n_layers": 2,
        "norm_bias": True,
        "attention_bias": True,
        "mlp_bias": True,
        "classifier_bias": True,
        "hidden_activation": "gelu_pytorch_tanh",
        "classifier_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": False,
        "norm_eps": 1e-3,
    },
    "swish, own frequencies, no output bias": {
        "vocab_size": 47,
        "hidden_size": 40,
        "intermediate_size": 28,
        "num_hidden_layers": 3,
        "num_attention_heads": 5,
        "local_attention": 4,
        "global_attn_every_n_layers": 4,
        "decoder_bias": False,
        "hidden_activation": "silu",
        "classifier_activation": "silu",
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 500.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 70.0},
        },
    },
}


def make(name):
    """transformers' model of a configuration, with random weights."""
    model = parity.random_model(ModernBertForMaskedLM, ModernBertConfig(**CONFIGS[name], **IDS))
    return model


@pytest.fixture(params=CONFIGS, scope="module")
def pair(request, tmp_path_factory):
    model = make(request.param)
    return model, parity.load(parity.save(model, tmp_path_factory.mktemp("theirs")))


class TestModernBert(EncoderChecks):
    family = "modernbert"

    def inputs(self, model, rows, packed):
        return parity.their_inputs(rows, packed=packed, window=model.config.local_attention, window_kinds=True)
