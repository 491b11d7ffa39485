"""Filters of training text: the text that each keeps, copies across shards, and counts of dropped text."""

import json
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config, load_config
from mlm_jax.config.option import options_of
from mlm_jax.data.store import cleaning
from mlm_jax.data.store.filtering import FILTERS, steps
from mlm_jax.data.store.freshness import is_fresh
from mlm_jax.data.store.held_out import _Distinct, collect
from mlm_jax.data.store.prepare import join, prepare, prepare_shard
from mlm_jax.data.store.store import Store
from mlm_jax.data.store.vocabulary import vocabulary_sentences
from mlm_jax.report.store_tables import filters_table
from tests.data.test_shards import contents

LONG = "Der Fluss ist breit und tief, und die Fische schwimmen munter darin herum, jeden Tag im Jahr"


def config_of(folder, texts, filters, **pairs):
    """Write {name of a file: lines} and return a config of German from them, and of pairs; "web1" is a file of source "web"."""
    made = default_config()
    named = {}
    for name, lines in texts.items():
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
        named.setdefault(name.rstrip("0123456789"), str(folder / f"{name.rstrip('0123456789')}*.txt"))
    made.data.corpora = {"de": named} if named else {}
    for pair, lines in pairs.items():
        (folder / f"{pair}.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in lines))
        made.data.parallel = {"de-en": str(folder / f"{pair}.tsv")}
    made.vocabulary.kind, made.data.validation_fraction, made.data.filters = "bytes", 0.0, filters
    return made


def kept(made):
    """Return {stream: examples that the filters of a config keep}."""
    from mlm_jax.data.store.streams import sources

    held_out = collect(made)
    return {
        source.name: [
            example for _, batch in held_out.split(source, ("train",), cleaning.Counter()) for example in batch
        ]
        for source in sources(made)
    }


def judged(filter, examples, languages=("de",)):
    made = default_config()
    made.data.filters = (filter,)
    return steps(made)[0].filter.keeps(examples, languages).tolist()


@pytest.mark.parametrize(
    "filter, keeps, drops",
    [
        ({"filter": "length", "least": 3, "most": 5}, ["abc", "  abcde  ", "日本語"], ["ab", " ab ", "abcdef"]),
        ("letters", ["Tag 1!", "हिन्दी में", "日本語。", "ab 12"], ["12345 a", "!!! ---", "a 😀😀"]),
        ({"filter": "letters", "least": 0.9}, ["nurBuchstaben"], ["Tag 1"]),
        ("repeated_lines", ["a\nb\nc", "a\n\n\n\nb", "a\na\nb\nc\nd"], ["a\na", "a\nb\na\nb", "a \n a\na"]),
    ],
)
def test_filters_of_texts(filter, keeps, drops):
    assert judged(filter, keeps + drops) == [True] * len(keeps) + [False] * len(drops)
    pairs = [(text, other) for text in keeps + drops for other in (keeps[0], drops[0])]  # both sides must pass
    assert judged(filter, pairs, ("de", "en")) == [True, False] * len(keeps) + [False] * (2 * len(drops))


@pytest.mark.parametrize(
    "filter, keeps, drops",
    [
        ("identical_sides", [("Hallo", "hello")], [("Hallo", "hallo"), ("Ａ b", "A  b")]),
        (
            "length_ratio",
            [("ja", "yes, of course"), ("x" * 40, "x" * 14), ("日" * 14, "x" * 15)],
            [("x" * 40, "x" * 13)],
        ),
        ({"filter": "length_ratio", "most": 1, "shortest": 0}, [("ab", "cd")], [("ab", "c")]),
    ],
)
def test_filters_of_pairs(filter, keeps, drops):
    assert judged(filter, keeps + drops, ("de", "en")) == [True] * len(keeps) + [False] * len(drops)


def test_languages_are_told_apart_but_short_text_stays():
    pytest.importorskip("py3langid")
    german, english = LONG, "The river is wide and deep, and the fish swim happily in it on each day of the year"
    swahili = "Habari za asubuhi, karibu nyumbani kwetu leo tupate chakula cha mchana pamoja"
    texts = [german, english, swahili, "Okay, cool!", "1234567890 " * 9]
    for code in ("de", "deu", "deu_Latn", "de-AT"):
        assert judged("language", texts, (code,)) == [True, False, False, True, True]
    assert judged("language", texts, ("swh_Latn",)) == [False, False, True, True, True]
    assert judged("language", texts, ("nds",)) == [True] * 5  # a language that the model does not know
    assert judged("language", ["Der Fluss ist breit und tief"], ("ru",)) == [True]
    short = {"filter": "language", "shortest": 5, "sure": 0.5}
    assert judged(short, ["Der Fluss ist breit und tief", "ja"], ("ru",)) == [False, True]
    assert judged("language", [(german, english), (english, german)], ("de", "en")) == [True, False]
    with pytest.raises(UserError, match="'x' is not the code of a language"):
        judged("language", texts, ("x",))


def test_text_that_a_filter_cannot_judge_is_said(tmp_path):
    pytest.importorskip("py3langid")
    made = config_of(tmp_path, {"web": [LONG]}, ("language",))
    made.data.corpora = {"nds": made.data.corpora["de"]}
    said = []
    collect(made, said.append)
    assert said == ["data.filters, 1 language: py3langid does not know 'nds', so its text stays"]


def test_near_duplicates_are_texts_that_are_nearly_the_same(tmp_path):
    pytest.importorskip("rensa")
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice([*"abcdefghij"], 6)) for _ in range(400)]
    texts = [" ".join(rng.choice(words, 60)) for _ in range(40)]
    nearly = [text.replace(text.split()[30], "other").upper() for text in texts[:10]]  # similarity 0.95
    half = [" ".join([*text.split()[:30], *rng.choice(words, 30)]) for text in texts[10:20]]  # 0.33
    made = config_of(tmp_path, {"a": texts, "b": [*half, *nearly, "ab", "cd", "ab"]}, ("near_duplicates",))
    assert kept(made) == {"de:a": texts, "de:b": [*half, "ab", "cd"]}


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.lists(st.sampled_from(["a", "b", "c d", "c  d", "e", "", "Ａ"]), max_size=12), min_size=1, max_size=4)
)
def test_of_equal_texts_the_first_stays_over_files_and_sources(files):
    import tempfile

    expected, seen = [], set()
    names = ["web1", "web2", "wiki1", "wiki2"][: len(files)]
    for number, lines in enumerate(files):
        for line in lines:
            same = line.replace(" ", "").replace("Ａ", "A")
            if not same or same not in seen:
                expected.append((names[number].rstrip("12"), line))
            seen.add(same)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cleaning, "PART", 3)  # keys are sorted in several parts
        made = config_of(Path(folder), dict(zip(names, files)), ("exact_duplicates",))
        found = [(name[3:], line) for name, lines in kept(made).items() for line in lines]
    assert found == expected


def keys_of(folder, files):
    """Write the keys of files, {name: [examples, keys of each]}; returns (verdicts, file of keys) of each."""
    found = []
    for name, keys in files.items():
        with open(folder / name, "wb") as opened:
            cleaning._write(opened, np.arange(len(keys)), keys)
        found.append((np.zeros(len(keys), np.uint8), str(folder / name)))
    return found


@pytest.mark.parametrize("part", [2, 5, 1000])
def test_copies_do_not_depend_on_how_many_keys_are_sorted_at_a_time(tmp_path, monkeypatch, part):
    monkeypatch.setattr(cleaning, "PART", part)
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**64, 60, np.uint64)
    keys = [rng.choice(values, (count, 2)) for count in (40, 0, 30)]
    files = keys_of(tmp_path, dict(zip("abc", keys)))
    files[0][0][:10] = [1, 0, 3, 2, 0, 1, 0, 0, 3, 0]  # an earlier and a later step have dropped some
    seen, expected = set(), []
    for example, verdict in zip(np.concatenate(keys), np.concatenate([verdicts for verdicts, _ in files])):
        is_copy = verdict != 1 and any(key in seen for key in example.tolist())
        seen |= {*example.tolist()} if verdict != 1 else set()
        expected.append(2 if is_copy else verdict)
    assert expected.count(2) > 20
    cleaning._drop_copies(files, 2)
    assert [verdict for verdicts, _ in files for verdict in verdicts] == expected


def test_a_line_that_is_repeated_very_often_takes_no_more_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(cleaning, "PART", 50_000)
    same = np.full((500_000, 1), 2**63 + 5, np.uint64)
    files = keys_of(tmp_path, {"a": same})  # 8 MB
    for drop, dropped in (
        (lambda: cleaning._drop_copies(files, 1), len(same) - 1),
        (lambda: cleaning._draw(files, 400_000, 1), len(same)),
    ):
        files[0][0][:] = 0
        tracemalloc.start()
        drop()
        assert tracemalloc.get_traced_memory()[1] < 6_000_000
        tracemalloc.stop()
        assert files[0][0].sum() == dropped
    monkeypatch.setattr("mlm_jax.data.store.held_out.FEWEST_SORTED", 1000)
    tracemalloc.start()
    hashes = _Distinct(np.arange(5, dtype=np.uint64))
    for _ in range(500):
        hashes.add(same[:1000, 0])
    assert hashes.sorted().tolist() == [*range(5), 2**63 + 5]
    assert tracemalloc.get_traced_memory()[1] < 500_000
    tracemalloc.stop()


def test_keys_that_a_killed_prepare_left_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / ".mlm_jax_filters.0123abcd.incomplete").mkdir()
    (tmp_path / ".mlm_jax_filters.0123abcd.incomplete" / "0.1").touch()
    collect(config_of(tmp_path, {"a": ["kurz", "kurz"]}, ("exact_duplicates",)))
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_the_first_step_that_drops_an_example_counts_and_later_steps_see_what_is_left(tmp_path):
    lines = ["kurz", "kurz", "eine lange Zeile", "eine lange Zeile", "1234567890"]
    made = config_of(tmp_path, {"a": lines}, ({"filter": "length", "least": 8}, "exact_duplicates", "letters"))
    prepare(made, tmp_path / "s", progress=False)
    store = Store.open(tmp_path / "s")
    facts = store.manifest["facts"]["filters"]["de:a"]
    assert facts == {
        "stored": [1, 16, 16],
        "1 length": [2, 8, 8],
        "2 exact_duplicates": [1, 16, 16],
        "3 letters": [1, 10, 10],
        "documents": [0, 0, 0],
    }
    assert sum(counts[0] for counts in facts.values()) == len(lines)
    samples = [json.loads(line) for line in store.file("dropped.jsonl").splitlines()]
    assert [(sample["step"], sample["text"]) for sample in samples] == [
        ("1 length", "kurz"),
        ("1 length", "kurz"),
        ("2 exact_duplicates", "eine lange Zeile"),
        ("3 letters", "1234567890"),
    ]
    rows = [[*column.cells] for column in filters_table(store).columns]
    assert rows[1:] == [
        ["1 length", "2 exact_duplicates", "3 letters"],
        *(["2", "1", "1"], ["8", "16", "10"], ["8", "16", "10"]),  # dropped: examples, characters, tokens
        *(["3", "2", "1"], ["42", "26", "16"], ["42", "26", "16"]),  # kept
    ]
    made.data.filters = (*made.data.filters, "repeated_lines")
    assert not is_fresh(made, tmp_path / "s")


def test_a_step_may_be_for_some_text_only(tmp_path):
    long, short = ["lange Zeile"], ["kurz"]
    for only, expected in ((("de:a",), ["lange Zeile"]), ("b", ["lange Zeile", "kurz"]), ("de", ["lange Zeile"])):
        made = config_of(tmp_path, {"a": long + short, "b": long}, ({"filter": "length", "least": 8, "only": only},))
        assert kept(made)["de:a"] == expected


def many(folder, filters):
    rng = np.random.default_rng(3)
    lines = {
        name: [" ".join(rng.choice([*"abcd"], rng.integers(1, 5))) for _ in range(60)]
        for name in ("web1", "web2", "web3", "wiki")
    }
    pairs = [("a b", "c d"), ("a", "a"), ("a b", "c d")] * 4
    made = config_of(folder, lines, filters, pairs=pairs)
    made.data.validation_fraction = 0.1
    wiki = made.data.corpora["de"]["wiki"]
    made.data.corpora = {"de": {**made.data.corpora["de"], "wiki": {"files": wiki, "documents": 20}}}
    return made


def test_shards_drop_what_a_single_run_drops_bit_for_bit(tmp_path):
    filters = ("exact_duplicates", {"filter": "length", "least": 2}, "identical_sides")
    made = many(tmp_path, filters)
    prepare(made, tmp_path / "single", progress=False)
    for index in (2, 0, 1):
        prepare_shard(made, tmp_path / "store", index, 3, progress=False)
    join(made, tmp_path / "store", 3, progress=False)
    assert contents(tmp_path / "store") == contents(tmp_path / "single")
    assert "dropped.jsonl" in contents(tmp_path / "single") and "cleaned" not in contents(tmp_path / "single")


@pytest.mark.slow
def test_processes_drop_what_one_drops_bit_for_bit(tmp_path):
    made = many(tmp_path, ("exact_duplicates", "letters"))
    prepare(made, tmp_path / "single", progress=False)
    made.data.workers = 2
    prepare(made, tmp_path / "store", progress=False)
    assert contents(tmp_path / "store") == contents(tmp_path / "single")


def test_samples_of_shards_are_checked():
    line = b'{"stream": "de", "step": "1 length", "text": "x"}\n'
    assert cleaning.joined_samples({"a": line * 15, "b": line * 15}, ["stored", "1 length"]) == line * cleaning.SAMPLES
    for wrong in (
        b"[]",
        b"{}",
        b"{",
        b'{"stream": 1, "step": "1 length"}',
        b'{"stream": "de", "step": "x"}',
        b"[" * 10**5,
    ):
        with pytest.raises(UserError, match="b"):
            cleaning.joined_samples({"a": line, "b": wrong}, ["stored", "1 length"])


def test_a_source_may_be_capped_at_some_documents_drawn_by_their_hashes(tmp_path, monkeypatch):
    monkeypatch.setattr(cleaning, "PART", 7)  # keys are read in several parts
    lines = [f"Zeile {number}" for number in range(300)]
    made = config_of(tmp_path, {"a1": lines[:200], "a2": lines[200:], "b": lines[:10]}, ())
    made.data.corpora["de"]["a"] = {"files": made.data.corpora["de"]["a"], "documents": 50}
    found = kept(made)
    assert len(found["de:a"]) == 50 and found["de:b"] == lines[:10]
    assert 20 < sum(line in lines[:200] for line in found["de:a"]) < 45  # from both files, in proportion to their sizes
    (tmp_path / "a1.txt").write_text("\n".join(lines[250:]))
    (tmp_path / "a2.txt").write_text("\n".join(lines[:250]))
    assert {*kept(made)["de:a"]} == {*found["de:a"]}  # whatever their order in the files
    made.data.corpora["de"]["a"]["documents"] = 300
    assert len(kept(made)["de:a"]) == 300
    made.data.corpora["de"]["a"]["documents"], made.data.validation_fraction = 50, 0.2
    prepare(made, tmp_path / "s", progress=False)
    splits = Store.open(tmp_path / "s").streams["de:a"].splits
    assert splits["train"].documents + splits["validation"].documents == 50
    assert splits["validation"].documents > 5  # text that is held out is drawn as often as other text


def test_dropped_text_is_neither_held_out_nor_in_the_vocabulary(tmp_path):
    lines = [f"Zeile {number} ist lang genug" for number in range(40)] + ["Qx"] * 40
    made = config_of(tmp_path, {"a": lines}, ({"filter": "length", "least": 9},))
    made.data.validation_fraction = 0.25
    assert not any("Q" in sentence for sentence in vocabulary_sentences(made, ("de",)))
    prepare(made, tmp_path / "s", progress=False)
    store = Store.open(tmp_path / "s")
    for split in store.streams["de:a"].splits.values():
        for document in split["inputs"].documents(range(split.documents)):
            assert "Q" not in store.vocabulary.decode(document.tolist())
    made.data.validation = {"de:a": str(tmp_path / "held.txt")}
    (tmp_path / "held.txt").write_text("Qx\n")  # text that is named for validation is not filtered
    prepare(made, tmp_path / "named", progress=False)
    assert Store.open(tmp_path / "named").streams["de:a"].splits["validation"].documents == 1


def test_a_users_function_is_a_filter_and_its_code_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    module = f"keeps_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{module}.py").write_text(
        "def good(example, language):\n    return 'bad' not in example and language in ('de', ('de', 'en'))\n"
        "def worse(example, language):\n    return None\n"
    )
    made = config_of(tmp_path, {"a": ["gut", "bad"]}, (f"{module}:good",), pairs=[("a", "b"), ("bad", "c")])
    assert kept(made) == {"de:a": ["gut"], "de-en": [("a", "b")]}
    prepare(made, tmp_path / "s", progress=False)
    assert is_fresh(made, tmp_path / "s")
    with (tmp_path / f"{module}.py").open("a") as file:
        file.write("# changed\n")
    assert not is_fresh(made, tmp_path / "s")
    made.data.filters = (f"{module}:worse",)
    with pytest.raises(UserError, match=r"the filter returns missing \(None\) for 'gut'.*Remedy: return True or False"):
        kept(made)


def test_text_that_is_not_the_same_each_time_is_an_error(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    module = f"text_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{module}.py").write_text(
        "calls = []\ndef text(language, split):\n    calls.append(1)\n    return ['a'] * (3 + len(calls))\n"
    )
    made = config_of(tmp_path, {}, ("letters",))
    made.data.corpora = {"de": f"{module}:text"}
    with pytest.raises(UserError, match="it had 4 examples when it was filtered, and has another number now"):
        kept(made)


@pytest.mark.parametrize(
    "filter, problem",
    [
        ("exact_duplicate", r"data.filters\[0\] is 'exact_duplicate'; did you mean 'exact_duplicates'"),
        ({"filter": "length", "lest": 3}, "unknown key 'lest'; did you mean 'least'"),
        ({"filter": "length", "least": 0}, r"data.filters\[0\].least is 0"),
        ({"filter": "letters", "only": ("wbe",)}, "only names 'wbe'; did you mean 'web'"),
        ("no_such_module:f", "cannot import 'no_such_module'"),
        (3, "has the entry 3"),
        ({"least": 3}, "has the entry"),
    ],
)
def test_what_cannot_be_a_filter_is_named_before_anything_is_read(tmp_path, filter, problem):
    made = config_of(tmp_path, {"web": ["a"]}, (filter,))
    (tmp_path / "web.txt").unlink()
    with pytest.raises(UserError, match=problem):
        prepare(made, tmp_path / "s", progress=False)


@pytest.mark.parametrize("filter, library", [("near_duplicates", "rensa"), ("language", "py3langid")])
def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, filter, library):
    from mlm_jax.data.store.filters import language

    monkeypatch.setitem(sys.modules, library, None)
    language._identifier.cache_clear()
    with pytest.raises(UserError, match=rf"{library} is not installed.*\[filters\]"):
        steps(config_of(tmp_path, {"web": ["a"]}, (filter,)))


def test_a_config_in_json_names_no_function_as_a_filter(tmp_path):
    for entry in ('"os:system"', '{"filter": "os:system"}'):
        (tmp_path / "config.json").write_text(f'{{"data": {{"filters": [{entry}]}}}}')
        with pytest.raises(UserError, match="a config in JSON cannot name a function"):
            load_config(tmp_path / "config.json")


def test_the_page_on_data_tells_of_every_filter_and_its_options():
    page = Path(__file__, "../../../docs/data.md").resolve().read_text()
    for name, filter in FILTERS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}`"))
        for option, key in options_of(filter).items():
            assert f"`{option}`" in row and (key.default > 1e8 or f"{key.default:g}" in row), (name, option)


def test_hashes_that_cleaning_knows_give_the_same_held_out_text(tmp_path):
    rng = np.random.default_rng(5)
    lines = [" ".join(rng.choice([*"abcde"], 6)) + f" {number}" * (number % 3) for number in range(400)] + [
        "",
        "  ",
    ] * 5
    distinct = [*dict.fromkeys(line for line in lines if line.strip())]
    made = config_of(
        tmp_path,
        {"a1": lines[:150], "a2": lines[150:], "b": distinct},
        ({"filter": "length", "least": 3}, "exact_duplicates"),
    )
    made.data.validation_fraction = 0.2
    once = collect(made)
    (tmp_path / "plain").mkdir()
    plain = config_of(tmp_path / "plain", {"a1": distinct, "b": []}, ())
    plain.data.validation_fraction = 0.2
    for name in ("chosen", "named"):
        assert (getattr(once, name) == getattr(collect(plain), name)).all()
    assert len(once.chosen) > 40 and not once.cleaned.hashes
