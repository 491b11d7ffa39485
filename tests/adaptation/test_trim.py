"""A trimmed model gives the same outputs bit for bit for the given text, here and in transformers."""

import jax
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import mlm_jax
from mlm_jax import cli
from mlm_jax.adaptation.trim import merged_from, trim_vocabulary
from mlm_jax.checkpoints.checkpoint import load_parameters
from mlm_jax.common.errors import UserError
from mlm_jax.data.bible import _verses
from mlm_jax.data.vocabulary.folder import load_vocabulary
from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.interop.exporting import export_hf
from mlm_jax.interop.importing import import_hf
from mlm_jax.interop.published_tokenizer import read_vocabulary
from tests.interop.published import LANGUAGES, TOKENIZERS, our_vocabulary, published

GERMAN = [verse for _, verse in _verses("de")[:400]]
OTHER = [verse for _, verse in _verses("de")[5000:5060]]
FOREIGN = [verse for language in ("ru", "hi", "ko") for _, verse in _verses(language)[:10]]


def vocabularies(folder):
    for kind in TOKENIZERS:
        (folder / kind).mkdir()
        yield kind, read_vocabulary(folder / kind, kind, TOKENIZERS[kind](folder / kind), {})
    for kind in ("unigram", "bpe"):
        yield f"our {kind}", our_vocabulary(LANGUAGES, kind)


def test_every_kind_of_vocabulary_cuts_the_text_as_before(tmp_path):
    for kind, old in vocabularies(tmp_path):
        trimmed = trim_vocabulary(old, GERMAN)
        new = trimmed.vocabulary
        assert new.size < 0.8 * old.size, kind
        assert [trimmed.kept[ids].tolist() for ids in new.encode_batch(GERMAN)] == old.encode_batch(GERMAN)
        assert old.pieces(trimmed.kept) == new.pieces(range(new.size))
        for role in ("pad", "eos", "unk", "bos", "mask"):  # special pieces keep their meaning
            ids = [getattr(vocabulary, f"{role}_id") for vocabulary in (old, new)]
            assert (ids[0] < 0 and ids[1] < 0) or trimmed.kept[ids[1]] == ids[0], (kind, role)
        assert trimmed.kept[new.sentinel_ids].tolist() == old.sentinel_ids.tolist()
        assert {*old.special_ids} == {*trimmed.kept[new.special_ids]}, kind
        assert new.pair_separator and trimmed.kept[list(new.pair_separator)].tolist() == list(old.pair_separator)
        for text in OTHER:  # other text of the language still decodes to the same text as before
            assert new.decode(new.encode(text)) == old.decode(old.encode(text)), kind
        assert all(new.encode(text) for text in FOREIGN)  # as bytes, or as unknown pieces
        new.save(tmp_path / f"{kind} saved")
        assert load_vocabulary(tmp_path / f"{kind} saved").encode_batch(GERMAN[:50]) == new.encode_batch(GERMAN[:50])


@pytest.mark.parametrize("kind", ["xlm-roberta", "bert", "modernbert"])
def test_outputs_stay_the_same_bit_for_bit(kind, tmp_path, capsys):
    published(tmp_path / "theirs", kind)
    ours = import_hf(tmp_path / "theirs", tmp_path / "ours")
    texts = [text[:60] for text in GERMAN[:200]]
    (tmp_path / "de.txt").write_text("\n".join(texts), encoding="utf-8")
    assert cli.main(["trim", str(ours), "--text", f"de={tmp_path}/de.txt", "--out", str(tmp_path / "small")]) == 0
    said = capsys.readouterr().out
    assert "pieces " in said and "parameters " in said and "tokens per word, de: " in said
    large, small = mlm_jax.load(ours), mlm_jax.load(tmp_path / "small")
    assert small.vocabulary.size < large.vocabulary.size
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(model.params)) for model in (large, small)]
    assert sizes[1] < sizes[0]
    np.testing.assert_array_equal(small.embed(texts), large.embed(texts))

    out = export_hf(tmp_path / "small", tmp_path / "out")  # and transformers: the same ids as ours, and the same states
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModel.from_pretrained(out).eval()
    whole, theirs = (
        AutoTokenizer.from_pretrained(tmp_path / "theirs"),
        AutoModel.from_pretrained(tmp_path / "theirs").eval(),
    )
    assert tokenizer(texts, add_special_tokens=False)["input_ids"] == small.vocabulary.encode_batch(texts)
    with torch.no_grad():
        found, expected = (
            net(**tok(texts[:9], padding=True, return_tensors="pt")).last_hidden_state
            for tok, net in ((tokenizer, model), (whole, theirs))
        )
    assert torch.equal(found, expected)
    assert load_parameters(tmp_path / "small").params["embedding"].shape[0] == small.vocabulary.size


@pytest.mark.parametrize("kind", ["xmod", "eurobert", "t5", "mt5", "umt5"])
def test_outputs_of_other_families_stay_the_same_bit_for_bit(kind, tmp_path):
    published(tmp_path / "theirs", kind)
    texts = [text[:60] for text in GERMAN[:60]]
    (tmp_path / "de.txt").write_text("\n".join(texts), encoding="utf-8")
    ours = import_hf(tmp_path / "theirs", tmp_path / "ours")
    report = mlm_jax.trim(ours, {"de": str(tmp_path / "de.txt")}, tmp_path / "small")
    assert report.pieces[1] < 0.5 * report.pieces[0] and report.parameters[1] < report.parameters[0]
    language = {"language": "de_DE"} if kind == "xmod" else {}
    large, small = (mlm_jax.load(folder).embed(texts, **language) for folder in (ours, tmp_path / "small"))
    np.testing.assert_array_equal(small, large)


def test_pieces_from_which_a_piece_is_merged_are_kept():
    ranks = {("a", "b"): 0, ("ab", "c"): 1, ("b", "c"): 2}
    assert merged_from("abc", lambda a, b: ranks.get((a, b))) == {"a", "b", "c", "ab", "abc"}
    assert merged_from("bc", lambda a, b: ranks.get((a, b))) == {"b", "c", "bc"}


def test_vocabularies_that_cannot_be_trimmed_are_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="bytes has no pieces to spare"):
        trim_vocabulary(Vocabulary.bytes(("de",), 0), GERMAN)
    with pytest.raises(UserError, match="no text that would need any piece"):
        trim_vocabulary(our_vocabulary(LANGUAGES), ["", "  "])
    assert cli.main(["trim", "nowhere", "--text", "de.txt", "--out", str(tmp_path / "out")]) == 2
    assert "--text de.txt names no language" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_published_folder_is_trimmed_at_once(tmp_path):
    """As if it had been imported first: weights, languages, the separator after which BERT's types begin, the base model."""
    published(tmp_path / "theirs", "bert")
    (tmp_path / "de.txt").write_text("\n".join(GERMAN[:100]), encoding="utf-8")
    import_hf(tmp_path / "theirs", tmp_path / "ours")
    for source, out in (("theirs", "small"), ("ours", "same")):
        text = f"de={tmp_path}/de.txt"
        assert cli.main(["trim", str(tmp_path / source), "--text", text, "--out", str(tmp_path / out)]) == 0
    small, same = load_parameters(tmp_path / "small"), load_parameters(tmp_path / "same")
    jax.tree.map(np.testing.assert_array_equal, small.params, same.params)
    assert small.languages == same.languages == ("de",)
    assert small.config.model.type_boundary == small.vocabulary.pair_separator[-1] >= 0
    assert not (tmp_path / "small" / "imported").exists()
    out = export_hf(tmp_path / "small", tmp_path / "out")
    assert "base model: theirs" in (out / "README.md").read_text(encoding="utf-8")
    first, second = (
        AutoTokenizer.from_pretrained(folder)("Im Anfang", "schuf Gott") for folder in (tmp_path / "theirs", out)
    )
    assert first["token_type_ids"] == second["token_type_ids"] and 1 in second["token_type_ids"]
