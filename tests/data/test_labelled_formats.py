"""Formats of labelled sets: CoNLL, WikiANN, XNLI, SNLI."""

from collections import Counter

import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.data.text import labelled
from mlm_jax.data.text.labelled_formats.xnli import UNDECIDED
from mlm_jax.data.text.reading import BLANK


def read_labelled(entry):
    """The texts and labels of a set's training examples."""
    return [example[:2] for example in labelled.examples(entry, "train")]


def test_words_with_labels(tmp_path):
    (tmp_path / "a.iob2").write_text("# sent\n1\tAnna\tB-PER\t-\t-\n2\tsingt\tO\t-\t-\n\n1\tUlm\tB-LOC\t-\t-\n")
    (tmp_path / "wikiann.txt").write_text("en:Paris B-LOC\nen:shines O\n\n")
    entry = {"format": "conll", "language": "de", "train": str(tmp_path / "a.iob2")}
    assert read_labelled(entry) == [(("Anna", "singt"), ("B-PER", "O")), (("Ulm",), ("B-LOC",))]
    assert labelled.label_names(entry) == ("B-LOC", "B-PER", "O")
    (example,) = labelled.examples({**entry, "train": str(tmp_path / "wikiann.txt")}, "train")
    assert example.texts == ("Paris", "shines")
    with pytest.raises(UserError, match=r"a\.iob2:2: label 'B-PER' is not one of"):
        list(labelled.examples({**entry, "labels": ("O", "B-LOC")}, "train"))
    (tmp_path / "x.tsv").write_text("sentence1\tsentence2\tgold_label\nA man\tA person\tentailment\n")
    (pair,) = labelled.examples({"format": "xnli", "language": "en", "train": str(tmp_path / "x.tsv")}, "train")
    assert pair[:2] == (("A man", "A person"), ("entailment",))


def test_words_that_look_like_numbers_or_marks_are_words(tmp_path):
    def read(name, text):
        (tmp_path / name).write_text(text)
        return read_labelled({"format": "conll", "language": "en", "train": str(tmp_path / name)})

    conll = "-DOCSTART- -X- O O\n\nThe DT I-NP O\n22 CD I-NP O\nmen NNS I-NP O\n"
    assert read("conll2003.txt", conll) == [(("The", "22", "men"), ("O", "O", "O"))]
    uner = "1\tat\tO\t-\t-\n2\t12:30\tO\t-\t-\n"
    assert read("a.iob2", uner) == [(("at", "12:30"), ("O", "O"))]
    assert read("time.conll", "10:45\tO\n") == [(("10:45",), ("O",))]
    assert read("address.conll", "http://a.org\tO\n\nftp://a.org\tO\n") == [
        (("http://a.org",), ("O",)),
        (("ftp://a.org",), ("O",)),
    ]
    assert read("wikiann.txt", "en:at O\nen:10:45 O\n") == [(("at", "10:45"), ("O", "O"))]


def test_a_file_of_many_languages_gives_those_lines_that_are_asked_for(tmp_path):
    file = tmp_path / "xnli.tsv"
    entry = {"format": "xnli", "language": "de", "train": str(file)}
    header = "language\tgold_label\tsentence1\tsentence2\n"
    file.write_text(header + "ar\tneutral\ta\tb\nde\tentailment\tc\td\n")
    assert read_labelled(entry) == [(("c", "d"), ("entailment",))]
    with pytest.raises(UserError, match="no line is in 'fr', only ar, de"):
        list(labelled.examples(entry | {"language": "fr"}, "train"))
    file.write_text(header + "de\tneutral\t\td\n")
    with pytest.raises(UserError, match=r"xnli\.tsv:2: premise, hypothesis or label is empty"):
        list(labelled.examples(entry, "train"))


def labelled_file(folder, name, text, form="conll", skipped=None, **entry):
    """Return the texts and labels of a file's examples."""
    (folder / name).write_text(text, encoding="utf-8")
    entry = {"format": form, "language": "en", "train": str(folder / name), **entry}
    return [(example.texts, example.labels) for example in labelled.examples(entry, "train", skipped)]


@pytest.mark.parametrize("word", ["10\u00a0000", "\u3000", "\u00a0", "a\u2028b", "a\u0085b", "a\u200bb", "\u2003x"])
@pytest.mark.parametrize("separator", [" ", "\t", "   "])
def test_only_spaces_and_tabs_separate_columns(tmp_path, word, separator):
    text = f"{word}{separator}O\nUlm{separator}B-LOC\n"
    assert labelled_file(tmp_path, "a.conll", text) == [((word, "Ulm"), ("O", "B-LOC"))]


def test_lines_of_conll_that_are_no_words(tmp_path):
    text = (
        "# text = a\tb\n1-2\tvom\t_\t-\t-\n1\tvon\tO\t-\t-\n2\tdem\tO\t-\t-\n2.1\tleer\tO\t-\t-\n3\tUlm\tB-LOC\t-\t-\n"
    )
    assert labelled_file(tmp_path, "uner.iob2", text) == [(("von", "dem", "Ulm"), ("O", "O", "B-LOC"))]
    ud = "1-2\tvom\t_\t_\t_\t_\t_\t_\t_\t_\n1\tvon\tvon\tADP\tAPPR\t_\t3\tcase\t_\t_\n"
    with pytest.raises(UserError, match=r"ud.conllu:2: ten columns of CoNLL-U.*cut -f2,4"):
        labelled_file(tmp_path, "ud.conllu", ud)
    assert labelled_file(tmp_path, "dates.conll", "2-3 O\n1990-2000 B-DATE\n") == [
        (("2-3", "1990-2000"), ("O", "B-DATE"))
    ]


def test_pairs_without_consensus_and_blank_lines_are_counted(tmp_path):
    snli = "gold_label\tsentence1_parse\tsentence1\tsentence2\nneutral\t( A )\ta\tb\n-\t( A )\tc\td\nentailment\t( A )\te\tf\n\n"
    skipped = Counter()
    found = labelled_file(tmp_path, "snli.txt", snli, "xnli", skipped)
    assert [labels[0] for _, labels in found] == ["neutral", "entailment"]
    assert skipped == {UNDECIDED: 1, BLANK: 1}
    entry = {"format": "xnli", "language": "en", "train": str(tmp_path / "snli.txt")}
    assert labelled.label_names(entry) == ("entailment", "neutral")
    own = labelled_file(tmp_path, "snli.txt", snli, "xnli", labels=("-", "neutral", "entailment"))
    assert len(own) == 3  # a class of that name that the config lists
