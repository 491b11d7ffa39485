"""Continued training of a published model: it begins at transformers' loss, survives a restart, and can be exported."""

import json
import zlib

import jax
import numpy as np
import torch
from transformers import AutoModelForMaskedLM

import mlm_jax
from mlm_jax.config import load_config
from mlm_jax.data.bible import _verses
from mlm_jax.data.loading.loader import Loader
from mlm_jax.data.store.store import Store
from mlm_jax.data.store.writer import StoreWriter
from mlm_jax.data.vocabulary.folder import load_vocabulary
from mlm_jax.interop.exporting import export_hf
from mlm_jax.interop.importing import import_hf
from mlm_jax.objectives import create_objectives, kinds
from mlm_jax.run.loop import train
from mlm_jax.training.context import make_context
from tests.interop import parity
from tests.interop.published import published, sentences

LENGTH = 48


def write_store(folder, vocabulary):
    """Verses in two languages as documents <s> … </s>, with the imported vocabulary."""
    with StoreWriter(folder, vocabulary, ("de", "en")) as writer:
        for language in ("de", "en"):
            verses = [verse for _, verse in _verses(language)[:300]]
            for split, part in (("train", verses[:250]), ("validation", verses[250:])):
                documents = [[vocabulary.bos_id, *ids, vocabulary.eos_id] for ids in vocabulary.encode_batch(part)]
                sizes = {"characters": sum(map(len, part)), "bytes": sum(len(verse.encode()) for verse in part)}
                writer.add(language, "text", (language,), split, {"inputs": documents}, **sizes)


def their_losses(model, config, context, loader):
    """transformers' mean −log P of the tokens that our first step masks, by language."""
    (objective,) = create_objectives(config.tasks).values()
    key, _ = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 0))
    examples = objective.prepare(loader.batch(0)["mlm"], jax.random.fold_in(key, zlib.crc32(b"mlm")), context)
    masked = jax.device_get(examples.masked)
    with torch.no_grad():
        inputs = parity.their_inputs(masked.rows, packed=True, offset=model.config.pad_token_id + 1)
        scores = torch.log_softmax(model(**inputs).logits, dim=-1).numpy()
    at_rows = np.arange(len(scores))[:, None]
    losses = -scores[at_rows, masked.positions, masked.labels]
    return {
        code: losses[masked.chosen & (masked.rows.language == index)[:, None]].mean()
        for index, code in enumerate(loader.languages)
    }


def test_training_goes_on_where_transformers_stands(tmp_path):
    model = published(tmp_path / "theirs", "xlm-roberta")
    ours = import_hf(tmp_path / "theirs", tmp_path / "ours")
    vocabulary = load_vocabulary(ours / "vocabulary")
    write_store(tmp_path / "store", vocabulary)
    config = load_config(ours / "config.py")
    config.data.store = str(tmp_path / "store")
    config.steps = 4
    config.tasks = {"mlm": {"objective": "mlm", "rows": 8, "length": LENGTH, "mask_rate": 0.3}}
    config.model.dropout = 0.0
    config.optimizer.update(learning_rate=3e-3, warmup_steps=1, decay_steps=1)
    config.training.log_every = 1
    config.checkpoint.every, config.evaluation.every, config.evaluation.rows = 2, 100, 4
    loader = Loader(Store.open(tmp_path / "store"), config, kinds(config.tasks))
    expected = their_losses(model, config, make_context(vocabulary, loader.languages, config), loader)

    train(config, tmp_path / "run")
    config.steps = 6
    train(config, tmp_path / "run")

    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = {line["step"]: line for line in lines if "train/loss/mean" in line}
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    for code, value in expected.items():
        assert abs(found[1][f"train/loss/{code}"] - value) < 1e-3
    assert found[6]["train/loss/mean"] < found[1]["train/loss/mean"] - 0.1

    export_hf(tmp_path / "run", tmp_path / "out")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()
    texts = [text[:40] for text in sentences(3000)[:5]]
    embedded = mlm_jax.load(tmp_path / "run").embed(texts, language="de")
    for text, ours_embedding in zip(texts, embedded):
        tokens = torch.tensor([[vocabulary.bos_id, *vocabulary.encode(text), vocabulary.eos_id]])
        hidden = again.base_model(tokens).last_hidden_state[0].detach().numpy()
        np.testing.assert_allclose(ours_embedding, hidden.mean(axis=0), atol=1e-4)
