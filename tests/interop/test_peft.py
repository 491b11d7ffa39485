"""Exports of LoRA: as a folder that peft loads onto the base model, and merged; both compute the same as our model."""

import json

import numpy as np
import peft
import pytest
import torch
import transformers
from transformers import AutoTokenizer

from mlm_jax import cli
from mlm_jax import model as model_room
from mlm_jax.checkpoints.checkpoint import load_parameters
from mlm_jax.checkpoints.saving import Checkpoints
from mlm_jax.common.errors import UserError
from mlm_jax.interop.exporting import export_hf
from mlm_jax.interop.peft import export_peft
from mlm_jax.model.lora import PRODUCTS, is_low_rank
from mlm_jax.training.paths import by_path, map_by_path
from tests.interop.test_task_heads import FAMILIES, TEXTS, forms, our_logits, workdir_with

GATED = ("modernbert", "eurobert")


def with_lora(base, folder, products, task):
    """The base model with random products of low rank beside its kernels, as if only they had been trained."""
    loaded = load_parameters(base)
    config = loaded.config
    config.model.lora = {"rank": 3, "alpha": 12, "products": products}
    labels = {name: len(names) for name, names in loaded.labels.items()}
    _, shapes, _ = model_room.abstract(
        config, vocabulary_size=loaded.vocabulary.size, languages=loaded.languages, labels=labels
    )
    rng, known = np.random.default_rng(3), by_path(loaded.params)

    def value(path, leaf):
        return rng.normal(0, 0.05, leaf.shape).astype(np.float32) if is_low_rank(path) else np.asarray(known[path])

    checkpoints = Checkpoints(folder, config, loaded.vocabulary, loaded.languages, labels=loaded.labels)
    checkpoints.save(8, {"params": map_by_path(value, shapes)})
    checkpoints.wait()
    return folder


def logits_of(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits.numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_and_the_merged_folder_compute_what_ours_does(family, tmp_path):
    (task, options), *_ = forms(family)
    base = workdir_with(tmp_path / "base", family, task, options)
    products = [name for name in PRODUCTS if family in GATED or name != "gate"]
    if family == "modernbert":
        products.remove("key")  # two of the three in Wqkv
    trained = with_lora(base, tmp_path / "trained", tuple(products), task)
    theirs = export_hf(base, tmp_path / "theirs", family=family, task=task, language="de")
    arguments = ["--lora-only", "--family", family, "--task", task]
    assert cli.main(["export-hf", str(trained), "--out", str(tmp_path / "lora"), *arguments]) == 0
    inputs = AutoTokenizer.from_pretrained(theirs)(TEXTS, padding=True, return_tensors="pt")
    cls = getattr(transformers, json.loads((theirs / "config.json").read_text())["architectures"][0])
    plain = logits_of(cls.from_pretrained(theirs).eval(), inputs)
    card = (tmp_path / "lora" / "README.md").read_text().split("```")[1].removeprefix("python\n")
    run = {}
    exec(card.replace("'…'", f"'{theirs}'").replace('"…"', f"'{tmp_path / 'lora'}'"), run)  # as a reader would
    adapted, head = run["model"].eval(), run["base"].config
    assert head.problem_type == "single_label_classification" and head.id2label[2] == "letter"
    ours = our_logits(trained, task, inputs["input_ids"].numpy(), inputs["attention_mask"].sum(1).tolist())
    np.testing.assert_allclose(logits_of(adapted, inputs), ours, atol=1e-5)
    assert np.abs(ours - plain).max() > 1e-2
    merged = export_hf(trained, tmp_path / "merged", family=family, task=task, language="de")
    np.testing.assert_allclose(logits_of(cls.from_pretrained(merged).eval(), inputs), ours, atol=1e-5)


def test_a_whole_language_model_and_what_cannot_be_written(tmp_path):
    (task, options), *_ = forms("xlm-roberta")
    base = workdir_with(tmp_path / "base", "xlm-roberta", task, options)
    trained = with_lora(base, tmp_path / "trained", ("query", "down"), task)
    theirs = export_hf(base, tmp_path / "theirs", family="xlm-roberta", language="de")
    export_peft(trained, tmp_path / "lora", family="xlm-roberta")
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert config["modules_to_save"] is None and config["rank_pattern"] == {}
    size = (tmp_path / "lora" / "adapter_model.safetensors").stat().st_size
    assert size < (theirs / "model.safetensors").stat().st_size / 5
    cls = transformers.XLMRobertaForMaskedLM
    inputs = AutoTokenizer.from_pretrained(theirs)(TEXTS, padding=True, return_tensors="pt")
    adapted = peft.PeftModel.from_pretrained(cls.from_pretrained(theirs), str(tmp_path / "lora")).eval()
    merged = cls.from_pretrained(export_hf(trained, tmp_path / "merged", family="xlm-roberta", language="de")).eval()
    np.testing.assert_allclose(logits_of(adapted, inputs), logits_of(merged, inputs), atol=1e-4)
    with pytest.raises(UserError, match="this model has no LoRA"):
        export_peft(base, tmp_path / "none")
    assert not (tmp_path / "none").exists()
