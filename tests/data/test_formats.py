"""Each text format, and the errors about damaged files."""

import gzip

import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.data.text import corpora, labelled
from tests.data.words import WORDS, sentences


def test_every_kind_of_file(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = "eins\n\nzwei\n"
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "c.txt.zst").write_bytes(pa.compress(text.encode(), codec="zstd", asbytes=True))
    (tmp_path / "d.jsonl").write_text('{"text": "eins"}\n{"text": "zwei"}\n')
    pq.write_table(pa.table({"text": ["eins", "zwei"]}), tmp_path / "e.parquet")
    for name in ("a.txt", "b.txt.gz", "c.txt.zst", "d.jsonl", "e.parquet"):
        found = list(corpora.documents(str(tmp_path / name), "de", "train"))
        assert found == (["eins", "", "zwei"] if ".txt" in name else ["eins", "zwei"]), name
    assert len(list(corpora.documents(str(tmp_path / "*.txt*"), "de", "train"))) == 9

    (tmp_path / "p.tsv").write_text("a\tb\nc\td\n")
    (tmp_path / "p.tmx").write_text(
        '<tmx><body><tu><tuv xml:lang="de-DE"><seg>a</seg></tuv><tuv xml:lang="en"><seg>b</seg></tuv></tu></body></tmx>'
    )
    assert list(corpora.sentence_pairs(str(tmp_path / "p.tsv"), "de-en", "train")) == [("a", "b"), ("c", "d")]
    assert list(corpora.sentence_pairs(str(tmp_path / "p.tmx"), "de-en", "train")) == [("a", "b")]


def test_a_byte_order_mark_is_no_text(tmp_path):
    for name, text in (("a.txt", "eins"), ("a.jsonl", '{"text": "eins"}')):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert list(corpora.documents(str(tmp_path / name), "de", "train")) == ["eins"]
    header = "language\tgold_label\tsentence1\tsentence2\n"
    (tmp_path / "xnli.tsv").write_text(header + "ar\tneutral\ta\tb\nde\tneutral\tc\td\n", encoding="utf-8-sig")
    entry = {"format": "xnli", "language": "de", "train": str(tmp_path / "xnli.tsv")}
    assert [example.texts for example in labelled.examples(entry, "train")] == [("c", "d")]


def tmx(*units, namespace=""):
    """Return translation memory of units {code: text}."""

    def side(code, text):
        return f'<tuv xml:lang="{code}"><seg>{text}</seg></tuv>'

    body = "".join(f"<tu>{''.join(side(*entry) for entry in unit.items())}</tu>" for unit in units)
    return f"<tmx{namespace}><body>{body}</body></tmx>"


@pytest.mark.parametrize(
    "pair, unit, namespace",
    [
        ("de-en", {"DE": "a", "EN": "b"}, ' xmlns="http://www.lisa.org/tmx14"'),
        ("DE-en", {"de_DE": "a", "en-US": "b"}, ""),
        ("pt_BR-en", {"pt-PT": "x", "pt-br": "a", "en": "b"}, ""),
        ("pt_BR-en", {"pt": "a", "EN-gb": "b"}, ""),
        ("en_GB-en_US", {"en-US": "b", "en-GB": "a"}, ""),
    ],
)
def test_languages_of_translation_memory_by_any_of_their_codes(tmp_path, pair, unit, namespace):
    (tmp_path / "p.tmx").write_text(tmx(unit, namespace=namespace))
    assert list(corpora.sentence_pairs(str(tmp_path / "p.tmx"), pair, "train")) == [("a", "b")]


def test_units_without_a_language_are_pairs_with_an_empty_side(tmp_path):
    file = tmp_path / "p.tmx"
    file.write_text(tmx({"de": "a", "en": "b"}, {"de": "a", "": "b"}, {"en-US": "b"}))
    assert list(corpora.sentence_pairs(str(file), "de-en", "train")) == [("a", "b"), ("a", ""), ("", "b")]
    for pair in ("fr-en", "en_US-en_GB"):
        with pytest.raises(
            UserError, match=r"no unit has both .* the codes in the file are 'de', 'en', '', 'en-us'\. Remedy"
        ):
            list(corpora.sentence_pairs(str(file), pair, "train"))


@pytest.mark.parametrize("name", ["p.tmx.gz", "p.tmx.zst", "p.tmx"])
def test_translation_memory_that_is_damaged(tmp_path, name):
    import pyarrow as pa

    text = tmx(*({"de": f"{n} {n * n}", "en": f"{n}"} for n in range(2000))).encode()
    packed = {".gz": gzip.compress(text), ".zst": pa.compress(text, codec="zstd", asbytes=True), ".tmx": text}
    damaged = [b"neither", packed[(tmp_path / name).suffix][:-99], b'<?xml version="1.0" encoding="klingon"?>' + text]
    for content in damaged:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r"p\.tmx.*(cannot read it|not TMX)"):
            list(corpora.sentence_pairs(str(tmp_path / name), "de-en", "train"))


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", "gut\nschön\n".encode("latin-1"), r"a\.txt:2: this is not UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"text"\n', r"a\.jsonl:2: this is not JSON"),
        ("a.jsonl", b'{"txt": "a"}\n', r"a\.jsonl:1: no field 'text', only \{'txt': 'str'\}"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: this is not JSON: maximum recursion depth"),
        ("a.jsonl", b'{"text": ' + b"1" * 5000 + b"}", r"a\.jsonl:1: this is not JSON: Exceeds"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "a\\ud83d"}\n',
            r"a\.jsonl:2: character 2 of the text is half of a surrogate",
        ),
        ("a.txt.gz", b"not gzip", r"a\.txt\.gz:1: cannot read it"),
        ("a.txt.zst", b"not zstd", r"a\.txt\.zst"),
        ("a.parquet", b"not parquet", r"a\.parquet: this is not a whole Parquet file"),
        ("a.doc", b"x", r"ends in '\.doc'"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(corpora.documents(str(tmp_path / name), "de", "train"))


def test_parquet_that_is_not_utf8(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    latin = pa.array(["schön".encode("latin-1")]).view(pa.string())
    pq.write_table(pa.table({"text": latin}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: this is not a whole Parquet file: 'utf-8' codec can't decode"):
        list(corpora.documents(str(tmp_path / "a.parquet"), "de", "train"))


@pytest.mark.parametrize("packing", ["gz", "zst"])
@pytest.mark.parametrize("harm", ["cut short", "a byte changed"])
def test_packed_files_that_are_damaged(tmp_path, packing, harm):
    import pyarrow as pa

    text = "\n".join(sentences(WORDS, 2000)).encode()
    packed = gzip.compress(text) if packing == "gz" else pa.compress(text, codec="zstd", asbytes=True)
    half = len(packed) // 2
    damaged = packed[:half] if harm == "cut short" else packed[:half] + bytes(20) + packed[half + 20 :]
    file = tmp_path / f"a.txt.{packing}"
    file.write_bytes(damaged)
    with pytest.raises(UserError, match=rf"a\.txt\.{packing}:\d+: cannot read it|not UTF-8"):
        list(corpora.documents(str(file), "en", "train"))


def test_pairs_that_do_not_fit(tmp_path):
    (tmp_path / "a").write_text("1\n2\n")
    (tmp_path / "b").write_text("1\n")
    with pytest.raises(UserError, match="not aligned"):
        list(corpora.sentence_pairs((str(tmp_path / "a"), str(tmp_path / "b")), "de-en", "train"))
    (tmp_path / "c.tsv").write_text("a\tb\nonly one\n")
    with pytest.raises(UserError, match=r"c\.tsv:2: 1 columns"):
        list(corpora.sentence_pairs(str(tmp_path / "c.tsv"), "de-en", "train"))
    with pytest.raises(UserError, match="no file matches"):
        list(corpora.documents(str(tmp_path / "absent*.txt"), "de", "train"))
    with pytest.raises(UserError, match=r"this is a folder. Remedy: write .*/\*.txt"):
        list(corpora.documents(str(tmp_path), "de", "train"))
    with pytest.raises(UserError, match="has no function 'txt'; did you mean 'text'"):
        list(corpora.documents("mlm_jax.data.bible:txt", "de", "train"))
