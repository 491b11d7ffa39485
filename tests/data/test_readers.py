"""Files, globs and functions that others read wrongly: what a reader makes of them, or says of them."""

import gzip
import json
import os
import re
import sys
import zipfile
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.data.store.freshness import is_fresh
from mlm_jax.data.store.prepare import prepare
from mlm_jax.data.store.store import Store
from mlm_jax.data.text import corpora, labelled
from mlm_jax.data.text.fields import UNFIT
from mlm_jax.data.text.formats.parquet_pages import page_sizes
from mlm_jax.data.text.formats.tmx import DOUBLED
from mlm_jax.data.text.labelled_formats.xnli import UNDECIDED
from mlm_jax.data.text.reading import BLANK
from mlm_jax.data.text.sources import fingerprint, is_library, matches


def texts(source, **options):
    return [*corpora.documents(source if isinstance(source, tuple) else str(source), "de", "train", **options)]


def pairs(source, **options):
    return [*corpora.sentence_pairs(source if isinstance(source, tuple) else str(source), "de-en", "train", **options)]


def refused(read, *arguments, **options):
    """The message of the UserError that reading raises: one line."""
    with pytest.raises(UserError) as caught:
        read(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def zst_with_window(log, text):
    """A Zstandard frame of one raw block whose header asks for a window of 2**log bytes (RFC 8878)."""
    return b"\x28\xb5\x2f\xfd\x00" + bytes([(log - 10) << 3]) + ((len(text) << 3) | 1).to_bytes(3, "little") + text


# ------------------------------------------------------------------------------------------------------------- TMX


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


# ------------------------------------------------------------------------------------------------------------ limits


def test_a_line_of_any_kind_has_a_limit(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

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


# -------------------------------------------------------------------------------------------------- what a file holds


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
    import pyarrow as pa
    import pyarrow.parquet as pq

    for column in ([["a"] * 9999], [b"x" * 99999], [3], [None]):
        pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
        message = refused(texts, tmp_path / "a.parquet")
        assert "a.parquet: row 1: the text is" in message and len(message) < 300


def test_a_folder_of_parquet_files_has_its_remedy(tmp_path):
    (tmp_path / "x.parquet").mkdir()
    assert "write " + str(tmp_path / "x.parquet/*.parquet") in refused(texts, tmp_path / "*.parquet")


# ----------------------------------------------------------------------------------------------------- aligned files


def test_two_aligned_files_of_any_text_format(tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

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


# -------------------------------------------------------------------------------------------------------------- globs


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


def test_what_is_no_file_is_named(tmp_path):
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
        ("absent:folder/*.txt", "no file matches 'absent:folder/.*of a function write 'module:function'"),
        ("my-module:function", "no file matches 'my-module:function'"),
        ("nonexist:function", "cannot import 'nonexist'"),
    ],
)
def test_what_a_colon_means(source, message):
    assert re.search(message, refused(texts, source))


# ---------------------------------------------------------------------------------------------- functions and libraries

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


def test_a_saved_data_set_changes_with_its_files(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "data.arrow").write_bytes(b"a")
    before = fingerprint(f"datasets:{tmp_path / 'set'}")
    (tmp_path / "set" / "data.arrow").write_bytes(b"ab")
    assert before != fingerprint(f"datasets:{tmp_path / 'set'}") and before[0][1] == 1


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


# ------------------------------------------------------------------------------------------------------ labelled sets


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
    with pytest.raises(UserError, match=r"ud.conll:2: ten columns of CoNLL-U.*cut -f2,4"):
        labelled_file(tmp_path, "ud.conll", ud)
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
    import pyarrow as pa
    import pyarrow.parquet as pq

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


# ------------------------------------------------------------------------------------- fields, and what OPUS packs


HPLT = [  # columns of its cleaned releases
    {"text": "eins", "lang": ["deu_Latn", "eng_Latn"], "prob": [0.99, 0.01], "doc_scores": [8.1, 3.0]},
    {"text": "two", "lang": ["eng_Latn"], "prob": [0.99], "doc_scores": [9.0]},
    {"text": "drei", "lang": ["deu_Latn"], "prob": [0.5], "doc_scores": [7.0]},
    {"text": "vier", "lang": [], "prob": [], "doc_scores": []},
]
DATATROVE = [
    {"text": "a", "id": "1", "metadata": {"language": "deu", "language_score": 0.9, "raw": "A"}},
    {"text": "b", "id": "2", "metadata": {"language": "nds", "language_score": 0.99, "raw": "B"}},
    {"text": "c", "id": "3", "metadata": {"language": "deu", "language_score": 0.4, "raw": "C"}},
]


def write_jsonl(file, entries):
    content = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
    file.write_bytes(pa.compress(content, codec="zstd", asbytes=True) if file.suffix == ".zst" else content)


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.jsonl", "a.parquet"])
@pytest.mark.parametrize(
    "entries, fields, expected, left_out",
    [
        (HPLT, corpora.Fields(where={"lang": "deu_Latn", "prob": 0.9}), ["eins"], 3),
        (HPLT, corpora.Fields(where={"doc_scores": 7}), ["eins", "two", "drei"], 1),
        (DATATROVE, corpora.Fields("metadata.raw"), ["A", "B", "C"], 0),
        (DATATROVE, corpora.Fields(where={"metadata.language": "deu", "metadata.language_score": 0.9}), ["a"], 2),
        ([{"content": "x", "text": "no"}], corpora.Fields("content"), ["x"], 0),
    ],
)
def test_fields_are_named_and_must_fit(tmp_path, name, entries, fields, expected, left_out):
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(entries), tmp_path / name)
    else:
        write_jsonl(tmp_path / name, entries)
    skipped = Counter()
    assert texts(tmp_path / name, fields=fields, skipped=skipped) == expected
    assert skipped[UNFIT] == left_out


@pytest.mark.parametrize(
    "fields, said",
    [
        (corpora.Fields("txt"), "txt"),
        (corpora.Fields("metadata.txt"), "metadata.txt"),
        (corpora.Fields(where={"lang": "de"}), "lang"),
        (corpora.Fields(where={"metadata.language": 0.5}), "metadata.language is 'deu' .str., and no number"),
        (corpora.Fields("metadata"), "metadata"),
    ],
)
def test_a_field_that_is_not_there_or_of_another_kind_is_named_with_its_place(tmp_path, fields, said):
    write_jsonl(tmp_path / "a.jsonl", DATATROVE)
    pq.write_table(pa.Table.from_pylist(DATATROVE), tmp_path / "a.parquet")
    assert re.match(f".*a.jsonl:1: .*{said}", refused(texts, tmp_path / "a.jsonl", fields=fields))
    assert re.match(
        f".*a.parquet: (row 1: |no column).*({said}|the text is)", refused(texts, tmp_path / "a.parquet", fields=fields)
    )


def test_a_source_names_its_field_and_what_others_must_be(tmp_path):
    write_jsonl(tmp_path / "a.jsonl.zst", DATATROVE * 10)
    config = default_config()
    where = {"metadata.language": "deu"}
    config.data.corpora = {"de": {"files": str(tmp_path / "a.jsonl.zst"), "field": "metadata.raw", "where": where}}
    config.vocabulary.kind, config.data.validation_fraction = "bytes", 0.0
    prepare(config, tmp_path / "s", progress=False)
    store = Store.open(tmp_path / "s")
    assert store.streams["de"].splits["train"].documents == 20
    assert store.manifest["facts"]["skipped"] == {"de": {UNFIT: 10}}
    config.data.corpora["de"]["where"] = {}
    assert not is_fresh(config, tmp_path / "s")
    config.data.parallel = {"de-en": {"files": (str(tmp_path / "a.jsonl.zst"),) * 2, "where": where}}
    with pytest.raises(UserError, match="has `where`, which would shift one of two aligned files"):
        prepare(config, tmp_path / "t", progress=False)


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
