"""Weights under other names, settings that are read or refused by name, and tensors that are lost."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import mlm_jax
from mlm_jax import cli
from mlm_jax.common.errors import UserError
from mlm_jax.interop.exporting import export_hf
from mlm_jax.interop.family import Contents, ForeignConfig
from mlm_jax.interop.importing import import_hf
from mlm_jax.interop.weights import FAMILIES
from tests.interop import parity
from tests.interop.published import published, sentences
from tests.interop.t5_checks import EncoderDecoderChecks

SMALL_T5 = dict(vocab_size=53, d_model=24, d_kv=7, d_ff=31, num_layers=2, num_heads=3, decoder_start_token_id=0)


def rewritten(folder, change):
    file = folder / "model.safetensors"
    tensors = {name: value.clone() for name, value in load_file(file).items()}
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def test_the_whole_file_is_read_beside_older_shards(tmp_path):
    model = published(tmp_path / "theirs", "bert")
    model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[:] += 1
    index = (tmp_path / "theirs" / "model.safetensors.index.json").read_text()
    model.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "model.safetensors.index.json").write_text(index)
    found = parity.load(tmp_path / "theirs").params["embedding"]
    np.testing.assert_array_equal(found, model.bert.embeddings.word_embeddings.weight.detach().numpy())


@pytest.mark.parametrize("names", [("decoder.embed_tokens.weight", "lm_head.weight"), ("encoder.embed_tokens.weight",)])
def test_t5_without_a_shared_table(names, tmp_path):
    """madlad400 has the table under the decoder's name, and an output table of its own, which must not be used instead."""
    config = transformers.T5Config(**SMALL_T5)
    model = parity.random_model(transformers.T5ForConditionalGeneration, config, untied=len(names) > 1)
    parity.save(model, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "theirs")

    def change(tensors):
        table = tensors.pop("shared.weight")
        for name in [name for name in tensors if name.endswith("embed_tokens.weight")]:
            del tensors[name]
        tensors[names[0]] = table

    rewritten(tmp_path / "theirs", change)
    checks = EncoderDecoderChecks()
    batch = tuple(map(parity.unpacked, checks.batch(model)))
    whole, ours = (parity.load(tmp_path / name).logits(batch) for name in ("whole", "theirs"))
    np.testing.assert_array_equal(ours, whole)


def test_an_output_table_is_not_proposed_for_the_embeddings(tmp_path):
    config = transformers.T5Config(**SMALL_T5)
    parity.save(parity.random_model(transformers.T5ForConditionalGeneration, config, untied=True), tmp_path)
    rewritten(
        tmp_path,
        lambda tensors: [tensors.pop(name) for name in [*tensors] if "shared" in name or "embed_tokens" in name],
    )
    with pytest.raises(UserError, match="'shared.weight' is missing") as caught:
        parity.load(tmp_path)
    assert "lm_head" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "bias", "other"),
    [
        ("xlm-roberta", "lm_head.bias", "lm_head.decoder.bias"),
        ("bert", "cls.predictions.bias", "cls.predictions.decoder.bias"),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_the_output_bias_under_its_other_name(kind, bias, other, tied, tmp_path):
    model = published(tmp_path, kind, tie_word_embeddings=tied)
    value = torch.randn(model.config.vocab_size)

    def change(tensors):
        tensors.pop(bias, None), tensors.pop(other, None)
        tensors[other if tied else bias] = value

    found = parity.load(rewritten(tmp_path, change)).params["output_bias"]
    np.testing.assert_array_equal(found, value.numpy())


@pytest.mark.parametrize("said", [True, False, None])
@pytest.mark.parametrize("untied", [False, True])
def test_umt5_scales_as_its_config_says(said, untied, tmp_path):
    config = transformers.UMT5Config(**SMALL_T5, **({} if said is None else {"tie_word_embeddings": said}))
    model = parity.random_model(transformers.UMT5ForConditionalGeneration, config, untied=untied)
    folder = parity.save(model, tmp_path / "theirs")
    assert json.loads((folder / "config.json").read_text())["scale_decoder_outputs"] is (said is not False)
    checks = EncoderDecoderChecks()
    source, target = map(parity.unpacked, checks.batch(model))
    theirs = parity.their_logits(model, checks.inputs(source, target, False))
    ours = parity.load(folder)
    assert parity.difference(ours.logits((source, target)), theirs, target) < 1e-4
    if not untied:
        again = json.loads((parity.export(ours, tmp_path / "out", family="umt5") / "config.json").read_text())
        assert again["scale_decoder_outputs"] is (said is not False)


LINEAR = ForeignConfig(type="linear", factor=4.0, rope_theta=10_000.0)
SCALED = [
    (
        "modernbert",
        {"rope_scaling": ForeignConfig(rope_type="linear", factor=4.0)},
        "rope_scaling.rope_type is 'linear'",
    ),
    ("modernbert", {"rope_scaling": ForeignConfig(type="yarn")}, "rope_scaling.type is 'yarn'"),
    (
        "modernbert",
        {"rope_parameters": ForeignConfig(full_attention=LINEAR)},
        "rope_parameters.full_attention.type is 'linear'",
    ),
    ("modernbert", {"rope_parameters": LINEAR}, "rope_parameters.type is 'linear'"),
    ("eurobert", {"rope_parameters": LINEAR}, "rope_parameters.type is 'linear'"),
    ("eurobert", {"rope_scaling": ForeignConfig(rope_type="dynamic")}, "rope_scaling.rope_type is 'dynamic'"),
]


@pytest.mark.parametrize(("kind", "values", "message"), SCALED)
def test_scaled_frequencies_are_refused_by_their_key(kind, values, message):
    with pytest.raises(UserError, match=message):
        FAMILIES[kind].settings(ForeignConfig(values), Contents())


def test_unscaled_frequencies_in_every_spelling():
    default = ForeignConfig(rope_type="default")
    assert (
        FAMILIES["eurobert"].settings(ForeignConfig(rope_scaling=default, rope_theta=5e4), Contents())["rope_theta"]
        == 5e4
    )
    assert FAMILIES["eurobert"].settings(ForeignConfig(rope_scaling=None), Contents())["rope_theta"] == 10_000.0
    read = FAMILIES["modernbert"].settings(ForeignConfig(global_rope_theta=7e4, local_rope_theta=None), Contents())
    assert (read["rope_theta"], read["local_rope_theta"]) == (7e4, 7e4)  # null is "as in layers that see everything"
    assert FAMILIES["modernbert"].settings(ForeignConfig(global_rope_theta=7e4), Contents())["local_rope_theta"] == 1e4


@pytest.mark.parametrize(
    "kind", ["camembert", "roberta", "mpnet", "xlm-roberta-xl", "bart", "distilbert", "deberta-v2"]
)
def test_other_families_are_not_taken_for_misspelt(kind, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(UserError, match=f"model_type '{kind}' is unknown here. Remedy") as caught:
        import_hf(tmp_path, tmp_path / "out")
    assert "did you mean" not in str(caught.value)


def test_weights_that_the_type_cannot_hold_are_refused(tmp_path, caplog):
    published(tmp_path / "theirs", "xlm-roberta")
    name = "roberta.embeddings.LayerNorm.weight"
    rewritten(tmp_path / "theirs", lambda tensors: tensors[name].__setitem__(0, 7e4))
    ours = import_hf(tmp_path / "theirs", tmp_path / "ours")
    with pytest.raises(
        UserError, match=f"tensor '{name}' holds 70000, which is too large for float16. Remedy: .*bfloat16"
    ):
        export_hf(ours, tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()
    export_hf(ours, tmp_path / "out", dtype="bfloat16")
    rewritten(tmp_path / "theirs", lambda tensors: tensors[name].__setitem__(0, float("nan")))
    ours = import_hf(tmp_path / "theirs", tmp_path / "nan", allow_nonfinite=True)
    export_hf(ours, tmp_path / "out_nan")
    assert f"tensor '{name}' holds NaN or infinite numbers" in caplog.text


def test_a_model_without_a_head_is_imported_with_a_warning(tmp_path, caplog):
    published(tmp_path / "whole", "xlm-roberta").base_model.save_pretrained(tmp_path / "base")
    shutil.copy(tmp_path / "whole" / "sentencepiece.bpe.model", tmp_path / "base")
    import_hf(tmp_path / "base", tmp_path / "ours")
    assert "no head that predicts tokens" in caplog.text
    caplog.clear()
    import_hf(tmp_path / "whole", tmp_path / "second")
    assert "head" not in caplog.text


def test_an_encoder_without_a_mask_is_not_trained_to_fill_it(tmp_path, capsys):
    """T5's encoder alone: hidden tokens would get the id −1, the last row of the table."""
    model = published(tmp_path / "theirs", "t5")
    transformers.T5EncoderModel(model.config).save_pretrained(tmp_path / "encoder")
    shutil.copy(tmp_path / "theirs" / "spiece.model", tmp_path / "encoder")
    shutil.copy(tmp_path / "theirs" / "tokenizer_config.json", tmp_path / "encoder")
    ours = import_hf(tmp_path / "encoder", tmp_path / "ours")
    assert [entry["objective"] for entry in json.loads((ours / "config.json").read_text())["tasks"].values()] == [
        "ranking"
    ]
    (tmp_path / "de.txt").write_text("\n".join(sentences(300)), encoding="utf-8")
    mlm = "tasks={'mlm': {'objective': 'mlm', 'rows': 8, 'length': 32, 'mask_rate': 0.3}}"
    arguments = ["train", "--config", str(ours / "config.py"), "--workdir", str(tmp_path / "run"), "--set", mlm]
    assert cli.main([*arguments, "--set", f"data.corpora={{'de': '{tmp_path}/de.txt'}}"]) == 2
    assert "task 'mlm' masks pieces, but this vocabulary has no <mask>" in capsys.readouterr().err
    assert not (tmp_path / "run" / "store").exists()  # it is an error before the text is prepared


@pytest.mark.parametrize("offset", [0, 1, 2, 7])
def test_positions_begin_where_the_family_has_them(offset, tmp_path):
    """An XLM-R that goes on with a vocabulary whose padding has another id is still an XLM-R, or a BERT."""
    from tests.interop.test_verbs import OURS, our_workdir

    workdir = our_workdir(
        tmp_path / "run", **{**OURS["xlm-roberta"], "position_offset": offset, "max_positions": 40 + offset}
    )
    texts = [text[:40] for text in sentences(3000)[:5]]
    expected = mlm_jax.load(workdir).embed(texts, language="de")
    for family in ("xlm-roberta", "bert"):
        out = export_hf(workdir, tmp_path / family, family=family, language="de")
        tokenizer, model = (
            transformers.AutoTokenizer.from_pretrained(out),
            transformers.AutoModel.from_pretrained(out).eval(),
        )
        inputs = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        np.testing.assert_allclose(((hidden * mask).sum(1) / mask.sum(1)).numpy(), expected, atol=1e-4)
