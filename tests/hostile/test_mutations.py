"""Valid files of each kind, changed at random: the reader returns values or raises a one-line error."""

import gzip
import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config, load_config
from mlm_jax.data.store.prepare import prepare
from mlm_jax.data.store.store import Store
from mlm_jax.data.text import corpora, labelled
from mlm_jax.report import write_report
from tests.hostile.corpora import UNIT, table, tmx, zst
from tests.report.helpers import write_run

LINES = "ein Fluss\nein Stein\nschön 光\n" * 4
NUMBERS = (b"-1", b"0", b"1e999", b"9" * 30, b"NaN", b"null", b'"x"', b"[]", b"{}", b"1.5")


def changes(content: bytes):
    """Flips of bits, cuts, doubled and deleted parts, nesting, and other values in the place of numbers."""
    place = st.integers(0, max(len(content) - 1, 0))

    def flip(where, bit):
        return content[:where] + bytes([content[where] ^ (1 << bit)]) + content[where + 1 :]

    def twice(a, b):
        return content[: max(a, b)] + content[min(a, b) :]

    def without(a, b):
        return content[: min(a, b)] + content[max(a, b) :]

    def nested(where, depth, opening):
        return content[:where] + opening * depth + content[where:]

    def other(where, value):
        end = where
        while end < len(content) and content[end : end + 1].isalnum():
            end += 1
        return content[:where] + value + content[end:]

    return st.one_of(
        st.builds(flip, place, st.integers(0, 7)),
        st.builds(lambda where: content[:where], place),
        st.builds(twice, place, place),
        st.builds(without, place, place),
        st.builds(
            nested, place, st.integers(1, 3000), st.sampled_from([b"[", b'{"a":', b"<tu>", b"\t", b"\n", b"\0", b"&"])
        ),
        st.builds(other, place, st.sampled_from(NUMBERS)),
    )


def documents(file):
    return [*corpora.documents(str(file), "de", "train", most_bytes=10_000)]


def pairs(file):
    return [*corpora.sentence_pairs(str(file), "de-en", "train", most_bytes=10_000)]


def examples(form):
    return lambda file: [
        *labelled.examples({"format": form, "language": "de", "train": str(file)}, "train", most_bytes=10_000)
    ]


FILES = {  # {name: (a valid file, what reads it)}
    "a.txt": (LINES.encode(), documents),
    "a.txt.gz": (gzip.compress(LINES.encode()), documents),
    "a.txt.zst": (zst(LINES.encode())(), documents),
    "a.jsonl": ("".join(json.dumps({"text": line, "id": 3}) + "\n" for line in LINES.split("\n")).encode(), documents),
    "a.parquet": (table(text=LINES.split("\n"), score=[1.5] * 13)(), documents),
    "a.tsv": ("".join(f"{line}\tb\n" for line in LINES.split("\n")).encode(), pairs),
    "a.tmx": (tmx("".join(UNIT.format(line) for line in LINES.split("\n"))), pairs),
    "b.tsv": (b"a\tyes\nb\tc\tno\n" * 5, examples("tsv")),
    "xnli.tsv": (
        b"language\tsentence1\tsentence2\tgold_label\n" + b"de\ta\tb\tneutral\nfr\tc\td\t-\n" * 4,
        examples("xnli"),
    ),
    "a.conll": (b"# id\n1-2\tzum\t_\t-\t-\n1\tUlm\tB-LOC\t-\t-\n\nein O\nOrt B-LOC\n\n" * 3, examples("conll")),
    "config.json": (json.dumps(default_config().to_dict(), default=list).encode(), load_config),
}


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_read_or_refused(tmp_path_factory, name):
    content, read = FILES[name]
    file = tmp_path_factory.mktemp("changed") / name
    file.write_bytes(content)
    assert read(file)

    @settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
    @given(changed=changes(content))
    def check(changed):
        file.write_bytes(changed)
        try:
            found = read(file)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            if read is documents:
                assert all(isinstance(text, str) and len(text.encode()) <= 10_000 for text in found)

    check()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    (folder / "de.txt").write_text(LINES * 30)
    config = default_config()
    config.data.corpora, config.vocabulary.kind = {"de": str(folder / "de.txt")}, "bytes"
    prepare(config, folder / "store", progress=False)
    return folder / "store"


def test_a_changed_store_is_read_or_refused(store, tmp_path_factory):
    """Any of its files: what can be read is what was stored."""
    folder = tmp_path_factory.mktemp("changed") / "store"
    shutil.copytree(store, folder)
    names = sorted(str(file.relative_to(store)) for file in store.rglob("*") if file.is_file())
    whole = Store.open(store).stream("de").split("train")["inputs"].read().tolist()

    @settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
    @given(data=st.data())
    def check(data):
        name = data.draw(st.sampled_from(names))
        content = (store / name).read_bytes()
        changed = data.draw(changes(content))
        (folder / name).write_bytes(changed)
        try:
            opened = Store.open(folder)
            assert opened.vocabulary.size
            split = opened.stream("de").split("train")
            found = split["inputs"].read().tolist()
            split["inputs"].documents(range(min(split.documents, 50)))
            assert name == "manifest.json" or found == whole or changed == content
        except UserError as error:
            assert "\n" not in str(error)
        finally:
            (folder / name).write_bytes(content)

    check()


@pytest.mark.parametrize("name", ["metrics.jsonl", "report.json"])
def test_a_changed_run_is_reported_or_refused(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("changed")
    write_run(folder, languages=("de", "en"), steps=50, sentences=8)
    content = (folder / name).read_bytes()

    @settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
    @given(changed=changes(content))
    def check(changed):
        (folder / name).write_bytes(changed)
        try:
            write_report(folder)
        except UserError as error:
            assert "\n" not in str(error)

    check()
