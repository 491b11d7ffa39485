"""A published vocabulary grows: old ids stay, new pieces are taken, and transformers gives our ids."""

import json
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from mlm_jax import cli
from mlm_jax.adaptation.grow import grow_vocabulary
from mlm_jax.checkpoints.checkpoint import load_parameters
from mlm_jax.checkpoints.transplant import row_sources
from mlm_jax.data.bible import _verses
from mlm_jax.data.vocabulary.folder import load_vocabulary
from mlm_jax.interop.exporting import write_tokenizer
from mlm_jax.interop.importing import import_hf
from mlm_jax.interop.published_tokenizer import read_vocabulary
from mlm_jax.run.loop import train
from mlm_jax.training.check import check_config
from tests.interop.published import TOKENIZERS, published, sentences

GERMAN = [verse for _, verse in _verses("de")[:200]]
TAGALOG = [verse for _, verse in _verses("tl")[:600]]


def llama_tokenizer(folder):
    """EuroBERT's tokenizer as it is published: its special pieces are added tokens after those of the model."""
    rows = TOKENIZERS["eurobert"](folder)
    described = json.loads((folder / "tokenizer.json").read_text())
    model, added = described["model"], described["added_tokens"]
    special = [token["content"] for token in added]
    pieces = sorted(model["vocab"].keys() - {*special}, key=model["vocab"].get)
    ids = {piece: index for index, piece in enumerate([*pieces, *special])}
    model["vocab"] = {piece: ids[piece] for piece in pieces}
    for token in added:
        token["id"] = ids[token["content"]]
    for token in described["post_processor"]["special_tokens"].values():
        token["ids"] = [ids[piece] for piece in token["tokens"]]
    (folder / "tokenizer.json").write_text(json.dumps(described))
    return rows


KINDS = {**TOKENIZERS, "llama": llama_tokenizer}


@pytest.mark.parametrize("kind", KINDS)
def test_new_pieces_of_the_users_text(kind, tmp_path):
    old = read_vocabulary(tmp_path, kind, KINDS[kind](tmp_path), {})
    grown = grow_vocabulary(old, "tl", TAGALOG, 150)
    before, after = old.pieces(range(old.size)), grown.pieces(range(grown.size))
    new = {index for index, piece in enumerate(after) if piece not in set(before)}
    assert len(new) == 150
    assert all(a == b or index in new for index, (a, b) in enumerate(zip(before, after)))  # reserved ids may be used
    tokens = [sum(map(len, each.encode_batch(TAGALOG))) for each in (old, grown)]
    assert tokens[1] < 0.9 * tokens[0]
    for text in sentences(300):  # old text keeps its ids, except where a new piece covers it
        ids = grown.encode(text)
        assert ids == old.encode(text) or new & {*ids}
    for role in ("pad", "eos", "unk", "bos", "mask"):
        assert getattr(grown, f"{role}_id") == getattr(old, f"{role}_id")
    (tmp_path / "out").mkdir()
    write_tokenizer(tmp_path / "out", grown, [], 64)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    texts = [*TAGALOG, *sentences(100)]
    assert theirs(texts, add_special_tokens=False)["input_ids"] == grown.encode_batch(texts)
    sources = row_sources(old, grown)  # a new row begins with the mean of the old pieces that spell it
    assert sum(not sources[index] for index in new) <= len(new) // 10
    assert all(sources[index] == [index] for index in range(old.size) if index not in new)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_script_that_the_vocabulary_lacks(kind, tmp_path):
    """Its characters become pieces, from which words are made; before, they were bytes or unknown pieces."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice([*"აბგდევზთიკლმნოპჟრსტუ"], rng.integers(2, 6))) for _ in range(40)]
    text = [" ".join(rng.choice(words, 6)) for _ in range(200)]
    old = read_vocabulary(tmp_path, kind, TOKENIZERS[kind](tmp_path), {})
    assert all(old.unk_id in ids or len(ids) > 4 * 6 for ids in old.encode_batch(text))
    grown = grow_vocabulary(old, "ka", text, 150)
    found = grown.encode_batch(text)
    assert not any(grown.unk_id in ids for ids in found if grown.unk_id >= 0)
    assert sum(map(len, found)) <= 2 * 6 * len(text)  # at most two tokens a word
    assert [grown.decode(ids) for ids in found] == text
    (tmp_path / "out").mkdir()
    write_tokenizer(tmp_path / "out", grown, [], 64)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs(text, add_special_tokens=False)["input_ids"] == found
    assert grown.encode_batch(GERMAN) == old.encode_batch(GERMAN)


def test_from_an_import_to_a_grown_config(tmp_path, monkeypatch, capsys):
    """grow counts how much old text changes, and prints how a config continues: old rows stay bit for bit, new ones are trained."""
    monkeypatch.chdir(tmp_path)
    published(tmp_path / "theirs", "xlm-roberta")
    import_hf(tmp_path / "theirs", tmp_path / "ours", languages=("de",))
    for code, texts in {"tl": TAGALOG, "de": GERMAN}.items():
        (tmp_path / f"{code}.txt").write_text("\n".join(texts), encoding="utf-8")
    arguments = ["grow", "ours", "--language", "tl", "--text", "tl.txt", "--pieces", "50", "--old-text", "de=de.txt"]
    assert cli.main([*arguments, "--out", "grown"]) == 0
    said = capsys.readouterr().out
    old, grown = (load_vocabulary(tmp_path / name) for name in ("ours/vocabulary", "grown"))
    assert f"50 new pieces; the vocabulary had {old.size:,} and has {old.size + 50:,}" in said
    changed = sum(a != b for a, b in zip(*(each.encode_batch(GERMAN) for each in (old, grown))))
    tokens = [sum(map(len, each.encode_batch(GERMAN))) for each in (old, grown)]
    assert f"de: {changed} of 200 texts change their ids; {tokens[0]:,} tokens → {tokens[1]:,} (" in said
    assert changed < 200 and " of 600 texts change their ids; " in said

    lines = [line.strip() for line in said.splitlines() if line.startswith("    ")]
    scope: dict[str, Any] = {}
    exec("\n".join(lines), scope)  # what is printed is a config
    config = scope["config"]
    assert config.languages == ("de", "tl") and config.vocabulary.size == grown.size
    config.data.corpora = {"tl": str(tmp_path / "tl.txt")}
    config.tasks = {"mlm": {"objective": "mlm", "rows": 8, "length": 16}}
    config.steps, config.optimizer.warmup_steps, config.optimizer.decay_steps = 2, 0, 1
    check_config(config)
    train(config, "run")
    before, after = (load_parameters(tmp_path / name).params["embedding"] for name in ("ours", "run"))
    same = [a == b for a, b in zip(old.pieces(range(old.size)), grown.pieces(range(old.size)))]
    np.testing.assert_array_equal(np.asarray(after)[: old.size][same], np.asarray(before)[: old.size][same])
    sources = row_sources(old, grown)
    new = [index for index in range(grown.size) if index >= old.size or not same[index]]
    starts = np.array([np.asarray(before)[sources[index]].mean(axis=0) for index in new if sources[index]])
    moved = np.asarray(after)[[index for index in new if sources[index]]] != starts
    assert len(new) == 50 and moved.any(axis=1).mean() > 0.3
