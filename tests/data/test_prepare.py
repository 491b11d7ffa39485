"""From files to the store."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.data.store.freshness import is_fresh
from mlm_jax.data.store.prepare import prepare
from mlm_jax.data.store.store import Store
from mlm_jax.data.store.tasks import CUT, register
from mlm_jax.data.store.vocabulary import drawn
from mlm_jax.report.store_tables import fertility
from tests.data.words import WOERTER, WORDS, sentences


def text_config(folder):
    (folder / "en.txt").write_text("\n".join(sentences(WORDS, 120)))
    (folder / "de.txt").write_text("\n".join(sentences(WOERTER, 100, 1)))
    (folder / "pairs.tsv").write_text("das wort\tthe word\n\tempty side\nlicht\tlight\n" * 20)
    (folder / "genre.tsv").write_text("the light\tgood\nthe darkness\tbad\n" * 10)
    config = default_config()
    config.data.corpora = {"en": str(folder / "en.txt"), "de": str(folder / "de.txt")}
    config.data.parallel = {"de-en": str(folder / "pairs.tsv")}
    config.data.labelled = {"genre": {"format": "tsv", "language": "en", "train": str(folder / "genre.tsv")}}
    config.data.validation_fraction = 0.2
    config.vocabulary.size, config.vocabulary.sentinels = 310, 3
    return config


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    config = text_config(folder)
    prepare(config, folder / "store", progress=False)
    return config, folder


def test_the_store_holds_what_the_files_hold(prepared):
    config, folder = prepared
    store = Store.open(folder / "store")
    assert store.languages == ("en", "de") and {*store.streams} == {"en", "de", "de-en", "genre"}
    vocabulary = store.vocabulary
    texts = set()
    for split in ("train", "validation"):
        found = store.stream("en").split(split)
        documents = found["inputs"].documents(np.arange(found.documents))
        for document in documents:
            assert document[0] == vocabulary.language_ids["en"] and document[-1] == vocabulary.eos_id
        mine = {vocabulary.decode(document.tolist()) for document in documents}
        assert not mine & texts  # nothing is on both sides
        texts |= mine
    assert texts == set(sentences(WORDS, 120))
    pairs = store.stream("de-en")
    assert sum(split.documents for split in pairs.splits.values()) == 40
    assert store.manifest["facts"]["skipped"]["de-en"] == {"a side is empty": 20}
    assert store.stream("genre").labels == ("bad", "good")
    assert store.stream("genre").split("train")["labels"].documents([0, 1])[0] == [1]
    sizes = store.stream("en").splits
    assert sum(split.characters for split in sizes.values()) == sum(map(len, sentences(WORDS, 120)))


def test_the_bar_counts_the_tokens_of_the_store(prepared, tmp_path, capsys):
    prepare(prepared[0], tmp_path / "store")
    said = " ".join(capsys.readouterr().err.split())
    for name, stream in Store.open(tmp_path / "store").streams.items():
        tokens = sum(split.tokens for split in stream.splits.values())
        assert re.search(rf"{name} \S+ {tokens:,} tokens", said), (name, tokens, said)


def test_the_store_holds_what_seqio_makes_of_the_tasks(prepared):
    config, folder = prepared
    store = Store.open(folder / "store")
    for one in register(config, store.vocabulary):
        for split in one.splits:
            examples = list(one.task.get_dataset(sequence_length=None, split=split, shuffle=False).as_numpy_iterator())
            assert (split in store.stream(one.name).splits) == bool(examples)
            if not examples:
                continue
            found = store.stream(one.name).split(split)
            assert found.documents == len(examples)
            for feature in one.task.output_features:
                for ours, theirs in zip(found[feature].documents(np.arange(found.documents)), examples):
                    np.testing.assert_array_equal(ours, theirs[feature])


def test_text_without_pieces_is_left_out_and_counted(tmp_path, vocabulary):
    config, nothing = text_config(tmp_path), "\u200b"
    (tmp_path / "en.txt").write_text(f"the light\n{nothing}\n \n")
    (tmp_path / "pairs.tsv").write_text(f"das wort\tthe word\n{nothing}\tthe light\nlicht\t{nothing}{nothing}\n")
    (tmp_path / "genre.tsv").write_text(f"the light\tgood\n{nothing}\tbad\n")
    (tmp_path / "nli.tsv").write_text(f"the light\t{nothing}\tgood\nthe light\tthe word\tbad\n")
    (tmp_path / "ner.conll").write_text(f"{nothing} O\n\nlight O\n")
    for name, form in (("genre", "tsv"), ("nli", "tsv"), ("ner", "conll")):
        config.data.labelled[name] = {"format": form, "language": "en", "train": str(tmp_path / f"{name}.{form}")}
    config.data.validation_fraction = 0.0
    wanted = {
        "en": "a blank line, or no text",
        "de-en": "a side is empty",
        "genre": "a blank line, or no text",
        "nli": "a side is empty",
        "ner": "a blank line, or no text",
    }
    for one in register(config, vocabulary):
        if one.name in wanted:
            assert len([*one.examples("train")]) == 1
            assert one.skipped[wanted[one.name]] == (2 if one.kind != "labelled" else 1)


def test_fertility_is_of_the_text_alone(tmp_path):
    """A byte is a token of a character of this text, and words are four letters long, with a space between."""
    (tmp_path / "en.txt").write_text("word mark\n" * 30)
    (tmp_path / "pairs.tsv").write_text("wort wort\tword mark\n" * 20)
    (tmp_path / "nli.tsv").write_text("word mark\tmark word\tyes\n" * 20)
    config = default_config()
    config.data.corpora, config.data.parallel = {"en": str(tmp_path / "en.txt")}, {"de-en": str(tmp_path / "pairs.tsv")}
    config.data.labelled = {"nli": {"format": "tsv", "language": "en", "train": str(tmp_path / "nli.tsv")}}
    config.vocabulary.kind = "bytes"
    store = Store.open(prepare(config, tmp_path / "store", progress=False))
    # The text of a pair has one more space.
    for name, expected in {"en": (4.5, 1), "de-en": (4.5, 1), "nli": (4.5, 18 / 19)}.items():
        assert fertility(store, store.stream(name).split("train")) == pytest.approx(expected)


def test_prepared_again_it_is_the_same_and_fresh(prepared, tmp_path):
    config, folder = prepared
    assert is_fresh(config, folder / "store")
    prepare(config, tmp_path / "again", progress=False)
    one, two = (json.loads((place / "manifest.json").read_text()) for place in (folder / "store", tmp_path / "again"))
    assert one == two
    for name in ("en", "de-en"):
        a, b = (
            Store.open(place).stream(name).split("train")["inputs"].read()
            for place in (folder / "store", tmp_path / "again")
        )
        np.testing.assert_array_equal(a, b)
    config.data.max_document_tokens = 5
    try:
        assert not is_fresh(config, folder / "store")
        prepare(config, tmp_path / "short", progress=False)
        short = Store.open(tmp_path / "short")
        assert short.stream("en").split("train").longest("inputs") == 5
        assert short.manifest["facts"]["skipped"]["de-en"] == {"a side is empty": 20, CUT: 40}
    finally:
        config.data.max_document_tokens = 8192


def test_a_store_whose_sources_are_elsewhere_is_fresh_for_its_own_config_only(tmp_path):
    config = default_config()
    config.data.corpora, config.vocabulary.kind = {"en": str(tmp_path / "en.txt")}, "bytes"
    (tmp_path / "en.txt").write_text("\n".join(sentences(WORDS, 20)))
    prepare(config, tmp_path / "store", progress=False)
    (tmp_path / "en.txt").unlink()
    assert is_fresh(config, tmp_path / "store")
    for changes in ({"corpora": {"de": str(tmp_path / "absent.txt")}}, {"max_document_tokens": 9}):
        other = config.copy_and_resolve_references()
        other.data.update(changes)
        with pytest.raises(UserError, match="no file matches"):
            prepare(other, tmp_path / "store", progress=False)
    config.data.corpora = {}
    assert is_fresh(config, tmp_path / "store")


def test_what_cannot_be_prepared_leaves_nothing(tmp_path):
    config = text_config(tmp_path)
    (tmp_path / "empty.txt").write_text("\n  \n")
    for changes, message in (
        ({"corpora": {"en": str(tmp_path / "empty.txt")}}, r"empty\.txt: language 'en' has no text"),
        ({"parallel": {"deen": str(tmp_path / "pairs.tsv")}}, "not two languages"),
        ({"corpora": {}, "parallel": {}, "labelled": {}}, "names no data"),
        ({"mixture": "absent"}, "data.mixture and data.corpora are both set"),
        ({"mixture": "absent", "corpora": {}, "labelled": {}}, "data.mixture and data.parallel are both set"),
        ({"mixture": "absent", "corpora": {}, "parallel": {}}, "data.mixture and data.labelled are both set"),
        (
            {"mixture": "absent", "mixture_languages": {"a": "en"}, "corpora": {}, "parallel": {}, "labelled": {}},
            "no seqio mixture 'absent'",
        ),
    ):
        broken = text_config(tmp_path)
        broken.data.update(changes)
        with pytest.raises(UserError, match=message):
            prepare(broken, tmp_path / "store", progress=False)
        assert not list(tmp_path.glob("store*"))
    assert config.data.corpora["en"].endswith("en.txt")


@given(have=st.integers(1, 60), share=st.floats(0, 1))
def test_sentences_of_the_vocabulary_are_drawn_exactly_and_the_same_each_time(have, share):
    count = int(share * have)
    sentences = [str(i) for i in range(have)]
    found = list(drawn(sentences, count, have, seed="de"))
    assert len(found) == count and found == sorted(found, key=int) and set(found) <= set(sentences)
    assert found == list(drawn(sentences, count, have, seed="de"))


def test_a_text_with_a_period_gives_all_of_it_to_the_vocabulary():
    """Every second sentence would be all odd or all even."""
    found = list(drawn((str(i % 2) for i in range(2000)), 1000, 2000, seed="de"))
    assert 400 < found.count("0") < 600
