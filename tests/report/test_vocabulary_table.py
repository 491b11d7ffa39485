"""``mlm-jax inspect --vocabulary``: counts by hand, and every kind of path that may name a vocabulary."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mlm_jax import cli
from mlm_jax.data.bible import _verses
from mlm_jax.data.vocabulary.fertility import fertility, parity
from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.data.vocabulary.published import PublishedVocabulary
from mlm_jax.interop.importing import import_hf
from tests.interop.published import our_vocabulary, published, sentences

KOREAN = [verse for _, verse in _verses("ko")[:30]]


def test_bytes_are_counted_by_hand():
    found = fertility(Vocabulary.bytes(("de",), 0), ["zwei Wörter", "é"])
    assert (found.tokens, found.words, found.characters) == (12 + 2, 3, 12)
    assert (found.byte_share, found.unknown_share, found.tokens_per_word) == (1.0, 0.0, 14 / 3)
    assert parity(Vocabulary.bytes((), 0), [("ab", "a"), ("é", "aaa")]) == 4 / 4


def test_fallback_to_bytes_and_unknown_pieces(tmp_path):
    ours = our_vocabulary(("de",))
    ids = [index for ids in ours.encode_batch(["漢字", "Gott"]) for index in ids]
    found = fertility(ours, ["漢字", "Gott"])
    assert found.in_bytes == sum(piece.startswith("<0x") for piece in ours.pieces(ids)) >= 6
    assert found.pieces == len({*ids})
    published(tmp_path / "bert", "bert")
    assert cli.main(["inspect", "--vocabulary", str(tmp_path / "bert"), "--text", f"zh={tmp_path}/none.txt"]) == 2


def test_pieces_of_byte_level_bpe_that_are_no_characters():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        sentences(400), trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    vocabulary = PublishedVocabulary(tokenizer.to_str(), {})
    text = "Gott 漢"  # three bytes that no text taught it
    pieces = np.array(vocabulary.encode(text))
    assert vocabulary.decode(pieces[~vocabulary.is_byte[pieces]].tolist()).strip() == "Gott"
    assert 2 <= fertility(vocabulary, [text]).in_bytes <= 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabularies")
    published(folder / "theirs", "xlm-roberta")
    import_hf(folder / "theirs", folder / "ours")
    (folder / "ko.txt").write_text("\n".join(KOREAN), encoding="utf-8")
    (folder / "en-ko.tsv").write_text("".join(f"A short line.\t{verse}\n" for verse in KOREAN), encoding="utf-8")
    return folder


def test_every_place_names_the_same_vocabulary(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")  # a row of the table stays one line, however long the folders' names are
    places = [folder / "theirs", folder / "ours", folder / "ours" / "vocabulary", folder / "ours" / "checkpoints" / "0"]
    arguments = [part for place in places for part in ("--vocabulary", str(place))]
    text = ["--text", f"ko={folder}/ko.txt", "--pairs", f"en-ko={folder}/en-ko.tsv"]
    assert cli.main(["inspect", *arguments, *text]) == 0
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if line.count("│") > 3]
    assert len(rows) == 4 and len({tuple(cells[2:]) for cells in rows}) == 1
    cells = [cell.strip() for cell in rows[0]]
    assert cells[0] == "ko"
    vocabulary = import_vocabulary(folder)
    tokens = sum(map(len, vocabulary.encode_batch(KOREAN)))
    assert cells[2] == f"{tokens / sum(len(verse.split()) for verse in KOREAN):.3f}"
    english = len(KOREAN) * len(vocabulary.encode("A short line."))
    assert cells[4] == f"{tokens / english:.3f}"
    assert cells[7].endswith(f"of {vocabulary.size:,}")


def import_vocabulary(folder):
    from mlm_jax.interop.any_vocabulary import any_vocabulary

    return any_vocabulary(folder / "ours")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is nothing to show"),
        (["--text", "de=x.txt"], "--text and --pairs are for comparing vocabularies"),
        (["--vocabulary", "{}/ours"], "there is no text to compare on"),
        (["--vocabulary", "{}/ours", "--text", "x.txt"], "--text x.txt names no language"),
        (["--vocabulary", "{}/ours", "--pairs", "de-fr=x.tsv"], "--pairs de-fr has no English side"),
        (["--vocabulary", "{}/nowhere/at/all", "--text", "ko={}/ko.txt"], "there is no such folder"),
    ],
)
def test_vocabularies_that_cannot_be_shown_are_refused(arguments, message, folder, capsys):
    assert cli.main(["inspect", *(argument.format(folder) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_text_of_a_config(folder, capsys, tmp_path, monkeypatch):
    """With one source of a language or with several by name, of which one has its text in another field."""
    monkeypatch.setenv("COLUMNS", "300")  # the whole table side by side, however long the paths are
    lines = (folder / "ko.txt").read_text().splitlines()
    (tmp_path / "ko.jsonl").write_text("".join(json.dumps({"raw": line}) + "\n" for line in lines))
    several = {"a": f"{folder}/ko.txt", "b": {"files": f"{tmp_path}/ko.jsonl", "field": "raw"}}
    file = tmp_path / "config.json"
    rows = []
    for corpus, pair in ((f"{folder}/ko.txt", f"{folder}/en-ko.tsv"), (several, {"opus": f"{folder}/en-ko.tsv"})):
        file.write_text(json.dumps({"data": {"corpora": {"ko": corpus}, "parallel": {"en-ko": pair}}}))
        assert cli.main(["inspect", "--config", str(file), "--vocabulary", str(folder / "theirs")]) == 0
        rows += [line for line in capsys.readouterr().out.splitlines() if "│ ko " in line]
    assert len(rows) == 2 and rows[0] == rows[1]  # every text twice gives the same ratios
