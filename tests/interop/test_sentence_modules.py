"""sentence-transformers: the pooling of a folder is ours, and ours is that of the folder that we write."""

import json

import numpy as np
import pytest
import sentence_transformers
from sentence_transformers.models import Dense, Normalize, Pooling, Transformer

import mlm_jax
from mlm_jax.common.errors import UserError
from mlm_jax.interop.exporting import export_hf
from mlm_jax.interop.importing import import_hf
from tests.interop.edits import edit_json
from tests.interop.published import published, sentences

TEXTS = [text[:50] for text in sentences(3000)[:7]]


def written(folder, kind, *modules, mode="mean"):
    """A folder that sentence-transformers wrote, around a random model of this kind."""
    published(folder / "plain", kind)
    body = Transformer(str(folder / "plain"))
    encoder = sentence_transformers.SentenceTransformer(
        modules=[body, Pooling(32, pooling_mode=mode), *modules], device="cpu"
    )
    encoder.save(str(folder / "theirs"))
    return encoder


@pytest.mark.parametrize("mode", ["mean", "cls"])
@pytest.mark.parametrize("kind", ["xlm-roberta", "bert", "modernbert"])
def test_pooling_in_and_out(kind, mode, tmp_path):
    theirs = written(tmp_path, kind, mode=mode).encode(TEXTS)
    ours = import_hf(tmp_path / "theirs", tmp_path / "ours")
    np.testing.assert_allclose(mlm_jax.load(ours).embed(TEXTS), theirs, atol=1e-4)
    again = sentence_transformers.SentenceTransformer(str(export_hf(ours, tmp_path / "out")), device="cpu")
    np.testing.assert_allclose(again.encode(TEXTS), theirs, atol=1e-4)


def test_old_spellings(tmp_path):
    """Releases before 5 wrote a key for each mode."""
    theirs = written(tmp_path, "bert", mode="cls").encode(TEXTS)
    (tmp_path / "theirs" / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    )
    np.testing.assert_allclose(
        mlm_jax.load(import_hf(tmp_path / "theirs", tmp_path / "ours")).embed(TEXTS), theirs, atol=1e-4
    )


@pytest.mark.parametrize("mode", ["max", "lasttoken", ("mean", "cls")])
def test_other_pooling_is_refused(mode, tmp_path):
    published(tmp_path / "plain", "bert")
    body = Transformer(str(tmp_path / "plain"))
    modules = [body, Pooling(32, pooling_mode=mode)]
    sentence_transformers.SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "theirs"))
    with pytest.raises(UserError, match="1_Pooling/config.json: pooling is .* no counterpart here. Remedy: "):
        import_hf(tmp_path / "theirs", tmp_path / "ours")


def test_what_is_left_out_is_said(tmp_path, caplog):
    written(tmp_path, "bert", Dense(32, 16), Normalize())
    edit_json("sentence_bert_config.json", do_lower_case=True)(tmp_path / "theirs")
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    edit_json("config_sentence_transformers.json", **prompts, truncate_dim=8)(tmp_path / "theirs")
    edit_json("tokenizer_config.json", model_max_length=20)(tmp_path / "theirs")
    import_hf(tmp_path / "theirs", tmp_path / "ours")
    for part in (
        "left out: Dense",
        "left out: Normalize",
        "cuts texts at 20 tokens; embed reads up to 64",
        "do_lower_case of sentence_bert_config.json is left out",
        "write 'query: ' before each text",
        "not the first 8",
    ):
        assert part in caplog.text
    edit_json("sentence_bert_config.json", max_seq_length=30)(tmp_path / "theirs")
    import_hf(tmp_path / "theirs", tmp_path / "again")
    assert "cuts texts at 30 tokens" in caplog.text
    (tmp_path / "theirs" / "sentence_bert_config.json").write_text("[]")
    with pytest.raises(UserError, match="sentence_bert_config.json: this is not a JSON object"):
        import_hf(tmp_path / "theirs", tmp_path / "other")
