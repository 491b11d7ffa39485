"""Hostile text: {name of the case: function that writes it into a folder and returns the part of config.data that reads it}."""

import gzip
import io
import json
import os
import socket
import struct
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq

BIG = 40_000_000  # bytes of a document that is over the limit and packs into a few kilobytes
DEEP = 200_000


def text(name, content, **pairs):
    """One file, read as text of de, or as pairs of de-en."""

    def write(folder):
        (folder / name).write_bytes(content() if callable(content) else content)
        return {"parallel": {"de-en": str(folder / name)}} if pairs else {"corpora": {"de": str(folder / name)}}

    return write


def pair(name, content):
    return text(name, content, pairs=True)


def fielded(name, content, where):
    """One file of documents of which some are wanted by their other fields."""

    def write(folder):
        (folder / name).write_bytes(content() if callable(content) else content)
        return {"corpora": {"de": {"files": str(folder / name), "where": where}}}

    return write


def source(value, key="corpora"):
    name = "de" if key == "corpora" else "de-en"
    return lambda folder: {key: {name: value.format(folder=folder) if isinstance(value, str) else value}}


def special(make):
    """A folder with a good file, and beside it one that is no file."""

    def write(folder):
        (folder / "a.txt").write_text("gut\n")
        make(folder)
        return {"corpora": {"de": str(folder / "**" / "*.txt")}}

    return write


def a_socket(folder):
    here = os.getcwd()
    os.chdir(folder)  # a socket's path has 108 bytes at most
    try:
        socket.socket(socket.AF_UNIX).bind("s.txt")
    finally:
        os.chdir(here)


def table(**columns):
    def write():
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink, use_dictionary=False)
        return sink.getvalue().to_pybytes()

    return write


def one_cell():
    """A cell of 100 MB in a table that takes a few kilobytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.table({"text": ["x" * 100_000_000]}), sink, use_dictionary=False, compression="zstd", write_statistics=False
    )
    return sink.getvalue().to_pybytes()


def one_cell_of_many():
    """The same, with rows beside it so that the mean is small: only its page shows it."""
    sink = pa.BufferOutputStream()
    column = ["a"] * 2000 + ["x" * 300_000_000] + ["b"] * 2000
    pq.write_table(pa.table({"text": column}), sink, use_dictionary=False, compression="zstd", write_statistics=False)
    return sink.getvalue().to_pybytes()


def zst(content):
    return lambda: pa.compress(content() if callable(content) else content, codec="zstd", asbytes=True)


def gz(content):
    return lambda: gzip.compress(content() if callable(content) else content, 1)


def tmx(body, head="<tmx><header/><body>", tail="</body></tmx>", encoding="utf-8"):
    return (f'<?xml version="1.0" encoding="{encoding}"?>' + head + body + tail).encode()


def zipped(packing=zipfile.ZIP_DEFLATED, **files):
    """OPUS's ZIP file of two files of lines."""

    def write():
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w", packing) as archive:
            for ending, content in files.items():
                archive.writestr(f"corpus.{ending}", content)
        return sink.getvalue()

    return write


def with_a_long_list():
    """A ZIP file whose list of contents names one file half a million times."""
    content = zipped(de="a\n", en="b\n")()
    start = content.index(b"PK\1\2")
    entries, end = content[start : content.index(b"PK\5\6")] * 250_000, content[content.index(b"PK\5\6") :]
    return content[:start] + entries + end[:8] + b"\xff" * 4 + struct.pack("<II", len(entries), start) + end[20:]


UNIT = '<tu><tuv xml:lang="de"><seg>{}</seg></tuv><tuv xml:lang="en"><seg>b</seg></tuv></tu>'
LAUGHS = (
    '<!DOCTYPE x [<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12)) + "]>"
)


TEXTS = {
    "utf-16-le": text("a.txt", "ein Fluss\n".encode("utf-16-le")),
    "utf-16-be": text("a.txt", "ein Fluss\n".encode("utf-16-be")),
    "utf-16 with a mark": text("a.txt", "ein Fluss\n".encode("utf-16")),
    "utf-32": text("a.txt", "ein Fluss\n".encode("utf-32")),
    "NUL": text("a.txt", b"gut\na\0b\n"),
    "latin-1": text("a.txt", "schön\n".encode("latin-1")),
    "overlong utf-8": text("a.txt", b"a\xc0\x80b\n"),
    "surrogate as utf-8": text("a.txt", b"a\xed\xa0\x80b\n"),
    "above U+10FFFF": text("a.txt", b"a\xf4\x90\x80\x80b\n"),
    "classic Mac": text("a.txt", b"eins\rzwei\r"),
    "an executable": text("a.txt", b"\x7fELF\x02\x01\x01" + bytes(64)),
    "a line of gigabytes in gz": text("a.txt.gz", gz(b"a" * BIG)),
    "a line of gigabytes in zst": text("a.txt.zst", zst(b"a" * BIG)),
    "white space of gigabytes": text("a.txt.zst", zst(b" " * BIG)),
    "zeros of gigabytes": text("a.txt.gz", gz(bytes(BIG))),
    "gz of 0 bytes": text("a.txt.gz", b""),
    "zst of 0 bytes": text("a.jsonl.zst", b""),
    "no gz": text("a.txt.gz", b"plain text\n"),
    "no zst": text("a.txt.zst", b"plain text\n"),
    "gz cut short": text("a.txt.gz", lambda: gzip.compress(os.urandom(5000))[:3000]),
    "gz with a wrong checksum": text("a.txt.gz", lambda: gzip.compress(b"eins\n")[:-8] + bytes(8)),
    "gz with rubbish behind": text("a.txt.gz", lambda: gzip.compress(b"eins\n") + b"rubbish"),
    "zst cut short": text("a.txt.zst", lambda: zst(os.urandom(5000))()[:3000]),
    "zst with a window of 2 GiB": text("a.txt.zst", b"\x28\xb5\x2f\xfd\x00\xa8\x29\x00\x00eins\n"),
    "unknown ending": text("a.docx", b"eins\n"),
    "json nested deep": text("a.jsonl", b"[" * DEEP + b"\n"),
    "json objects nested deep": text("a.jsonl", b'{"a":' * DEEP + b"\n"),
    "json nested deep beside the text": text("a.jsonl", b'{"text": "a", "b": ' + b"[" * DEEP + b"]" * DEEP + b"}\n"),
    "json number of 100,000 digits": text("a.jsonl", b'{"text": ' + b"1" * 100_000 + b"}\n"),
    "json list": text("a.jsonl", b'["text"]\n'),
    "json text": text("a.jsonl", b'"text"\n'),
    "json null": text("a.jsonl", b"null\n"),
    "json NaN": text("a.jsonl", b"NaN\n"),
    "json text that is null": text("a.jsonl", b'{"text": null}\n'),
    "json text that is a list": text("a.jsonl", b'{"text": ["a"]}\n'),
    "json text that is an object": text("a.jsonl", b'{"text": {"text": "a"}}\n'),
    "json of another key": text("a.jsonl", b'{"content": "a"}\n'),
    "json with half a surrogate": text("a.jsonl", b'{"text": "a\\ud800"}\n'),
    "json with NUL": text("a.jsonl", b'{"text": "a\\u0000b"}\n'),
    "json cut short": text("a.jsonl", b'{"text": "a"}\n{"tex'),
    "json of many lines": text("a.jsonl", b'{\n"text": "a"\n}\n'),
    "json line of gigabytes": text("a.jsonl.gz", gz(b'{"text": "' + b"a" * BIG + b'"}\n')),
    "json of a million keys": text(
        "a.jsonl.gz", gz(lambda: b"{" + b",".join(b'"%d":0' % n for n in range(1_000_000)) + b"}\n")
    ),
    "no parquet": text("a.parquet", b"PAR1 and nothing else"),
    "parquet cut short": text("a.parquet", lambda: table(text=["a"] * 999)()[:-20]),
    "parquet with an impossible footer": text(
        "a.parquet", b"PAR1" + b"\x15\x04" * 9 + struct.pack("<I", 0x7FFFFFFF) + b"PAR1"
    ),
    "parquet of other columns": text("a.parquet", table(content=["a"])),
    "parquet of numbers": text("a.parquet", table(text=[1, 2])),
    "parquet of bytes": text("a.parquet", table(text=[b"a"])),
    "parquet of lists": text("a.parquet", table(text=[["a"]])),
    "parquet with a null": text("a.parquet", table(text=["a", None])),
    "parquet that is not utf-8": text("a.parquet", lambda: table(text=pa.array([b"\xff\xfe"]).view(pa.string()))()),
    "parquet cell of gigabytes": text("a.parquet", one_cell),
    "parquet cell of gigabytes among others": text("a.parquet", one_cell_of_many),
    "parquet in gz": text("a.parquet.gz", gz(b"x")),
    "a FIFO": special(lambda folder: os.mkfifo(folder / "b.txt")),
    "a socket": special(a_socket),
    "a link to a device without end": special(lambda folder: (folder / "b.txt").symlink_to("/dev/zero")),
    "a link that leads nowhere": special(lambda folder: (folder / "b.txt").symlink_to("gone")),
    "a link to itself": special(lambda folder: (folder / "b.txt").symlink_to("b.txt")),
    "a folder with a text's ending": special(lambda folder: (folder / "b.txt").mkdir()),
    "a bucket": source("gs://bucket/*.txt"),
    "an address": source("https://example.org/a.txt"),
    "no match": source("{folder}/none/*.txt"),
    "a name with NUL": source("{folder}/a\0b*.txt"),
    "a name of 100,000 characters": source("{folder}/" + "x" * 100_000),
    "a pattern of 50,000 brackets": source("{folder}/" + "[" * 50_000 + "*.txt"),
    "no module": source("nonexist_module:text"),
    "no function": source("os:nonexist"),
    "a function of another signature": source("os:getcwd"),
    "a field that is no number": fielded("a.jsonl.zst", zst(b'{"text": "a", "score": {}}\n'), {"score": 5.0}),
    "a field that no document has": fielded("a.jsonl.zst", zst(b'{"text": "a"}\n'), {"score": 5.0}),
    "only scores that are NaN": fielded("a.jsonl.zst", zst(b'{"text": "a", "score": [NaN]}\n'), {"score": 5.0}),
    "a list of lists as score": fielded("a.jsonl.zst", zst(b'{"text": "a", "score": [[9]]}\n'), {"score": 5.0}),
    "a line of five million lists": text("a.jsonl.gz", gz(lambda: b"[" + b"[]," * 5_000_000 + b"0]\n")),
    "no function but a number": source("sys:maxsize"),
    "no saved data set": source("datasets:{folder}"),
}
PAIRS = {
    "no zip": pair("a.zip", b"PK\3\4 and nothing else"),
    "zip cut short": pair("a.zip", lambda: zipped(de="a\n", en="b\n")()[:-9]),
    "zip of nothing": pair("a.zip", zipped()),
    "zip of one side": pair("a.zip", zipped(de="a\n")),
    "zip of sides of other lengths": pair("a.zip", zipped(de="a\n", en="b\nc\n")),
    "zip with a wrong checksum": pair(
        "a.zip", lambda: zipped(zipfile.ZIP_STORED, de="a\n", en="bbbbb\n")().replace(b"bbbbb", b"ccccc")
    ),
    "zip with a line of gigabytes": pair("a.zip", zipped(de="a" * BIG, en="b\n")),
    "zip packed so that it takes any memory": pair("a.zip", zipped(zipfile.ZIP_LZMA, de="a\n", en="b\n")),
    "zip with a long list": pair("a.zip", with_a_long_list),
    "zip that is not utf-8": pair("a.zip", zipped(de=b"\xff\n", en="b\n")),
    "one column": pair("a.tsv", b"a\n"),
    "three columns": pair("a.tsv", b"a\tb\tc\n"),
    "a million tabs": pair("a.tsv", b"\t" * 1_000_000 + b"\n"),
    "NUL in a column": pair("a.tsv", b"a\t\0\n"),
    "no xml": pair("a.tmx", b"neither\n"),
    "html": pair("a.tmx", b"<html><br></html>"),
    "tmx that is text": pair("a.tmx", b""),
    "tmx cut short": pair("a.tmx", tmx(UNIT.format("a"))[:-30]),
    "tmx of entities that grow": pair("a.tmx", tmx(UNIT.format("&a11;"), LAUGHS + "<tmx><body>")),
    "tmx with a file as entity": pair(
        "a.tmx", tmx(UNIT.format("&f;"), '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><tmx><body>')
    ),
    "tmx with white space of gigabytes": pair("a.tmx.gz", gz(lambda: tmx(" " * BIG + UNIT.format("a")))),
    "tmx with a segment of gigabytes": pair("a.tmx.gz", gz(lambda: tmx(UNIT.format("a" * BIG)))),
    "tmx with an attribute of gigabytes": pair("a.tmx.gz", gz(lambda: tmx(f'<tu x="{"a" * BIG}"/>'))),
    "tmx with a comment of gigabytes": pair("a.tmx.gz", gz(lambda: tmx(f"<!--{'a' * BIG}-->"))),
    "tmx nested deep": pair("a.tmx", lambda: tmx("<tu>" * DEEP)),
    "tmx nested deep in a segment": pair("a.tmx", lambda: tmx(UNIT.format("<hi>" * DEEP + "a"))),
    "tmx of no encoding": pair("a.tmx", tmx(UNIT.format("a"), encoding="klingon")),
    "tmx that is not utf-8": pair("a.tmx", tmx(UNIT.format("a")).replace(b">a<", b">\xff<")),
    "tmx with NUL": pair("a.tmx", tmx(UNIT.format("&#0;"))),
    "tmx with an attribute twice": pair("a.tmx", tmx('<tu x="1" x="2"/>')),
    "tmx of other languages": pair("a.tmx", tmx(UNIT.format("a").replace('"en"', '"fr"'))),
    "tmx with an unknown prefix": pair("a.tmx", tmx("<q:tu/>")),
    "aligned files of other lengths": lambda folder: (
        [(folder / "a.de").write_text("a\nb\n"), (folder / "a.en").write_text("a\n")]
        and {"parallel": {"de-en": (str(folder / "a.de"), str(folder / "a.en"))}}
    ),
    "aligned with a device without end": lambda folder: (
        (folder / "a.de").write_text("a\n") and {"parallel": {"de-en": (str(folder / "a.de"), "/dev/zero")}}
    ),
    "aligned with a file that is not there": lambda folder: (
        (folder / "a.de").write_text("a\n") and {"parallel": {"de-en": (str(folder / "a.de"), str(folder / "gone.en"))}}
    ),
    "a pair that is no pair": lambda folder: {"parallel": {"deen": str(folder / "a.tsv")}},
}


def labelled(name, content, form):
    def write(folder):
        (folder / name).write_bytes(content() if callable(content) else content)
        return {"labelled": {"set": {"format": form, "language": "de", "train": str(folder / name)}}}

    return write


def sparse_squad(folder):
    with (folder / "a.json").open("wb") as file:
        file.truncate(10**9)
    return {"labelled": {"set": {"format": "squad", "language": "de", "train": str(folder / "a.json")}}}


def squad(context="a b", question="c?", **answer):
    """One question of SQuAD's form."""
    answers = answer.pop("answers", [{"text": "a", "answer_start": 0} | answer])
    asked = {"id": "1", "question": question, "answers": answers}
    return json.dumps({"data": [{"paragraphs": [{"context": context, "qas": [asked]}]}]}).encode()


HEADER = b"sentence1\tsentence2\tgold_label\n"
LABELLED = {
    "tsv without a label": labelled("a.tsv", b"text\n", "tsv"),
    "tsv with an empty label": labelled("a.tsv", b"text\t \n", "tsv"),
    "tsv of four columns": labelled("a.tsv", b"a\tb\tc\td\n", "tsv"),
    "tsv with a line of gigabytes": labelled("a.tsv.gz", gz(b"a" * BIG), "tsv"),
    "tsv that is not utf-8": labelled("a.tsv", b"\xff\tyes\n", "tsv"),
    "xnli without a header": labelled("a.tsv", b"", "xnli"),
    "xnli with another header": labelled("a.tsv", b"a\tb\tc\n", "xnli"),
    "xnli with a short line": labelled("a.tsv", HEADER + b"a\n", "xnli"),
    "xnli of another language": labelled("a.tsv", b"language\t" + HEADER + b"fr\ta\tb\tneutral\n", "xnli"),
    "xnli with a million columns": labelled("a.tsv", b"x\t" * 1_000_000 + b"\n", "xnli"),
    "xnli without a decision": labelled("a.tsv", HEADER + b"a\tb\t-\n" * 9, "xnli"),
    "conll without labels": labelled("a.conll", b"word\n", "conll"),
    "conll of CoNLL-U": labelled("a.conll", b"1\tvon\tvon\tADP\t_\t_\t0\troot\t_\t_\n", "conll"),
    "conll with a sentence of gigabytes": labelled("a.conll.gz", gz(b"word O\n" * 4_000_000), "conll"),
    "conll with NUL": labelled("a.conll", b"wo\0rd O\n", "conll"),
    "squad nested deep": labelled("a.json", b"[" * DEEP, "squad"),
    "squad that is a list": labelled("a.json", b"[]", "squad"),
    "squad without data": labelled("a.json", b"{}", "squad"),
    "squad of numbers": labelled("a.json", b'{"data": [1]}', "squad"),
    "squad of 15 million lists": labelled("a.json", lambda: b'{"data": [' + b"[]," * 15_000_000 + b"[]]}", "squad"),
    "squad of a gigabyte": sparse_squad,
    "squad that is not utf-8": labelled("a.json", b"\xff\xfe{}", "squad"),
    "squad without a text": labelled("a.json", squad(context=None), "squad"),
    "squad with NUL": labelled("a.json", squad(context="a\0b"), "squad"),
    "squad with half a surrogate": labelled("a.json", squad(context="a\ud800"), "squad"),
    "squad with a question that is a list": labelled("a.json", squad(question=["a"]), "squad"),
    "squad with answers that are a text": labelled("a.json", squad(answers="a"), "squad"),
    "squad with an answer at 1e400": labelled("a.json", squad(answer_start=float("inf")), "squad"),
    "squad with an answer at NaN": labelled("a.json", squad(answer_start=float("nan")), "squad"),
    "squad with an answer at half a character": labelled("a.json", squad(answer_start=0.5), "squad"),
    "squad with an answer that is a number": labelled("a.json", squad(text=1), "squad"),
    "a function that is none": lambda folder: {
        "labelled": {"set": {"format": "function", "language": "de", "train": "os:nonexist"}}
    },
    "a format that there is not": labelled("a.tsv", b"a\tb\n", "tvs"),
}
