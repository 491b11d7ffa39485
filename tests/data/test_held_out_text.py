"""Held-out text: messages if there is none, test sets without training text, codes with hyphens."""

import numpy as np
import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.data.loading.loader import Loader
from mlm_jax.data.store.prepare import join, prepare, prepare_shard
from mlm_jax.data.store.store import Store
from mlm_jax.data.store.vocabulary import vocabulary_sentences
from mlm_jax.data.text.languages import run_languages


@pytest.mark.parametrize("count, held_out", [(4, 0), (5, 1), (44, 4), (300, 10)])
def test_something_is_held_out_of_a_small_corpus(tmp_path, capsys, count, held_out):
    lines = [f"line {number}" for number in range(count)]
    (tmp_path / "en.txt").write_text("\n".join(lines * 2))  # copies are never on both sides
    (tmp_path / "pairs.tsv").write_text("\n".join(f"{line}\tzeile {line}" for line in lines))
    config = default_config()
    config.data.corpora = {"en": str(tmp_path / "en.txt")}
    config.data.validation_fraction = 1e-6
    config.vocabulary.kind = "bytes"
    stream = Store.open(prepare(config, tmp_path / "store")).stream("en")
    said = " ".join(capsys.readouterr().err.split())
    found = {split: stream.split(split).documents for split in stream.splits}
    expected = {5: 2, 44: 16, 300: 20}.get(count, 0)
    assert found == {"train": 2 * count - expected} | ({"validation": expected} if held_out else {})
    assert ("texts are held out; the share" in said) == bool(held_out)
    config.data.corpora, config.data.parallel = {}, {"en-de": str(tmp_path / "pairs.tsv")}
    stream = Store.open(prepare(config, tmp_path / "pairs", progress=False)).stream("en-de")
    assert ("validation" in stream.splits) == bool(held_out)
    if held_out:
        assert stream.split("validation").documents == held_out
    config.data.validation_fraction = 0.0
    assert [*Store.open(prepare(config, tmp_path / "none", progress=False)).stream("en-de").splits] == ["train"]


@pytest.fixture
def config(tmp_path):
    (tmp_path / "en.txt").write_text("the word was light\nand the light shines\n" * 3)
    (tmp_path / "pairs.tsv").write_text("das wort\tthe word\nlicht\tlight\n" * 3)
    (tmp_path / "fr.txt").write_text("le mot\nla lumiere\n")
    (tmp_path / "en-test.txt").write_text("a word\nlights\n")
    (tmp_path / "empty.txt").write_text("\n \n")
    changed = default_config()
    changed.data.corpora = {"en": str(tmp_path / "en.txt")}
    changed.data.parallel = {"de-en": str(tmp_path / "pairs.tsv")}
    changed.vocabulary.kind = "bytes"
    return changed


def test_text_of_which_nothing_is_held_out_is_named(config, tmp_path, capsys):
    prepare(config, tmp_path / "store")
    said = " ".join(capsys.readouterr().err.split())
    for name in ("en", "de-en"):
        assert (
            f"{name}: none of its text is held out, so it will not be evaluated. Remedy: name validation text in data.validation"
            in said
        )
    config.data.validation_fraction = 0  # which is asked for
    prepare(config, tmp_path / "none")
    assert "held out" not in capsys.readouterr().err


def test_held_out_text_that_is_empty_or_of_another_language_is_an_error(config, tmp_path):
    def message(**validation):
        config.data.validation = {name.replace("_", "-"): str(tmp_path / file) for name, file in validation.items()}
        with pytest.raises(UserError) as caught:
            prepare(config, tmp_path / "store", progress=False)
        return str(caught.value)

    assert message(en="empty.txt").startswith(
        f"{tmp_path / 'empty.txt'}: data.validation['en'] has no text after filtering"
    )
    assert (
        "config.data.validation: 'de-fr' is neither a language nor a pair of languages of the run; did you mean 'de-en'?"
        in message(de_fr="pairs.tsv")
    )
    assert "'ed' is neither a language nor a pair" in message(ed="en.txt")
    config.languages = ("en", "de", "fr")
    assert message(fr="empty.txt").startswith(f"{tmp_path / 'empty.txt'}: 'fr' has no examples after filtering")
    assert not (tmp_path / "store").exists()


def with_test_sets(config, folder):
    config.languages = ("en", "de", "fr")
    config.data.validation = {
        "fr-en": (str(folder / "fr.txt"), str(folder / "en-test.txt")),
        "fr": str(folder / "fr.txt"),
        "en": str(folder / "en-test.txt"),
    }
    return config


def test_a_test_set_needs_no_training_text(config, tmp_path):
    store = Store.open(prepare(with_test_sets(config, tmp_path), tmp_path / "store", progress=False))
    for name, kind, languages in (("fr-en", "pairs", ("fr", "en")), ("fr", "text", ("fr",))):
        stream = store.stream(name)
        assert (stream.kind, stream.languages, [*stream.splits]) == (kind, languages, ["validation"])
        assert stream.split("validation").documents == 2
    found = [
        store.vocabulary.decode(ids) for ids in store.stream("fr-en").split("validation")["inputs"].documents([0, 1])
    ]
    assert found == ["le mot", "la lumiere"]
    config.tasks = {"ranking": {"objective": "ranking", "rows": 2, "length": 16}}
    assert [stream.name for stream in Loader(store, config, {"ranking": "pairs"}).streams("ranking")] == ["de-en"]


def test_a_vocabulary_is_not_trained_on_a_test_set(config, tmp_path):
    config = with_test_sets(config, tmp_path)
    assert not any("mot" in sentence for sentence in vocabulary_sentences(config, config.languages))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_shards_hold_each_test_set_once(config, tmp_path, count):
    config = with_test_sets(config, tmp_path)
    prepare(config, tmp_path / "single", progress=False)
    for index in range(count):
        prepare_shard(config, tmp_path / "store", index, count, progress=False)
    join(config, tmp_path / "store", count, progress=False)
    one, two = (tmp_path / name / "manifest.json" for name in ("single", "store"))
    assert one.read_text() == two.read_text()


def test_pairs_of_languages_whose_codes_have_hyphens(config, tmp_path):
    config.data.parallel = {"en-zh-Hans": str(tmp_path / "pairs.tsv"), "zh-Hans-en": str(tmp_path / "p.tmx")}
    sides = "<tuv xml:lang='zh-Hans'><seg>a</seg></tuv><tuv xml:lang='en'><seg>b</seg></tuv>"
    (tmp_path / "p.tmx").write_text(f"<tmx><body><tu>{sides}</tu></body></tmx>")
    with pytest.raises(
        UserError, match=r"config.data.parallel: 'en-zh-Hans' is not two languages. Remedy: .* in config.languages"
    ):
        run_languages(config)
    config.languages = ("en", "zh-Hans")
    for index in range(2):  # a shard that does not read the corpora knows them too
        prepare_shard(config, tmp_path / "store", index, 2, progress=False)
    join(config, tmp_path / "store", 2, progress=False)
    store = Store.open(tmp_path / "store")
    assert store.stream("en-zh-Hans").languages == ("en", "zh-Hans")
    first = store.stream("zh-Hans-en").split("train")["targets"].documents(np.array([0]))[0].tolist()
    assert store.vocabulary.pieces(first) == ["<2en>", "<0x62>", "</s>"]
    assert next(vocabulary_sentences(config, ("zh-Hans",))) == "the word"
