"""Zip files of OPUS."""

import re
import zipfile

import pytest

from mlm_jax.data.text import corpora
from tests.data.reading import pairs, refused


def opus(file, members):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_a_zip_file_of_opus_has_two_files_of_lines(tmp_path):
    notes = {"README": "notes", "LICENSE": "free", "TED.de-en.xml": "<x/>", "TED.de-en.scores": "1\n2\n"}
    opus(tmp_path / "de-en.txt.zip", {**notes, "TED.de-en.de": "eins\nzwei\n", "TED.de-en.en": "one\ntwo\n"})
    assert pairs(tmp_path / "*.zip") == [("eins", "one"), ("zwei", "two")]
    opus(tmp_path / "b.zip", {"x/TED.pt_br-zh_CN.pt_br": "um\n", "x/TED.pt_br-zh_CN.zh_CN": "一\n"})
    assert [*corpora.sentence_pairs(str(tmp_path / "b.zip"), "pt-zh", "train")] == [("um", "一")]
    assert [*corpora.sentence_pairs(str(tmp_path / "b.zip"), "zh-pt", "train")] == [("一", "um")]


@pytest.mark.parametrize(
    "members, said",
    [
        ({"a.de": "x\n", "a.fr": "y\n"}, "no single file of 'en', but a.de, a.fr"),
        ({"a.de": "x\n", "b.de": "x\n", "a.en": "y\n"}, "no single file of 'de', but a.de, b.de"),
        ({"a.de": "x\ny\n", "a.en": "y\n"}, "a.en:2: the file ends where .*a.de has line 2"),
        ({"a.de": b"gut\nsch\xf6n\n", "a.en": "y\nz\n"}, "a.de:2: this is not UTF-8"),
        ({"a.de": b"x" * 5000, "a.en": "y\n"}, "a.de:1: the line has more than 4,000 bytes"),
        ({}, "no single file of 'de', but nothing"),
    ],
)
def test_a_zip_file_that_is_no_pair_is_named(tmp_path, members, said):
    opus(tmp_path / "a.zip", members)
    assert re.search(said, refused(pairs, tmp_path / "a.zip", most_bytes=4000))


def test_a_damaged_zip_file_is_named(tmp_path):
    opus(tmp_path / "a.zip", {"a.de": "eins zwei\n" * 90, "a.en": "one two\n" * 90})
    whole = (tmp_path / "a.zip").read_bytes()
    for content in (b"", b"PK", whole[:60], whole[: len(whole) // 2], whole[:45] + b"~~~~" + whole[49:]):
        (tmp_path / "a.zip").write_bytes(content)
        assert re.search(
            "a.zip: cannot read it: .*Remedy: fetch or pack the file again", refused(pairs, tmp_path / "a.zip")
        )
