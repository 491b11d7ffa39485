"""Functions and data set libraries as sources of text, pairs and labelled sets."""

import sys
from collections import Counter

import pytest

from mlm_jax.data.text import corpora, labelled
from mlm_jax.data.text.reading import BLANK
from mlm_jax.data.text.sources import fingerprint, is_library
from tests.data.reading import pairs, refused, texts

CODE = """
def with_none(language, split): yield from ("a", None)
def with_number(language, split): yield from ("a", 3)
def with_bytes(language, split): yield from ("a", b"b")
def with_dictionary(language, split): yield from ("a", {"text": "b"})
def with_list(language, split): yield from ("a", ["b"])
def with_surrogate(language, split): yield from ("a", "b\\ud800")
def with_nul(language, split): yield from ("a", "b\\0")
def with_pair(language, split): yield from ("a", ("b", "c"))
def good(language, split): return ["a", "b"]
def triples(pair, split): yield from (("a", "b"), ("a", "b", "c"))
def half(pair, split): yield from (("a", "b"), ("a", None))
def plain(pair, split): yield from (("a", "b"), "ab")
def good_pairs(pair, split): yield from (("a", "b"), ["c", "d"])
def none(name, split): return None
def text(name, split): return "ab"
def labels(language, split): yield from (("a", "yes"), ("a", "b", "no"), (("c", "d"), "no"), ("  ", "no"))
def numbers(language, split): yield from (("a", "yes"), ("a", 1))
def lone(language, split): yield from (("a", "yes"), ("a",))
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    name = f"module_of_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


@pytest.mark.parametrize("name", [line.split()[1].split("(")[0] for line in CODE.split("\n") if "with_" in line])
def test_a_function_that_yields_no_text_is_named_with_the_number_of_the_example(module, name):
    assert f"{module}:{name}: example 2: " in refused(texts, f"{module}:{name}")


def test_functions_of_pairs_and_labels(module):
    assert texts(f"{module}:good") == ["a", "b"]
    assert pairs(f"{module}:good_pairs") == [("a", "b"), ("c", "d")]
    for name in ("triples", "half", "plain"):
        assert f"{module}:{name}: example 2" in refused(pairs, f"{module}:{name}")
    for read in (texts, pairs):
        assert "the function returns missing (None)" in refused(read, f"{module}:none")
        assert "the function returns 'ab' (str). Remedy: yield one example" in refused(read, f"{module}:text")
    skipped = Counter()
    entry = {"format": "function", "language": "de", "train": f"{module}:labels"}
    assert [example[:2] for example in labelled.examples(entry, "train", skipped)] == [
        (("a",), ("yes",)),
        (("a", "b"), ("no",)),
        (("c", "d"), ("no",)),
    ]
    assert skipped == {BLANK: 1}
    wrong = {"numbers": "example 2: the label is 1 (int)", "lone": "example 2 is ('a',)", "none": "returns missing"}
    for name, said in wrong.items():
        assert said in refused(lambda name=name: [*labelled.examples({**entry, "train": f"{module}:{name}"}, "train")])


def test_a_change_of_a_functions_code_changes_its_fingerprint(module, tmp_path):
    before = fingerprint(f"{module}:good")
    assert before == fingerprint(f"{module}:good") and len(before) == 2 and is_library(f"{module}:good")
    (tmp_path / f"{module}.py").write_text(CODE + "\n")
    assert before != fingerprint(f"{module}:good")
    assert fingerprint("nonexist:function") == ["nonexist:function"]


def test_a_data_set_changes_with_its_files(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for source, name in ((f"datasets:{tmp_path / 'set'}", []), ("tfds:lines/de:1.0.0", ["tfds:lines/de:1.0.0"])):
        assert fingerprint(source) == name  # it is not on this machine
        file = tmp_path / "set" / "data.arrow" if not name else tmp_path / "lines" / "de" / "1.0.0" / "train.tfrecord"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"a")
        before = fingerprint(source)
        file.write_bytes(b"ab")
        assert before[:-1] == name and before[-1][:2] == [str(file), 1] and fingerprint(source)[-1][1] == 2


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_tensorflow_datasets_in_either_of_its_file_formats(tmp_path, file_format):
    import tensorflow_datasets as tfds

    sentences = ["ein Fluss", "ein Stein"]

    class Lines(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        name = "lines_of_text"

        def _info(self):
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield from ((number, {"text": text}) for number, text in enumerate(sentences))

    builder = Lines(data_dir=str(tmp_path), file_format=file_format)
    try:
        builder.download_and_prepare()
    except ImportError as error:
        pytest.skip(f"tfds cannot write {file_format} here: {error}")
    from unittest import mock

    with mock.patch.object(tfds, "builder", lambda name: Lines(data_dir=str(tmp_path), file_format=file_format)):
        assert sorted(texts("tfds:lines_of_text")) == sentences
        message = refused(lambda: [*corpora.documents("tfds:lines_of_text", "de", "validation")])
        assert "tfds:lines_of_text: " in message and "check its splits" in message
