"""Labelled text in the store: pairs that are cut, words without pieces, lines that are skipped."""

import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.data.store.labelled_rows import CUT, PIECELESS
from mlm_jax.data.store.prepare import prepare
from mlm_jax.data.store.store import Store
from mlm_jax.data.text import labelled
from mlm_jax.data.text.reading import BLANK


def stored(folder, name, text, **entry):
    """Prepare a labelled set of bytes, and return its texts (of each example, between special ids) and what was skipped."""
    (folder / name).write_text(text, encoding="utf-8")
    config = default_config()
    config.data.labelled = {"set": {"language": "en", "train": str(folder / name), **entry}}
    config.vocabulary.kind, config.data.max_document_tokens = "bytes", 20
    store = Store.open(prepare(config, folder / "store", progress=False))
    split = store.stream("set").split("train")
    documents = split["inputs"].documents(range(split.documents))
    texts = [store.vocabulary.decode(ids.tolist()) for ids in documents]
    return texts, store.manifest["facts"]["skipped"]["set"]


def test_of_a_pair_of_texts_the_longer_one_is_cut_first_and_it_is_counted(tmp_path):
    """A language token, an end, and a separator leave 17 of 20."""
    text = "a" * 14 + "\tbbb\tyes\n" + "a" * 30 + "\tbbb\tyes\n" + "aaa\t" + "b" * 30 + "\tno\n"
    texts, skipped = stored(tmp_path, "nli.tsv", text, format="tsv")
    assert texts == ["a" * 14 + "bbb", "a" * 14 + "bbb", "aaa" + "b" * 14]
    assert skipped == {CUT: 2}


def read(folder, name, text, form="conll"):
    (folder / name).write_text(text)
    return [*labelled.examples({"format": form, "language": "en", "train": str(folder / name)}, "train")]


def test_a_hash_begins_a_comment_only_before_a_sentence_and_a_space(tmp_path):
    text = "# sent_id = 1\n#\n#Obama B-PER\nspeaks O\n# O\n\n# text = a\nUlm B-LOC\n"
    assert [example[:2] for example in read(tmp_path, "hash.txt", text)] == [
        (("#Obama", "speaks", "#"), ("B-PER", "O", "O")),
        (("Ulm",), ("B-LOC",)),
    ]


def test_wikianns_code_is_taken_off_words_that_are_nothing_else(tmp_path):
    assert read(tmp_path, "a.txt", "en:Paris B-LOC\nen: O\nen:shines O\n")[0].texts == ("Paris", "", "shines")
    assert read(tmp_path, "b.txt", "simple:Paris B-LOC\nsimple:shines O\n")[0].texts == ("Paris", "shines")
    assert read(tmp_path, "c.txt", "ps: O\n\nps: O\nps: O\n")[0].texts == ("ps:",)  # a word of a text without codes


def test_words_whose_label_has_no_piece_to_stand_at_are_counted(tmp_path):
    texts, skipped = stored(tmp_path, "a.txt", "en:Paris B-LOC\nen: O\n\nen:Ulm B-LOC\n", format="conll")
    assert texts == ["Paris", "Ulm"] and skipped == {PIECELESS: 1}


def test_blank_lines_are_counted_once(tmp_path):
    texts, skipped = stored(tmp_path, "a.tsv", "a\tyes\n\n  \nb\tno\n", format="tsv")
    assert texts == ["a", "b"] and skipped == {BLANK: 2}
    (tmp_path / "en.txt").write_text("a\n\nb\n \n" * 9)
    (tmp_path / "en.jsonl").write_text('{"text": "c"}\n\n{"text": " "}\n')
    (tmp_path / "pairs.tsv").write_text("a\tb\n\n\tb\n")
    config = default_config()
    config.data.corpora = {"en": (str(tmp_path / "en.txt"), str(tmp_path / "en.jsonl"))}
    config.data.parallel, config.data.validation_fraction = {"en-de": str(tmp_path / "pairs.tsv")}, 0.5
    config.vocabulary.kind = "bytes"
    store = Store.open(prepare(config, tmp_path / "text", progress=False))
    assert sum(split.documents for split in store.stream("en").splits.values()) == 19
    assert store.manifest["facts"]["skipped"] == {"en": {BLANK: 20}, "en-de": {"a side is empty": 2}}


def test_xnlis_own_training_file_has_the_labels_of_its_other_files(tmp_path):
    header = "premise\thypo\tlabel\n"
    found = read(tmp_path, "multinli.train.en.tsv", header + "a\tb\tcontradictory\nc\td\tneutral\n", "xnli")
    assert [example.labels for example in found] == [("contradiction",), ("neutral",)]


def test_a_format_that_there_is_not_is_named_before_anything_is_read(tmp_path):
    with pytest.raises(
        UserError, match=r"data.labelled.set.format is 'tvs'; did you mean 'tsv'\? Remedy: use one of tsv, xnli"
    ):
        stored(tmp_path, "a.tsv", "no tab\n", format="tvs")
