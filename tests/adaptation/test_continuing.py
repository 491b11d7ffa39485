"""A config that goes on with a model: the same architecture and vocabulary, and weights that fit."""

import pytest

from mlm_jax.adaptation.continuing import continued_config, head_options
from mlm_jax.checkpoints.checkpoint import load_parameters
from mlm_jax.common.errors import UserError
from mlm_jax.data.vocabulary.folder import load_vocabulary
from mlm_jax.interop.importing import import_hf
from mlm_jax.training.check import check_config
from tests.interop.published import published

TOKENS = {"xlm-roberta": {"transform": "none"}, "modernbert": {"transform": "head"}}
SEQUENCES = {
    "xlm-roberta": {"transform": "tanh", "pooling": "first"},
    "modernbert": {"transform": "head", "pooling": "mean"},
}


@pytest.mark.parametrize("kind", ["xlm-roberta", "modernbert"])
def test_the_model_and_vocabulary_of_a_checkpoint(kind, tmp_path):
    published(tmp_path / "theirs", kind)
    workdir = import_hf(tmp_path / "theirs", tmp_path / "ours", languages=("de",))
    there = load_parameters(workdir)
    for place in (workdir, workdir / "checkpoints" / "0"):
        config = continued_config(place)
        assert config.model.to_dict() == there.config.model.to_dict()
        assert config.data.prefix == there.config.data.prefix and config.vocabulary.size == there.vocabulary.size
        assert load_vocabulary(config.vocabulary.path).fingerprint == there.vocabulary.fingerprint
        assert config.checkpoint.init["from"] == str(place)
    config.data.corpora = {"de": "de.txt"}
    check_config(config)
    assert config.tasks["mlm"]["length"] <= 64  # the model's longest row
    assert head_options(workdir, "token_classification") == TOKENS[kind]
    assert head_options(workdir, "classification") == SEQUENCES[kind]
    with pytest.raises(UserError, match="there is no vocabulary here"):
        continued_config(workdir, vocabulary=tmp_path)
    (workdir / "vocabulary" / "vocabulary.json").unlink()
    with pytest.raises(UserError, match="is in none of the folders"):
        continued_config(workdir / "checkpoints" / "0")
