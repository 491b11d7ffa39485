"""No text of any validation split occurs in any training stream."""

import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlm_jax.cli import main
from mlm_jax.config import default_config
from mlm_jax.data.store import same_text
from mlm_jax.data.store.held_out import CUT_OUT, SENTENCE_HELD_OUT, TEXT_HELD_OUT, HeldOut, collect
from mlm_jax.data.store.prepare import join, prepare, prepare_shard
from mlm_jax.data.store.same_text import fingerprints, sentences, whole_fingerprints
from mlm_jax.data.store.store import Store
from mlm_jax.data.store.tasks import register
from mlm_jax.data.store.vocabulary import vocabulary_sentences
from mlm_jax.data.vocabulary.pieces import Vocabulary

LANGUAGES = ("de", "en", "fr", "ko")


def compact(text):
    return "".join(unicodedata.normalize("NFKC", text).split())


def texts_of(store, split):
    """Return {text without spaces} of a split of all streams, out of the stored tokens, and {stream: its examples}."""
    texts, examples = set(), {}
    for name, stream in store.streams.items():
        if split in stream.splits:
            found = stream.split(split)
            sides = [found[feature] for feature in found.features if feature != "labels"]
            rows = [side.documents(np.arange(found.documents)) for side in sides]
            examples[name] = [
                tuple(compact(store.vocabulary.decode(side.tolist())) for side in row) for row in zip(*rows)
            ]
            texts |= {text for example in examples[name] for text in example}
    return texts, examples


def n_way(folder, lines, pairs, fraction=0.2, corpora=LANGUAGES):
    """Write lines, a text for each language in each, as corpora and as pairs, and return the config."""
    for language in LANGUAGES:
        (folder / f"{language}.txt").write_text("".join(line[language] + "\n" for line in lines))
    config = default_config()
    config.languages = LANGUAGES
    config.data.corpora = {language: str(folder / f"{language}.txt") for language in corpora}
    config.data.parallel = {f"{a}-{b}": (str(folder / f"{a}.txt"), str(folder / f"{b}.txt")) for a, b in pairs}
    config.data.validation_fraction = fraction
    config.vocabulary.kind = "bytes"
    return config


def numbered(count):
    return [{language: f"{language} line {number}" for language in LANGUAGES} for number in range(count)]


STAR = [("de", "en"), ("en", "fr"), ("ko", "en")]
ALL = [(a, b) for i, a in enumerate(LANGUAGES) for b in LANGUAGES[i + 1 :]]
CHAIN = [("de", "en"), ("fr", "ko"), ("en", "fr")]


@pytest.mark.parametrize("pairs", [STAR, ALL, CHAIN], ids=["star", "all", "chain"])
def test_an_n_way_corpus_splits_alike_in_every_pair_and_language(tmp_path, pairs):
    store = Store.open(prepare(n_way(tmp_path, numbered(200), pairs), tmp_path / "store", progress=False))
    held, examples = texts_of(store, "validation")
    trained, training = texts_of(store, "train")
    assert not held & trained
    lines = {name: {"".join(filter(str.isdigit, example[0])) for example in found} for name, found in examples.items()}
    assert len({frozenset(found) for found in lines.values()}) == 1 and set(lines) == {
        *LANGUAGES,
        *map("-".join, pairs),
    }
    assert 20 < len(lines["de"]) < 60  # a fifth of 200
    assert all(len(training[name]) + len(examples[name]) == 200 for name in lines)  # nothing had to be left out
    assert not any(store.manifest["facts"]["skipped"].values())


words = st.sampled_from(["a", "b", "c", "d e", "D E", "f. g", "ｆ"])
random_lines = st.lists(st.fixed_dictionaries(dict.fromkeys(LANGUAGES, words)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    lines=random_lines,
    pairs=st.lists(st.sampled_from([*ALL, *(pair[::-1] for pair in ALL)]), unique=True, max_size=6),
    fraction=st.sampled_from([0.1, 0.3, 0.6]),
    held=random_lines,
)
def test_no_validation_text_is_trained_on_in_random_n_way_corpora(tmp_path_factory, lines, pairs, fraction, held):
    folder = tmp_path_factory.mktemp("n_way")
    config = n_way(folder, lines, pairs, fraction)
    (folder / "test.tsv").write_text("".join(f"{line['de']}\t{line['fr']}\n" for line in held))
    config.data.validation = {"de-fr": str(folder / "test.tsv")}
    held_out = collect(config)
    trained, measured = set(), set()
    for one in register(config, Vocabulary.bytes(LANGUAGES, 0), held_out):
        for split, found in (("train", trained), ("validation", measured)):
            if split in one.splits:
                for example in one.examples(split):
                    for feature in one.task.output_features:
                        found.add(compact(bytes(i - 4 for i in example[feature] if 4 <= i < 260).decode()))
    assert not trained & measured


def test_mirrored_pairs_split_alike(tmp_path):
    (tmp_path / "a.tsv").write_text("".join(f"ein Satz {i}\ta sentence {i}\n" for i in range(60)))
    (tmp_path / "b.tsv").write_text("".join(f"a sentence {i}\tein Satz {i}\n" for i in range(60)))
    config = default_config()
    config.data.parallel = {"de-en": str(tmp_path / "a.tsv"), "en-de": str(tmp_path / "b.tsv")}
    config.data.validation_fraction, config.vocabulary.kind = 0.3, "bytes"
    store = Store.open(prepare(config, tmp_path / "store", progress=False))
    _, examples = texts_of(store, "validation")
    assert {pair[::-1] for pair in examples["de-en"]} == {*examples["en-de"]} != set()
    assert not texts_of(store, "validation")[0] & texts_of(store, "train")[0]


LONG_SENTENCE = "The light shines in the darkness, and the darkness has not overcome it."


def with_every_source(folder):
    """Return the config of a run with held-out text of every kind, all of which also stands in its training text."""
    (folder / "held.py").write_text(
        "def both(language, split):\n    yield from ['der Anfang', 'nur hier'][: 1 if split == 'validation' else 2]\n"
    )
    english = [
        "kept",
        "a named  text",
        "\uff41 label",
        f"the start. {LONG_SENTENCE} the end.\nDer Anfang!",
        "he\nsaid, yes",
        f"{LONG_SENTENCE}\n\n",
        "der Anfang",
    ]
    (folder / "en.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in english))
    (folder / "held.txt").write_text("a named text\nDer Anfang!\n")
    (folder / "pairs.tsv").write_text(
        f"gut\ta named text\ngut\tgood\nder Anfang\tbegin\nx y\tWell. {LONG_SENTENCE} So.\n"
    )
    (folder / "tests.tsv").write_text(f"Le.\t{LONG_SENTENCE} And more.\n")
    (folder / "train.tsv").write_text("a named text\tyes\nfree\tno\nfree\ta named text\tyes\nfree\tgood\tyes\n")
    (folder / "validation.tsv").write_text("a label\tyes\n")
    (folder / "train.conll").write_text("a O\nnamed O\ntext O\n\nfree O\n")
    (folder / "validation.conll").write_text("he O\nsaid O\n, O\nyes O\n")
    config = default_config()
    config.languages = ("en", "de", "fr")
    config.data.corpora = {"en": str(folder / "en.jsonl"), "de": "held:both"}
    config.data.parallel = {"de-en": str(folder / "pairs.tsv")}
    config.data.validation = {"en": str(folder / "held.txt"), "fr-en": str(folder / "tests.tsv")}
    for name, form in (("genre", "tsv"), ("names", "conll")):
        files = {split: str(folder / f"{split}.{form}") for split in ("train", "validation")}
        config.data.labelled[name] = {"format": form, "language": "en", **files}
    config.data.validation_fraction, config.vocabulary.kind = 0.0, "bytes"
    return config


def test_text_of_every_kind_of_validation_split_is_left_out_of_every_kind_of_training_text(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.syspath_prepend(tmp_path)
    config = with_every_source(tmp_path)
    store = Store.open(prepare(config, tmp_path / "store"))
    assert texts_of(store, "train")[1] == {
        "en": [("kept",), ("thestart.theend.",)],
        "de": [("nurhier",)],
        "de-en": [("gut", "good")],
        "genre": [("free",), ("freegood",)],
        "names": [("free",)],
    }
    reasons = {
        "en": {TEXT_HELD_OUT: 5, CUT_OUT: 1},
        "de": {TEXT_HELD_OUT: 1},
        "de-en": {TEXT_HELD_OUT: 2, SENTENCE_HELD_OUT: 1},
        "genre": {TEXT_HELD_OUT: 2},
        "names": {TEXT_HELD_OUT: 1},
        "fr-en": {},
    }
    assert store.manifest["facts"]["skipped"] == reasons and store.manifest["facts"]["held_out"] == 8
    said = " ".join(capsys.readouterr().err.split())
    for name, counts in reasons.items():
        for reason, count in counts.items():
            assert f"{name}: {count} examples left out or changed ({reason})" in said
    assert [*vocabulary_sentences(config, ("en",))] == ["kept", "the start. the end."]


def test_inspect_shows_the_overlap_that_there_was(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    with_every_source(tmp_path)
    (tmp_path / "config.py").write_text(
        "from test_everything import with_every_source\nfrom pathlib import Path\n\n\ndef get_config():\n"
        f"    config = with_every_source(Path({str(tmp_path)!r}))\n"
        "    config.tasks = {'mlm': {'objective': 'mlm', 'rows': 1, 'length': 8, 'mask_rate': 0.3}}\n    return config\n"
    )
    (tmp_path / "test_everything.py").write_text(f"from {__name__} import with_every_source\n")
    monkeypatch.setenv("COLUMNS", "150")
    assert main(["inspect", "--config", str(tmp_path / "config.py"), "--workdir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    rows = {
        line.split("│")[1].strip(): line
        for line in shown.split("was left out")[1].split("compared with 8")[0].splitlines()
        if line.startswith("│")
    }
    assert [cell.strip() for cell in rows["de-en"].split("│")[2:-1]] == ["2", "1", "0", "1"]
    assert set(rows) == {"en", "de", "de-en", "genre", "names"}


def test_one_key_turns_it_off(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    config = with_every_source(tmp_path)
    config.data.decontaminate = False
    store = Store.open(prepare(config, tmp_path / "store", progress=False))
    assert store.manifest["facts"]["skipped"] == dict.fromkeys(store.streams, {})
    assert [store.stream(name).split("train").documents for name in ("en", "de", "de-en", "genre", "names")] == [
        7,
        2,
        4,
        4,
        2,
    ]
    config = n_way(tmp_path, numbered(50), STAR)
    config.data.decontaminate = False  # texts are still split in the same way
    store = Store.open(prepare(config, tmp_path / "other", progress=False))
    assert not texts_of(store, "train")[0] & texts_of(store, "validation")[0]


@pytest.mark.parametrize("count", [1, 3])
def test_shards_find_the_overlap_of_a_single_run(tmp_path, monkeypatch, count):
    monkeypatch.syspath_prepend(tmp_path)
    config = with_every_source(tmp_path)
    config.data.validation_fraction = 0.4
    (tmp_path / "more.tsv").write_text("".join(f"a named text\tfr {i}\nen {i}\tla suite {i}\n" for i in range(9)))
    config.data.parallel = {
        **config.data.parallel,
        "en-fr": str(tmp_path / "more.tsv"),
        "fr-en": str(tmp_path / "tests.tsv"),
    }
    prepare(config, tmp_path / "single", progress=False)
    for index in reversed(range(count)):
        prepare_shard(config, tmp_path / "store", index, count, progress=False)
    join(config, tmp_path / "store", count, progress=False)
    for name in ("manifest.json", "held_out"):
        assert (tmp_path / "single" / name).read_bytes() == (tmp_path / "store" / name).read_bytes()


def test_a_validation_file_that_the_training_glob_matches_is_no_training_text(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("eins\nzwei\n")
    (tmp_path / "b.txt").write_text("drei\n")
    config = default_config()
    config.data.corpora, config.data.validation = {"de": str(tmp_path / "*.txt")}, {"de": str(tmp_path / "b.txt")}
    config.vocabulary.kind = "bytes"
    store = Store.open(prepare(config, tmp_path / "store", progress=False))
    assert texts_of(store, "train")[0] == {"eins", "zwei"} and texts_of(store, "validation")[0] == {"drei"}
    config.data.validation = {"de": str(tmp_path / "*.txt")}
    prepare(config, tmp_path / "none")
    said = " ".join(capsys.readouterr().err.split())
    assert "de: nothing is left to train on, since all of its text is held out. Remedy: name other text" in said


def test_memory_is_eight_bytes_a_held_out_text(tmp_path):
    (tmp_path / "en.txt").write_text("".join(f"text number {i}\n" for i in range(5000)))
    config = default_config()
    config.data.corpora, config.data.validation_fraction = {"en": str(tmp_path / "en.txt")}, 0.5
    held_out = collect(config)
    assert abs(len(held_out) - 2500) < 150 and held_out.chosen.nbytes + held_out.named.nbytes == 8 * len(held_out)
    again = HeldOut.unpack(held_out.pack(), True)
    np.testing.assert_array_equal(again.chosen, held_out.chosen)
    assert len(held_out.pack()) == 8 * (len(held_out) + 1)


# -------------------------------------------------------------------------------------------------- when texts are the same

any_text = st.text(
    st.sampled_from([*"abAB .!?…'\"”’»)]\n\t\x1e\u00a0\u3000\u200b\u2028。！？।۔ａＡ½é\u0301"]), max_size=20
)


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(any_text, min_size=1, max_size=5))
def test_texts_are_compared_without_white_space_and_in_nfkc(texts):
    found = whole_fingerprints(texts)
    for a, b, empty in zip(texts, found.hashes, found.empty):
        assert empty == (not compact(a.replace("\u200b", "")))
        for c, d in zip(texts, found.hashes):
            assert (b == d) == (compact(a.replace("\u200b", "")) == compact(c.replace("\u200b", "")))
    together = fingerprints(texts, 1)
    np.testing.assert_array_equal(together.hashes[together.whole], found.hashes)


# Marks, letters that change or compose (Hindi, Korean, Vietnamese, Hebrew, ligatures), and letters that do not.
composing = st.text(
    st.sampled_from([*"abक한가水бạ", *"\u093c\u094d\u0301\u0323\u05b8\u05bc\u1100\u1161\u11a8ｶﾞﬁ²̈́ख़नㅎ𝐀😀\U000110ba"]),
    max_size=12,
)


@settings(max_examples=400, deadline=None)
@given(texts=st.lists(composing, min_size=1, max_size=4))
def test_nfkc_of_a_part_is_nfkc_of_the_text(texts):
    joined = same_text.TEXT_END.join(texts) + "x" * 40 * same_text.DENSE  # few may change
    assert same_text._normalised(joined, same_text._table(True)[same_text._units(joined)]) == unicodedata.normalize(
        "NFKC", joined
    )


def test_every_character_that_nfkc_may_change_is_looked_at():
    table = same_text._table(False)
    for code in (code for code in range(1 << 16) if not 0xD800 <= code < 0xE000):
        character, canonical = chr(code), unicodedata.normalize("NFD", chr(code))
        assert all(ord(second) > 0xFFFF or table[ord(second)] >= same_text.CHANGES for second in canonical[1:])
        assert table[code] >= same_text.CHANGES or unicodedata.normalize("NFKC", character) == character
        assert table[code] >= same_text.JOINS or not unicodedata.combining(character)


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(any_text, min_size=1, max_size=5))
def test_the_sentences_that_are_cut_out_are_those_that_were_compared(texts):
    found = fingerprints(texts, 1)
    for index, text in enumerate(texts):
        parts = sentences(text)
        assert compact("".join(parts)) == compact(text.replace("\u200b", ""))
        hashes = whole_fingerprints(parts)
        own = found.hashes[found.owners == index][1:]
        expected = hashes.hashes[~hashes.empty]
        np.testing.assert_array_equal(own, expected if len(expected) > 1 else [])


def test_where_sentences_end():
    assert sentences('He said "Yes." Then (no?) he left.\nAnd e.g.this…  so') == [
        'He said "Yes." ',
        "Then (no?) ",
        "he left.\n",
        "And e.g.this... ",
        " so",
    ]
    assert sentences("我是。你好！「吗？」") == ["我是。", "你好!", "「吗?", "」"]
