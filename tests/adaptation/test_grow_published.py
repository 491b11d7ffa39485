"""A published vocabulary grows: old ids stay, new pieces are taken, and transformers gives our ids."""

import pytest
from transformers import AutoTokenizer

from mlm_jax.adaptation.grow import grow_vocabulary
from mlm_jax.checkpoints.transplant import row_sources
from mlm_jax.data.bible import _verses
from mlm_jax.interop.exporting import write_tokenizer
from mlm_jax.interop.published_tokenizer import read_vocabulary
from tests.interop.published import TOKENIZERS, sentences

TAGALOG = [verse for _, verse in _verses("tl")[:600]]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_new_pieces_of_the_users_text(kind, tmp_path):
    old = read_vocabulary(tmp_path, kind, TOKENIZERS[kind](tmp_path), {})
    grown = grow_vocabulary(old, "tl", TAGALOG, 150)
    before, after = old.pieces(range(old.size)), grown.pieces(range(grown.size))
    new = {index for index, piece in enumerate(after) if piece not in set(before)}
    assert len(new) == 150
    assert all(
        a == b or index in new for index, (a, b) in enumerate(zip(before, after))
    )  # reserved places may be taken
    tokens = [sum(map(len, each.encode_batch(TAGALOG))) for each in (old, grown)]
    assert tokens[1] < 0.9 * tokens[0]
    for text in sentences(300):  # old text keeps its ids, but where a new piece covers it
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


def test_from_an_import_to_a_grown_config(tmp_path, capsys):
    """grow takes an imported model, and says how a config goes on; the new table has its rows."""
    from mlm_jax import cli
    from mlm_jax.data.vocabulary.folder import load_vocabulary
    from mlm_jax.interop.importing import import_hf
    from tests.interop.published import published

    published(tmp_path / "theirs", "xlm-roberta")
    ours = import_hf(tmp_path / "theirs", tmp_path / "ours", languages=("de",))
    (tmp_path / "tl.txt").write_text("\n".join(TAGALOG), encoding="utf-8")
    arguments = ["grow", str(ours), "--language", "tl", "--text", str(tmp_path / "tl.txt"), "--pieces", "50"]
    assert cli.main([*arguments, "--out", str(tmp_path / "grown")]) == 0
    said = capsys.readouterr().out
    assert "50 pieces added to 902." in said and "config.languages = ('de', 'tl')" in said
    assert load_vocabulary(tmp_path / "grown").size == 952
