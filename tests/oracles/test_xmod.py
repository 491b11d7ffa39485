"""X-MOD against transformers, which goes through the adapters in a loop: rows of three languages in one batch."""

import numpy as np
import pytest
from transformers import XmodConfig, XmodForMaskedLM

from mlm_jax.common.errors import UserError
from tests.interop import parity
from tests.interop.encoder_checks import EncoderChecks

LANGUAGES = ["en_XX", "de_DE", "ar_AR"]
CONFIGS = {
    "as published": {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 44,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "max_position_embeddings": 31,
        "type_vocab_size": 1,
        "adapter_reduction_factor": 2,
    },
    "narrow adapters, untied": {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 40,
        "adapter_reduction_factor": 5,
        "tie_word_embeddings": False,
        "layer_norm_eps": 1e-4,
    },
    "padding is 0, one head": {
        "vocab_size": 47,
        "hidden_size": 20,
        "intermediate_size": 52,
        "num_hidden_layers": 4,
        "num_attention_heads": 1,
        "max_position_embeddings": 35,
        "adapter_reduction_factor": 4,
        "pad_token_id": 0,
        "bos_token_id": 3,
        "eos_token_id": 1,
    },
}


def make(name):
    """transformers' model of a configuration, with random weights."""
    config = XmodConfig(**CONFIGS[name], languages=LANGUAGES)
    model = parity.random_model(XmodForMaskedLM, config)
    if not config.tie_word_embeddings:  # transformers keeps a bias here that nothing reads
        model.lm_head.bias.data.copy_(model.lm_head.decoder.bias.data)
    return model


@pytest.fixture(params=CONFIGS, scope="module")
def pair(request, tmp_path_factory):
    model = make(request.param)
    return model, parity.load(parity.save(model, tmp_path_factory.mktemp("theirs")))


class TestXmod(EncoderChecks):
    family = "xmod"
    languages = len(LANGUAGES)

    def rows(self, model):
        return parity.random_rows(model.config.vocab_size, languages=len(LANGUAGES), pad=model.config.pad_token_id)

    def inputs(self, model, rows, packed):
        return parity.their_inputs(rows, packed=packed, offset=model.config.pad_token_id + 1, xmod=True)

    def test_each_language_has_its_own_adapter(self, pair):
        """The same tokens in another language come out differently, and the adapters sit in our stack of languages."""
        model, ours = pair
        assert ours.languages == tuple(LANGUAGES)
        rows = parity.unpacked(self.rows(model))
        other = rows._replace(language=(rows.language + 1) % len(LANGUAGES))
        assert np.abs(ours.logits(rows) - ours.logits(other)).max() > 0.1
        kernel = ours.params["encoder"]["0"]["layers"]["adapter"]["weights"]["down"]["kernel"]
        theirs = model.roberta.encoder.layer[1].output.adapter_modules["ar_AR"].dense1.weight
        np.testing.assert_array_equal(kernel[1, 2], theirs.detach().numpy().T)


@pytest.mark.parametrize("key", ["pre_norm", "adapter_layer_norm"])
def test_other_kinds_are_refused_by_their_key(key, tmp_path):
    config = XmodConfig(**CONFIGS["as published"], languages=LANGUAGES, **{key: True})
    parity.save(parity.random_model(XmodForMaskedLM, config), tmp_path)
    with pytest.raises(UserError, match=f"config.json: {key} is True, which has no counterpart here"):
        parity.load(tmp_path)
