"""Files and globs that are easily read wrongly: the examples or the error of the reader."""

import gzip
import os
import re
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlm_jax.data.text import labelled
from mlm_jax.data.text.formats.parquet_pages import page_sizes
from mlm_jax.data.text.formats.tmx import DOUBLED
from mlm_jax.data.text.sources import fingerprint, matches
from tests.data.reading import pairs, refused, texts


def zst_with_window(log, text):
    """A Zstandard frame of one raw block whose header asks for a window of 2**log bytes (RFC 8878)."""
    return b"\x28\xb5\x2f\xfd\x00" + bytes([(log - 10) << 3]) + ((len(text) << 3) | 1).to_bytes(3, "little") + text


def tmx(*units):
    """Translation memory of units, each a list of (language, segment as XML)."""
    variants = ("".join(f'<tuv xml:lang="{code}"><seg>{text}</seg></tuv>' for code, text in unit) for unit in units)
    return "<tmx><header/><body>" + "".join(f"<tu>{unit}</tu>" for unit in variants) + "</body></tmx>"


@pytest.mark.parametrize(
    "segment, text",
    [
        ('Der <bpt i="1">&lt;b&gt;</bpt>Fluss<ept i="1">&lt;/b&gt;</ept> ist breit', "Der Fluss ist breit"),
        ('Seite <ph x="1">{0}</ph>von 9', "Seite von 9"),
        ('<it pos="begin">&lt;i&gt;</it>Anfang', "Anfang"),
        ("vor<ut>&lt;br/&gt;</ut> nach", "vor nach"),
        ('ein Bild<ph>&lt;img alt="<sub>Katze</sub>"/&gt;</ph>.', "ein Bild."),
        ("eine <hi>Katze</hi> und <hi>ein <hi>Hund</hi></hi>", "eine Katze und ein Hund"),
        ("eine <hi><ph>{0}</ph>Katze</hi>", "eine Katze"),
        ("<![CDATA[a < b]]>\n   c", "a < b c"),
    ],
)
def test_native_code_in_translation_memory_is_no_text(tmp_path, segment, text):
    (tmp_path / "a.tmx").write_text(tmx([("de", segment), ("en", "x")]))
    assert pairs(tmp_path / "a.tmx") == [(text, "x")]


def test_of_two_segments_in_one_language_the_first_that_is_not_empty_is_taken_and_the_others_are_counted(tmp_path):
    units = [("de", "eins"), ("en", "one"), ("de", "")], [("de", ""), ("en", "two"), ("de", "zwei"), ("DE", "beide")]
    (tmp_path / "a.tmx").write_text(tmx(*units))
    skipped = Counter()
    assert pairs(tmp_path / "a.tmx", skipped=skipped) == [("eins", "one"), ("zwei", "two")]
    assert skipped == {DOUBLED: 1}


def test_an_empty_segment_gives_way_to_one_of_another_region(tmp_path):
    units = [("de", "eins"), ("en", ""), ("en-US", "one")], [("de-AT", "zwei"), ("de", ""), ("en-GB", "two")]
    (tmp_path / "a.tmx").write_text(tmx(*units, [("de", "drei"), ("en", "")]))
    assert pairs(tmp_path / "a.tmx") == [("eins", "one"), ("zwei", "two"), ("drei", "")]


def test_translation_memory_in_other_encodings(tmp_path):
    text = tmx([("de", "schön"), ("en", "fine")])
    for encoding in ("utf-16", "iso-8859-1"):
        (tmp_path / "a.tmx").write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>{text}'.encode(encoding))
        assert pairs(tmp_path / "a.tmx") == [("schön", "fine")]


def test_a_unit_of_translation_memory_has_a_limit_wherever_its_bytes_are(tmp_path):
    blank, whole = " " * 1_000_000, tmx([("de", "a"), ("en", "b")])
    for text in (
        whole.replace("<body>", "<body>" + blank),
        whole.replace("a<", blank + "<"),
        whole.replace("<header/>", f'<header x="{blank}"/>'),
        whole.replace("<tu>", f"<tu><!--{blank}-->"),
    ):
        (tmp_path / "a.tmx").write_text(text)
        assert "a.tmx:1: a unit has more than 1,000 bytes" in refused(pairs, tmp_path / "a.tmx", most_bytes=1000)
        assert pairs(tmp_path / "a.tmx") in ([("a", "b")], [("", "b")]) if blank + "<" not in text else True


def test_a_line_of_any_kind_has_a_limit(tmp_path):

    long = "x" * 5000
    (tmp_path / "a.txt").write_text(f"short\n{long}\n")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(f"short\n{long}\n".encode()))
    (tmp_path / "a.txt.zst").write_bytes(pa.compress(f"short\n{long}".encode(), codec="zstd", asbytes=True))
    (tmp_path / "a.jsonl").write_text(f'{{"text": "short"}}\n{{"text": "{long}"}}\n')
    for name in ("a.txt", "a.txt.gz", "a.txt.zst", "a.jsonl"):
        message = refused(texts, tmp_path / name, most_bytes=1000)
        assert f"{name}:2: the line has more than 1,000 bytes. Remedy: split the doc" in message
        assert len(texts(tmp_path / name)) == 2
    (tmp_path / "a.tsv").write_text(f"a\tb\n{long}\tb\n")
    assert "a.tsv:2: the line has more than" in refused(pairs, tmp_path / "a.tsv", most_bytes=1000)
    pq.write_table(pa.table({"text": ["short", "ü" * 600, *"abcdefgh"]}), tmp_path / "a.parquet")
    assert "a.parquet: row 2: the text has more than 1,000" in refused(texts, tmp_path / "a.parquet", most_bytes=1000)
    pq.write_table(pa.table({"text": [long]}), tmp_path / "b.parquet", use_dictionary=False)
    assert "b.parquet: a text in rows 1 to 1 has more" in refused(texts, tmp_path / "b.parquet", most_bytes=1000)
    for name, form in (("a.tsv", "tsv"), ("a.tsv", "xnli"), ("a.tsv", "conll")):
        entry = {"format": form, "language": "de", "train": str(tmp_path / name)}
        found = refused(lambda entry=entry: [*labelled.examples(entry, "train", most_bytes=1000)])
        assert "premise" in found or "a.tsv:2: the line has more than" in found
    (tmp_path / "words.conll").write_text("word O\n" * 500)
    entry = {"format": "conll", "language": "de", "train": str(tmp_path / "words.conll")}
    assert "the sentence from line 1 on has more" in refused(
        lambda: [*labelled.examples(entry, "train", most_bytes=1000)]
    )


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", "ein Fluss\n".encode("utf-16-le"), "a.txt:1: NUL in line 1: is this UTF-16?"),
        ("a.txt", "ein Fluss\n".encode("utf-16"), "a.txt:1: this is UTF-16"),
        ("a.txt", b"gut\na\0b\n", "a.txt:2: NUL in line 2"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "a\\u0000b"}\n', "a.jsonl:2: character 2 of the text is NUL"),
        ("a.txt", b"eins\rzwei\rdrei", "a.txt:1: the lines end in CR alone"),
        ("a.txt", b"eins\rzwei\r", "a.txt:1: the lines end in CR alone"),
        ("a.txt.gz", b"", "a.txt.gz: a .gz file of 0 bytes"),
        ("a.jsonl.zst", b"", "a.jsonl.zst: a .zst file of 0 bytes"),
        ("a.txt.zst", zst_with_window(31, b"eins\n"), "zstd -d --long=31"),
    ],
)
def test_text_that_is_not_what_it_seems(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "good.txt").write_text("gut\n")
    assert message in refused(texts, tmp_path / "*.*")


def test_text_that_only_looks_odd(tmp_path):
    for content, found in (
        (b"eins\r\nzwei\r\n", ["eins", "zwei"]),
        (b"a\rb\nzwei\n", ["a\rb", "zwei"]),
        (b"eins\r", ["eins"]),
        (b"", []),
        ("a\u2028b\u0085c\n".encode(), ["a\u2028b\u0085c"]),
    ):
        (tmp_path / "a.txt").write_bytes(content)
        assert texts(tmp_path / "a.txt") == found
    (tmp_path / "a.txt.zst").write_bytes(zst_with_window(20, b"eins\n"))
    assert texts(tmp_path / "a.txt.zst") == ["eins"]


def test_a_cell_that_is_no_text_is_shown_briefly(tmp_path):

    for column in ([["a"] * 9999], [b"x" * 99999], [3], [None]):
        pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
        message = refused(texts, tmp_path / "a.parquet")
        assert "a.parquet: row 1: the text is" in message and len(message) < 300


def test_a_folder_of_parquet_files_has_its_remedy(tmp_path):
    (tmp_path / "x.parquet").mkdir()
    assert "write " + str(tmp_path / "x.parquet/*.parquet") in refused(texts, tmp_path / "*.parquet")


def test_two_aligned_files_of_any_text_format(tmp_path, monkeypatch):

    (tmp_path / "a.de.jsonl").write_text('{"text": "ein Fluss"}\n\n{"text": "ein Stein"}\n')
    (tmp_path / "a.en").write_text("a river\n\na stone\n")
    pq.write_table(pa.table({"text": ["a river", "", "a stone"]}), tmp_path / "a.en.parquet")
    expected = [("ein Fluss", "a river"), ("", ""), ("ein Stein", "a stone")]
    for other in ("a.en", "a.en.parquet"):
        assert pairs((str(tmp_path / "a.de.jsonl"), str(tmp_path / other))) == expected
    monkeypatch.setenv("HOME", str(tmp_path))
    assert pairs(("~/a.de.jsonl", "~/a.en")) == expected
    (tmp_path / "w[1].de").write_text("eins\n")
    (tmp_path / "w[1].en").write_text("one\n")
    names = (str(tmp_path / "w[1].de"), str(tmp_path / "w[1].en"))
    assert pairs(names) == [("eins", "one")] and len(matches(names)) == 2
    assert "absent: there is no such file" in refused(pairs, (str(tmp_path / "absent"), names[1]))


def test_a_name_that_exists_is_that_file_whatever_characters_it_has(tmp_path):
    folder = tmp_path / "my text [v1]"
    folder.mkdir()
    (folder / "w[1].txt").write_text("eins\n")
    (folder / "w1.txt").write_text("zwei\n")
    assert texts(folder / "w[1].txt") == ["eins"]
    assert texts(folder / "*.txt") == ["zwei", "eins"]
    assert texts(folder / "w[0-9].txt") == ["zwei"]
    (tmp_path / "wiki:de").mkdir()
    (tmp_path / "wiki:de" / "a.txt").write_text("drei\n")
    (tmp_path / "a:b.txt").write_text("vier\n")
    assert texts(tmp_path / "wiki:de/*.txt") == ["drei"] and texts(tmp_path / "a:b.txt") == ["vier"]
    assert texts((str(tmp_path / "a:*.txt"),)) == ["vier"]


def test_folders_that_link_to_themselves_are_read_once(tmp_path):
    (tmp_path / "text" / "deep").mkdir(parents=True)
    (tmp_path / "text" / ".hidden").mkdir()
    for number, folder in enumerate((".", "deep", ".hidden")):
        (tmp_path / "text" / folder / "a.txt").write_text(f"{number}\n")
    for name in ("loop", "again", "deep/up"):
        (tmp_path / "text" / name).symlink_to(tmp_path / "text")
    assert sorted(texts(tmp_path / "text" / "**" / "*.txt")) == ["0", "1"]
    assert sorted(texts(tmp_path / "**" / "**" / "*.txt")) == ["0", "1"]
    assert sorted(texts(tmp_path / "text" / "**" / "deep" / "*.txt")) == ["1"]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.txt").write_text("9\n")
    (tmp_path / "text" / "linked").symlink_to(tmp_path / "elsewhere")
    assert "9" in texts(tmp_path / "text" / "**" / "*.txt")  # a link to another folder is followed


def test_each_real_file_is_read_once(tmp_path):
    (tmp_path / "a.txt").write_text("eins\n")
    (tmp_path / "b.txt").symlink_to(tmp_path / "a.txt")
    patterns = (str(tmp_path / "*.txt"), str(tmp_path / "a.*"), str(tmp_path / "a.txt"))
    assert texts(patterns) == ["eins"] and len(fingerprint(patterns)) == 1


def test_paths_that_are_not_files_are_named(tmp_path):
    (tmp_path / "good.txt").write_text("gut\n")
    (tmp_path / "lost.txt").symlink_to(tmp_path / "gone.txt")
    assert "lost.txt: this link leads nowhere" in refused(texts, tmp_path / "*.txt")
    assert "lost.txt: this link leads nowhere" in refused(fingerprint, str(tmp_path / "*.txt"))
    (tmp_path / "lost.txt").unlink()
    (tmp_path / "self.txt").symlink_to(tmp_path / "self.txt")
    assert "self.txt: this link leads nowhere" in refused(texts, tmp_path / "*.txt")
    (tmp_path / "self.txt").unlink()
    os.mkfifo(tmp_path / "pipe.txt")
    assert "pipe.txt: this is a FIFO" in refused(texts, tmp_path / "*.txt")


@pytest.mark.parametrize(
    "source, message",
    [
        ("gs://bucket/*.txt", "is an address, but text is read from local files"),
        ("https://example.org/a.txt", "is an address"),
        ("absent:folder/*.txt", "no file matches 'absent:folder/.*for a function write 'module:function'"),
        ("my-module:function", "no file matches 'my-module:function'"),
        ("nonexist:function", "cannot import 'nonexist'"),
    ],
)
def test_paths_with_a_colon(source, message):
    assert re.search(message, refused(texts, source))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize(
    "options",
    [
        {"use_dictionary": False},
        {"use_dictionary": True},
        {"use_dictionary": False, "compression": "zstd", "write_page_index": True},
        {"use_dictionary": False, "write_page_checksum": True, "row_group_size": 70},
    ],
)
def test_sizes_of_parquet_pages_are_those_of_the_column(tmp_path, version, options):
    """What all pages and their headers take is what PyArrow says of the column."""

    column = [f"{number:05d}{'x' * (number % 20)}" for number in range(400)]
    pq.write_table(
        pa.table({"text": column, "other": column}),
        tmp_path / "a.parquet",
        data_page_version=version,
        data_page_size=500,
        write_batch_size=10,
        **options,
    )
    metadata = pq.ParquetFile(tmp_path / "a.parquet").metadata
    with (tmp_path / "a.parquet").open("rb") as file:
        for index in range(metadata.num_row_groups):
            column = metadata.row_group(index).column(0)
            sizes = [*page_sizes(file, column)]
            assert len(sizes) >= 2
            headers = column.total_uncompressed_size - sum(sizes)
            assert 10 * len(sizes) <= headers <= 130 * len(sizes)
