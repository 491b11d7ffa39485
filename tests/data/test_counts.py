"""Counts of a store and of a loader equal the stored and the read text."""

import numpy as np
import pytest

from mlm_jax.config import default_config
from mlm_jax.data.loading.loader import Loader
from mlm_jax.data.store.prepare import prepare
from mlm_jax.data.store.store import Store
from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.report.store_tables import fertility, mix_table
from tests.data import stores


def prepared(folder, **data):
    """A store of bytes, with documents of at most 20 tokens."""
    config = default_config()
    config.data.update(validation_fraction=0.0, max_document_tokens=20, **data)
    config.vocabulary.kind = "bytes"
    return Store.open(prepare(config, folder / "store", progress=False))


@pytest.mark.parametrize(
    "form, line",
    [
        ("pairs", "a" * 200 + "\t" + "b" * 9),
        ("tsv", "a" * 200 + "\tyes"),
        ("tsv", "a" * 200 + "\tbbb\tyes"),
        ("conll", f"{'a' * 200} O\nb O"),
    ],
)
def test_text_that_was_cut_off_is_not_counted(tmp_path, form, line):
    (tmp_path / "a.tsv").write_text(line + "\n")
    if form == "pairs":
        store = prepared(tmp_path, parallel={"de-en": str(tmp_path / "a.tsv")})
    else:
        store = prepared(
            tmp_path, labelled={"set": {"format": form, "language": "en", "train": str(tmp_path / "a.tsv")}}
        )
    (stream,) = store.streams.values()
    split = stream.split("train")
    # A space between two texts is counted, a separator is not.
    assert fertility(store, split)[1] == pytest.approx(1, abs=0.06)
    assert 17 <= split.characters == split.bytes <= 18 + 9


def test_words_of_bytes_have_spaces_between_them_and_labels_at_their_first_byte(tmp_path):
    (tmp_path / "a.conll").write_text("Ulm B-LOC\n\u200b O\nletter O\ngarden O\n", encoding="utf-8")
    entry = {"format": "conll", "language": "en", "train": str(tmp_path / "a.conll")}
    store = prepared(tmp_path, labelled={"set": entry}, prefix="none")
    split = store.stream("set").split("train")
    (ids,), (labels,) = split["inputs"].documents([0]), split["labels"].documents([0])
    assert store.vocabulary.decode(ids.tolist()).startswith("Ulm \u200b lett")
    found = {store.vocabulary.pieces([ids[place]])[0]: labels[place] for place in np.flatnonzero(labels >= 0)}
    assert found == {"<0x55>": 0, "<0xE2>": 1, "<0x6C>": 1, "<0x67>": 1}


def test_words_are_joined_as_text_is_read():
    """By every kind of vocabulary, so that a tagger sees the pieces that masked language modelling sees."""
    words = ["Ulm", "", "letter", "garden"]
    ids, starts = Vocabulary.bytes(("en",), 2).encode_words(words)
    assert ids == Vocabulary.bytes(("en",), 2).encode("Ulm letter garden") and starts == [0, -1, 4, 11]
    settings = default_config().vocabulary
    settings.size, settings.sentinels = 290, 2
    pieces = Vocabulary.train(["Ulm letter garden"] * 20, settings, ("en",))
    assert pieces.encode_words(words)[0] == pieces.encode("Ulm letter garden")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from mlm_jax.data.vocabulary.published import PublishedVocabulary

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        ["Ulm letter garden"] * 20, trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet)
    )
    byte_level = PublishedVocabulary(tokenizer.to_str(), {})
    assert byte_level.encode_words(words)[0] == byte_level.encode("Ulm letter garden")


def test_tokens_seen_of_one_example_a_row_are_those_of_the_cut_examples(tmp_path):
    """Half of the examples are longer than a row, half are shorter; after whole epochs the number is exact."""
    lengths = [4, 40] * 8
    examples = stores.documents(lengths)
    store = stores.write(
        tmp_path / "store",
        {
            "en-de": ("pairs", ("en", "de"), {"train": {"inputs": examples, "targets": examples[::-1]}}),
            "set": ("labelled", ("en",), {"train": {"inputs": examples, "labels": [[0]] * 16}}),
            "en": ("text", ("en",), {"train": {"inputs": examples}}),
        },
        ("en", "de"),
        labels={"set": ("a",)},
    )
    cut = sum(min(length, 16) for length in lengths)
    for kind, languages, options in (
        ("pairs", ("en", "de"), {}),
        ("labelled", ("en",), {}),
        ("text", ("en",), {"packed": False}),
    ):
        config = stores.config({"task": {"objective": "mlm", "rows": 8, "length": 16, **options}}, steps=100)
        seen = Loader(store, config, {"task": kind}).tokens_seen(6)  # three epochs of 16 examples
        assert {language: seen[language] for language in languages} == dict.fromkeys(languages, 3 * cut)


def test_tokens_seen_follow_the_row_length_of_each_phase(tmp_path):
    lengths = [4, 40] * 8
    store = stores.write(
        tmp_path / "store", {"en": ("text", ("en",), {"train": {"inputs": stores.documents(lengths)}})}, ("en",)
    )
    config = stores.config({"task": {"objective": "mlm", "rows": 8, "length": 16, "packed": False}}, steps=8)
    config.curriculum = ({"steps": 2}, {"steps": 6, "length": 32})
    seen = [Loader(store, config, {"task": "text"}).tokens_seen(step)["en"] for step in (0, 2, 4, 8)]
    first, second = (sum(min(length, most) for length in lengths) for most in (16, 32))
    assert seen == [0, first, first + second, first + 3 * second]


def test_a_pair_within_one_language_is_read_forward(tmp_path):
    """Such as question and answer of a user's own task; translations are read in both directions."""
    ones, twos = [np.array([2, 2, 1], np.int32)] * 8, [np.array([3, 3, 1], np.int32)] * 8
    store = stores.write(
        tmp_path / "store",
        {
            "qa": ("pairs", ("en", "en"), {"train": {"inputs": ones, "targets": twos}}),
            "en-de": ("pairs", ("en", "de"), {"train": {"inputs": ones, "targets": twos}}),
        },
        ("en", "de"),
    )
    for data, backward in (("qa", 0), ("en-de", 0.5)):
        config = stores.config({"task": {"objective": "translation", "rows": 8, "length": 4, "data": (data,)}}, steps=4)
        loader = Loader(store, config, {"task": "pairs"})
        first = np.concatenate([loader.batch(step)["task"]["inputs"].tokens[:, 0] for step in range(4)])
        assert (first == 3).mean() == backward


def test_the_mix_is_one_number_however_many_streams_a_language_has(tmp_path):
    tokens = {"a": ("en", 300), "b": ("en", 100), "c": ("de", 100)}
    store = stores.write(
        tmp_path / "store",
        {
            name: ("text", (language,), {"train": {"inputs": stores.documents([size])}})
            for name, (language, size) in tokens.items()
        },
        ("en", "de"),
    )
    table = mix_table(store)
    columns = {str(column.header): [*column.cells] for column in table.columns}
    for alpha in ("1", "0.5", "0"):
        config = stores.config({"mlm": {"objective": "mlm", "rows": 8, "length": 10}}, mixing={"alpha": float(alpha)})
        planned = Loader(store, config, {"mlm": "text"}).planned_shares("mlm", 0)
        shares = dict(zip(columns["language"], columns[alpha]))
        assert shares == {language: f"{share:.2%}" for language, share in planned.items()}
