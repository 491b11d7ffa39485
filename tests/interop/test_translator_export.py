"""A translator whose documents begin with their language's token: transformers writes the same texts as translate."""

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import mlm_jax
from mlm_jax.common.errors import UserError
from mlm_jax.inference.translator import Search
from mlm_jax.interop.exporting import export_hf
from tests.interop.published import sentences
from tests.interop.test_verbs import our_workdir

T5 = {
    "norm": "rms",
    "activation": "geglu_tanh",
    "biases": (),
    "position": "relative",
    "global_every": 1,
    "attention_scale": False,
    "norms": ("first_attention", "final"),
    "head_transform": False,
    "tied_embeddings": False,
    "norm_epsilon": 1e-6,
    "decoder": ({"layers": 2, "weights": "shared"},),
    "encoder": ({"layers": 2, "weights": "shared"},),
}


def test_greedy_texts_are_those_of_translate(tmp_path):
    workdir = our_workdir(tmp_path / "run", **T5)
    out = export_hf(workdir, tmp_path / "out", language="en", to="de")
    texts = [text[:60] for text in sentences(3000)[:8]]
    ours = mlm_jax.load_translator(workdir).translate(
        texts, source_language="en", target_language="de", search=Search(beams=1, length=12)
    )
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForSeq2SeqLM.from_pretrained(out).eval()
    forbidden = [
        int(index) for index in mlm_jax.load(workdir).vocabulary.special_ids if index != tokenizer.eos_token_id
    ]
    with torch.no_grad():
        found = model.generate(
            **tokenizer(texts, padding=True, return_tensors="pt"),
            max_new_tokens=12,
            do_sample=False,
            suppress_tokens=forbidden,
            num_beams=1,
        )
    written = [[i for i in row[1:].tolist() if i != tokenizer.pad_token_id] for row in found]
    assert written == [list(one.hypotheses[0].ids) for one in ours]
    assert len({tuple(row) for row in written}) > 4  # random weights, but several different texts


def test_languages_that_must_or_cannot_be_named(tmp_path):
    workdir = our_workdir(tmp_path / "run", **T5)
    with pytest.raises(UserError, match="decoder begins with the token of its output language.*give to: one of de, en"):
        export_hf(workdir, tmp_path / "out", language="en")
    with pytest.raises(UserError, match="does not know the language 'fr'"):
        export_hf(workdir, tmp_path / "out", to="fr")
    with pytest.raises(UserError, match="but this model has no decoder"):
        export_hf(our_workdir(tmp_path / "encoder"), tmp_path / "out", to="de")
    assert not (tmp_path / "out").exists()
