"""T5 (v1.0: tied and scaled; v1.1: neither) against transformers."""

import pytest
from transformers import T5Config, T5ForConditionalGeneration

from tests.interop import parity
from tests.interop.t5_checks import EncoderDecoderChecks, ends_more_often

CONFIGS = {
    "v1.0": {
        "vocab_size": 61,
        "d_model": 24,
        "d_kv": 10,
        "d_ff": 44,
        "num_layers": 3,
        "num_decoder_layers": 2,
        "num_heads": 3,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 12,
    },
    "v1.1": {
        "vocab_size": 50,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 20,
        "num_layers": 2,
        "num_heads": 4,
        "tie_word_embeddings": False,
        "feed_forward_proj": "gated-gelu",
    },
    "swish, one head": {
        "vocab_size": 47,
        "d_model": 20,
        "d_kv": 16,
        "d_ff": 36,
        "num_layers": 3,
        "num_decoder_layers": 3,
        "num_heads": 1,
        "relative_attention_num_buckets": 16,
        "feed_forward_proj": "gated-silu",
        "layer_norm_epsilon": 1e-4,
    },
}


def make(name):
    """transformers' model of a configuration, with random weights."""
    config = T5Config(**CONFIGS[name], decoder_start_token_id=0)
    model = parity.random_model(T5ForConditionalGeneration, config, untied=name == "v1.1")
    ends_more_often(model)
    return model


@pytest.fixture(params=CONFIGS, scope="module")
def pair(request, tmp_path_factory):
    model = make(request.param)
    return model, parity.load(parity.save(model, tmp_path_factory.mktemp("theirs")))


class TestT5(EncoderDecoderChecks):
    family = "t5"
