"""Fields of JSON and Parquet text: the field of the text, and conditions on others."""

import json
import re
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.data.store.freshness import is_fresh
from mlm_jax.data.store.prepare import prepare
from mlm_jax.data.store.store import Store
from mlm_jax.data.text import corpora
from mlm_jax.data.text.fields import UNFIT
from tests.data.reading import refused, texts

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
        (corpora.Fields(where={"metadata.language": 0.5}), "metadata.language is 'deu' .str., not a number"),
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
    with pytest.raises(UserError, match="has `where`, which would leave lines out of one of two aligned files"):
        prepare(config, tmp_path / "t", progress=False)
