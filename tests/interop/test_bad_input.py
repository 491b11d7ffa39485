"""Damaged models and wrong arguments: import-hf and export-hf say so in one line, and write nothing."""

import errno
import json
import re
import shutil

import numpy as np
import pytest
import safetensors

from mlm_jax import cli
from mlm_jax.common.errors import UserError
from mlm_jax.interop.exporting import export_hf
from mlm_jax.interop.family import Contents, ForeignConfig
from mlm_jax.interop.importing import import_hf
from mlm_jax.interop.weights import FAMILIES
from tests.interop.edits import (
    cut_short,
    edit_json,
    edit_tensor,
    other_tokenizer,
    shards,
    swap,
    template,
    text,
    without,
)

NORM = "model.layers.2.mlp_norm.weight"

BAD = {
    "truncated safetensors": (cut_short, "model.safetensors: the file is cut short"),
    "not safetensors": (text("model.safetensors", "<html>"), "cut short or not in the safetensors"),
    "no safetensors": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        "model.safetensors is missing; pytorch_model.bin is a pickle",
    ),
    "a shard that is not there": (
        shards('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'),
        "model-00001-of-00002.safetensors is missing",
    ),
    "index is not JSON": (shards("{"), "index.json: this is not JSON"),
    "wrong shape": (
        edit_tensor(swap),
        r"'model.layers.1.mlp.Wo.weight' is of shape \[40, 32\], but config.json asks for \[32, 40\]",
    ),
    "missing tensor": (edit_tensor(lambda tensors: tensors.pop(NORM)), f"tensor '{NORM}' is missing"),
    "left over": (
        edit_tensor(lambda tensors: tensors.update({"model.layers.2.mlp.extra": np.ones(3, np.float32)})),
        "'model.layers.2.mlp.extra' has no place",
    ),
    "quantised": (
        edit_tensor(lambda tensors: tensors.update({NORM: np.ones(32, np.int8)})),
        f"'{NORM}' is of type I8",
    ),
    "unknown model_type": (
        edit_json("config.json", model_type="modernbort"),
        "model_type 'modernbort' is unknown here; did you mean 'modernbert'",
    ),
    "no model_type": (text("config.json", "[]"), "config.json: this is not the configuration of a model"),
    "no config.json": (without("config.json"), "there is no config.json"),
    "tokenizer of another vocabulary": (
        other_tokenizer,
        "the tokenizer has 1500 pieces, but the model's table of embeddings 1200 rows",
    ),
    "no tokenizer": (without("tokenizer.json"), "there is no tokenizer"),
    "broken tokenizer": (text("tokenizer.json", "{"), "tokenizer.json: this is not JSON"),
    "nothing ends a text": (template("bos $A", bos=2), "writes <bos> before a text and nothing after it"),
    "two tokens before a text": (
        template("bos mask $A eos", bos=2, mask=4, eos=1),
        "writes <bos> <mask> before a text",
    ),
    "a null that is counted with": (
        edit_json("config.json", local_attention=None),
        "config.json: local_attention is null; it must be a whole number from 1 to 2³¹",
    ),
    "a number in quotes": (
        edit_json("config.json", num_attention_heads="2"),
        'num_attention_heads is "2"; it must be a whole',
    ),
    "a yes in quotes": (
        edit_json("config.json", attention_bias="false"),
        'attention_bias is "false"; it must be true or false',
    ),
    "no heads": (edit_json("config.json", num_attention_heads=0), "num_attention_heads is 0; it must be a whole"),
    "a list of frequencies": (
        edit_json("config.json", rope_parameters=[1]),
        "rope_parameters is .1.; it must be an object",
    ),
    "a token that is no number": (
        edit_json("config.json", pad_token_id="0"),
        'pad_token_id is "0"; it must be the number of a token',
    ),
    "a tokenizer's settings that are a list": (
        text("tokenizer_config.json", "[1]"),
        "tokenizer_config.json: this is not a JSON obj",
    ),
    "a piece that is none": (
        edit_json("tokenizer_config.json", mask_token={"a": 1}),
        "tokenizer_config.json: mask_token is",
    ),
    "a shard without a name": (shards('{"weight_map": {"a": 1}}'), "index.json: not an index"),
    "an activation that we lack": (
        edit_json("config.json", hidden_activation="quick_gelu"),
        "config.json: hidden_activation is 'quick_gelu'",
    ),
    "stretched frequencies": (
        edit_json("config.json", rope_parameters={"full_attention": {"rope_type": "yarn"}}),
        "rope_type is 'yarn'",
    ),
    "uneven layers": (
        edit_json("config.json", layer_types=["sliding_attention", "full_attention", "full_attention"]),
        "does not have full attention at every n-th layer",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(fault, good, tmp_path, capsys):
    damage, message = BAD[fault]
    shutil.copytree(good, tmp_path / "bad")
    damage(tmp_path / "bad")
    assert cli.main(["import-hf", str(tmp_path / "bad"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and re.search(message, error[0]), error
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("xlm-roberta", "pad_token_id", None),
        ("bert", "hidden_dropout_prob", None),
        ("eurobert", "vocab_size", None),
        ("xmod", "languages", None),
        ("xmod", "adapter_reduction_factor", 0),
    ],
)
def test_damaged_values_are_named(kind, key, value):
    config = ForeignConfig({key: value})
    with pytest.raises(UserError, match=f"{key} is {json.dumps(value)}; "):
        FAMILIES[kind].facts(config)
        FAMILIES[kind].settings(config, Contents())


def test_other_refusals(good, tmp_path, monkeypatch, capsys):
    def fails(*arguments, match):
        assert cli.main([*map(str, arguments)]) == 2
        line = capsys.readouterr().err.strip().splitlines()
        assert len(line) == 1 and match in line[0], line

    fails("import-hf", tmp_path / "nowhere", "--out", tmp_path / "out", match="there is no such folder")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    fails("import-hf", "nobody/nothing", "--out", tmp_path / "out", match="the Hugging Face Hub cannot be reached")
    fails("import-hf", good, "--out", tmp_path / "out", "--languages", "de,en,de", match="'de' is named twice")
    fails("import-hf", good, "--out", tmp_path / "out", "--languages", "de,e n", match="'e n' has white space")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    fails("import-hf", good, "--out", tmp_path / "taken", match="already exists and is not an empty folder")
    assert cli.main(["import-hf", str(good), "--out", str(tmp_path / "ours")]) == 0
    capsys.readouterr()
    fails(
        "export-hf",
        tmp_path / "ours",
        "--out",
        tmp_path / "out",
        "--dtype",
        "int8",
        match="cannot be written as 'int8'",
    )
    fails(
        "export-hf",
        tmp_path / "ours",
        "--out",
        tmp_path / "out",
        "--family",
        "modernbrt",
        match="did you mean 'modernbert'",
    )
    fails(
        "export-hf",
        tmp_path / "ours",
        "--out",
        tmp_path / "out",
        "--language",
        "de",
        match="does not know the language 'de'",
    )
    fails("export-hf", tmp_path / "nowhere", "--out", tmp_path / "out", match="there is no checkpoint here")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "taken"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_leaves_nothing(error, good, tmp_path, monkeypatch):
    """The error that the system gives, or safetensors' own, at the moment when weights are written."""
    import_hf(good, tmp_path / "ours")
    if isinstance(error, RuntimeError):
        error = safetensors.SafetensorError(str(error))

    def full(*arguments, **options):
        raise error

    monkeypatch.setattr("mlm_jax.interop.tensors.save_file", full)
    with pytest.raises(UserError, match="the disk is full; nothing was written"):
        export_hf(tmp_path / "ours", tmp_path / "out")
    monkeypatch.setattr("mlm_jax.data.vocabulary.published.PublishedVocabulary.save", full)
    with pytest.raises(UserError, match="the disk is full; nothing was written"):
        import_hf(good, tmp_path / "second")
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]
