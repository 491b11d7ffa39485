"""A config that continues the training of a model: the same architecture and vocabulary, and weights that fit."""

import shutil
from pathlib import Path

import pytest

from mlm_jax.adaptation.continuing import continued_config, head_options
from mlm_jax.adaptation.grow_model import grow
from mlm_jax.checkpoints.checkpoint import load_parameters
from mlm_jax.common.errors import UserError
from mlm_jax.config import load_config
from mlm_jax.data.vocabulary.folder import load_vocabulary
from mlm_jax.interop.importing import import_hf
from mlm_jax.training.check import check_config
from tests.interop.published import published, sentences

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
    with pytest.raises(UserError, match="none of the folders of the checkpoint.s run contains its vocabulary"):
        continued_config(workdir / "checkpoints" / "0")


@pytest.mark.parametrize("kind", ["xlm-roberta", "modernbert"])
def test_the_config_of_the_whole_path(kind, tmp_path):
    """Each stage of configs/adapt.py fits the folders that the commands before it leave."""
    published(tmp_path / "theirs", kind)
    model = import_hf(tmp_path / "theirs", tmp_path / "model", languages=("en",))
    (tmp_path / "tl.txt").write_text("\n".join(sentences(60)), encoding="utf-8")
    grow(model, "tl", str(tmp_path / "tl.txt"), tmp_path / "vocabulary", pieces=20)
    recipe = f"{Path(__file__).parents[2]}/configs/adapt.py"
    grown = load_vocabulary(tmp_path / "vocabulary")
    for stage in ("continue", "rows"):
        config = load_config(f"{recipe}:{stage},{tmp_path}")
        check_config(config)
        assert config.vocabulary.size == grown.size and sum(config.mixing.rates.values()) == 1
        assert config.checkpoint.init["from"] == str(model)
    (_, rows), _ = config.optimizer.freeze_table
    old = rows if isinstance(rows, int) else sum(behind - first for first, behind in rows)
    assert old == grown.size - 20
    shutil.copytree(model, tmp_path / "continued")
    for task, options in (("topic", SEQUENCES), ("entities", TOKENS)):
        config = load_config(f"{recipe}:{task},{tmp_path}")
        check_config(config)
        assert options[kind].items() <= config.tasks[task].items()
    shutil.rmtree(tmp_path / "vocabulary")  # without grow, the model's own
    assert load_config(f"{recipe}:continue,{tmp_path}").vocabulary.size == load_parameters(model).vocabulary.size
    with pytest.raises(UserError, match="the vocabulary has no new pieces"):
        load_config(f"{recipe}:rows,{tmp_path}")
    with pytest.raises(UserError, match="no stage 'continued'; did you mean 'continue'"):
        load_config(f"{recipe}:continued,{tmp_path}")
    for stage in ("continue", "rows"):  # without a model, the run imports, trims and grows one itself
        adapt = load_config(f"{recipe}:{stage},{tmp_path}/elsewhere").adapt
        assert adapt.model == "FacebookAI/xlm-roberta-base" and {*adapt.trim} == {"tl", "en"}
        assert adapt.grow["language"] == "tl" and adapt.only_new == (stage == "rows")
