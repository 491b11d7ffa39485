"""mT5 against transformers: never scaled, its own output layer where published."""

import pytest
from transformers import MT5Config, MT5ForConditionalGeneration

from tests.interop import parity
from tests.interop.t5_checks import EncoderDecoderChecks, ends_more_often

CONFIGS = {
    "as published": {
        "vocab_size": 61,
        "d_model": 24,
        "d_kv": 10,
        "d_ff": 44,
        "num_layers": 2,
        "num_heads": 3,
        "tie_word_embeddings": False,
    },
    "tied, few buckets": {
        "vocab_size": 50,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 20,
        "num_layers": 3,
        "num_decoder_layers": 1,
        "num_heads": 4,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 9,
    },
    "relu": {
        "vocab_size": 47,
        "d_model": 20,
        "d_kv": 16,
        "d_ff": 36,
        "num_layers": 3,
        "num_decoder_layers": 2,
        "num_heads": 2,
        "feed_forward_proj": "relu",
        "layer_norm_epsilon": 1e-4,
    },
}


def make(name):
    """transformers' model of a configuration, with random weights."""
    config = MT5Config(**CONFIGS[name])
    model = parity.random_model(MT5ForConditionalGeneration, config, seed=2, untied=name == "as published")
    ends_more_often(model)
    return model


@pytest.fixture(params=CONFIGS, scope="module")
def pair(request, tmp_path_factory):
    model = make(request.param)
    return model, parity.load(parity.save(model, tmp_path_factory.mktemp("theirs")))


class TestMt5(EncoderDecoderChecks):
    family = "mt5"
