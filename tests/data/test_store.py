import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlm_jax.common.errors import UserError
from mlm_jax.common.seal import SEAL
from mlm_jax.data.store import ragged
from mlm_jax.data.store.store import Store
from mlm_jax.data.store.writer import StoreWriter
from mlm_jax.data.vocabulary.pieces import Vocabulary
from tests.data.stores import Ids, documents, write

FAST = settings(max_examples=25, deadline=None)


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(ragged, "FILE_VALUES", 4096)  # so that a few thousand tokens are many files


def hashes(folder):
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@FAST
@given(
    lengths=st.lists(st.integers(1, 1500), min_size=1, max_size=30),
    cuts=st.lists(st.integers(0, 30)),
    wide=st.booleans(),
)
def test_what_is_added_is_read_back_however_it_was_cut_into_calls(tmp_path_factory, lengths, cuts, wide):
    folder = tmp_path_factory.mktemp("store") / "s"
    size = 250_000 if wide else 32_768
    docs = documents(lengths, size=size)
    docs[0][0] = size - 1
    bounds = sorted({0, len(docs), *(cut for cut in cuts if cut < len(docs))})
    with StoreWriter(folder, Ids(size), ["de"]) as writer:
        for start, stop in zip(bounds, bounds[1:]):
            part = {"inputs": docs[start:stop]}
            writer.add("de", "text", ["de"], "train", part, characters=stop - start, bytes=2)
    split = Store.open(folder).stream("de").split("train")
    feature = split["inputs"]
    np.testing.assert_array_equal(feature.read(), np.concatenate(docs))
    np.testing.assert_array_equal(feature.offsets.read(), np.cumsum([0, *lengths]))
    for index in {0, len(docs) // 2, len(docs) - 1}:
        np.testing.assert_array_equal(feature.documents([index])[0], docs[index])
    assert (split.documents, split.tokens, split.characters) == (len(docs), sum(lengths), len(docs))
    assert split.bytes == 2 * (len(bounds) - 1)
    assert feature.longest == max(lengths)
    assert feature.values.array.dtype.numpy_dtype == (np.int32 if wide else np.int16)


def test_the_files_do_not_depend_on_how_documents_were_cut_into_calls(tmp_path):
    docs = documents([700] * 40)
    for name, step in (("a", 1), ("b", 40), ("c", 7)):
        with StoreWriter(tmp_path / name, Ids(), ["de"]) as writer:
            for start in range(0, 40, step):
                writer.add("de", "text", ["de"], "train", {"inputs": docs[start : start + step]})
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b") == hashes(tmp_path / "c")


@FAST
@given(st.lists(st.tuples(st.integers(0, 9999), st.integers(0, 6000)), max_size=20))
def test_many_slices_at_once_are_numpys_slices(slices):
    flat, values = shared_flat()
    starts = np.array([start for start, _ in slices], np.int64)
    stops = np.array([min(start + length, len(values)) for start, length in slices], np.int64)
    for got, start, stop in zip(flat.request(starts, stops)(), starts, stops, strict=True):
        np.testing.assert_array_equal(got, values[start:stop])


_FLAT = {}


def shared_flat():
    if not _FLAT:
        values = documents([10_000])[0]
        store = write(
            tempfile.mkdtemp() + "/s",
            {"l": ("labelled", ["de"], {"train": {"inputs": [values], "labels": [values]}})},
            ["de"],
        )
        _FLAT["it"] = store.stream("l").split("train")["labels"].values, values
    return _FLAT["it"]


def test_a_slice_outside_is_an_error():
    flat, values = shared_flat()
    for start, stop in ((-1, 5), (0, len(values) + 1), (5, 4)):
        with pytest.raises(IndexError, match="outside"):
            flat.request(np.array([start]), np.array([stop]))


def test_the_first_token_of_a_document_is_marked_in_the_stored_values(tmp_path):
    store = write(tmp_path / "s", {"de": ("text", ["de"], {"train": {"inputs": [[5, 6, 1], [7, 1]]}})}, ["de"])
    assert store.stream("de").split("train")["inputs"].values.read().tolist() == [~5, 6, 1, ~7, 1]


def test_pairs_and_labels(tmp_path):
    store = write(
        tmp_path / "s",
        {
            "de-en": (
                "pairs",
                ["de", "en"],
                {"train": {"inputs": [[5, 1], [6, 7, 1]], "targets": [[8, 9, 1], [3, 1]]}},
            ),
            "genre": ("labelled", ["en"], {"train": {"inputs": [[5, 1], [6, 7, 1]], "labels": [[2], [0]]}}),
            "names": ("labelled", ["de"], {"train": {"inputs": [[5, 1], [6, 7, 1]], "labels": [[2, -1], [0, 1, -1]]}}),
        },
        ["de", "en"],
        labels={"genre": ("law", "poetry", "letter")},
        rates={"de-en": 0.25},
        facts={"sources": {"x.txt": "abc"}},
    )
    assert [doc.tolist() for doc in store.stream("de-en").split("train")["targets"].documents([1, 0])] == [
        [3, 1],
        [8, 9, 1],
    ]
    assert [doc.tolist() for doc in store.stream("names").split("train")["labels"].documents([1])] == [[0, 1, -1]]
    assert store.stream("names").split("train")["labels"].per_token
    assert not store.stream("genre").split("train")["labels"].per_token
    assert store.stream("genre").labels == ("law", "poetry", "letter")
    assert (store.stream("de-en").rate, store.stream("genre").rate) == (0.25, None)
    assert store.stream("de-en").split("train").tokens == 10
    assert store.manifest["facts"] == {"sources": {"x.txt": "abc"}}
    assert store.manifest["vocabulary"] == {"fingerprint": "ids", "size": 1000, "pad_id": 0, "eos_id": 1}
    assert store.languages == ("de", "en")


@pytest.mark.parametrize("name", ["../up", "a/b", "mc4:de.v1", "Ω x", "."])
def test_any_stream_name_stays_inside_the_folder(tmp_path, name):
    folder = tmp_path / "s"
    store = write(folder, {name: ("text", ["de"], {"train": {"inputs": [[5, 1]]}})}, ["de"])
    assert store.stream(name).split("train")["inputs"].read().tolist() == [5, 1]
    assert {path.name for path in tmp_path.iterdir()} == {"s"}


def test_a_writer_that_fails_leaves_nothing_and_the_old_store_whole(tmp_path):
    folder = tmp_path / "s"
    streams = {"de": ("text", ["de"], {"train": {"inputs": [[5, 1]]}})}
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), StoreWriter(folder, Ids(), ["de"]) as writer:
            writer.add("de", "text", ["de"], "train", {"inputs": documents([3000] * 4)})
            raise KeyboardInterrupt
        assert {path.name for path in tmp_path.iterdir()} in (set(), {"s"})
        assert write(folder, streams, ["de"]).stream("de").split("train").tokens == 2


def test_a_second_writer_is_refused_and_the_first_goes_on(tmp_path):
    folder = tmp_path / "s"
    second = (
        "import sys\nfrom mlm_jax.data.store.writer import StoreWriter\nfrom tests.data.stores import Ids\n"
        'StoreWriter(sys.argv[1], Ids(), ["de"]).__enter__()'
    )
    with StoreWriter(folder, Ids(), ["de"]) as writer:
        writer.add("de", "text", ["de"], "train", {"inputs": documents([300_000] * 4)})
        error = subprocess.run([sys.executable, "-c", second, folder], capture_output=True, text=True).stderr
        assert f"process {os.getpid()} on " in error and "is writing here" in error
        writer.add("de", "text", ["de"], "train", {"inputs": documents([300_000] * 4)})
    assert Store.open(folder).stream("de").split("train").tokens == 2_400_000
    assert {path.name for path in tmp_path.iterdir()} == {"s"}


def test_what_a_killed_writer_left_is_no_store_and_in_nobodys_way(tmp_path):
    killed = """
import os, signal, sys
from mlm_jax.data.store.writer import StoreWriter
from tests.data.stores import Ids, documents
writer = StoreWriter(sys.argv[1], Ids(), ["de"]).__enter__()
writer.add("old", "text", ["de"], "train", {"inputs": documents([300_000] * 4)})
writer.add("old", "text", ["de"], "train", {"inputs": documents([300_000] * 4)})
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", killed, tmp_path / "s"]).returncode == -signal.SIGKILL
    assert any("old" in name for name in hashes(tmp_path))
    with pytest.raises(UserError, match="no token store here"):
        Store.open(tmp_path / "s")
    write(tmp_path / "s", {"de": ("text", ["de"], {"train": {"inputs": [[5, 1]]}})}, ["de"])
    assert not any("old" in name for name in hashes(tmp_path))


@pytest.mark.parametrize("address", [str, lambda path: path.as_uri()], ids=["folder", "address"])
def test_a_folder_that_is_not_a_store_is_not_touched(tmp_path, address):
    (tmp_path / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(UserError, match="neither a token store nor an empty folder"),
        StoreWriter(address(tmp_path), Ids(), ["de"]),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_flipped_bit_in_what_an_array_says_of_itself_is_noticed(tmp_path):
    write(tmp_path / "s", {"de": ("text", ["de"], {"train": {"inputs": documents([3000] * 4)}})}, ["de"])
    for file in sorted((tmp_path / "s" / "de").rglob("zarr.json")):
        whole = file.read_text()
        file.write_text(whole.replace('"little"', '"big"'))
        with pytest.raises(
            UserError, match=f"{re.escape(str(file.parent))}: .*zarr.json has changed since it was written"
        ):
            Store.open(tmp_path / "s").stream("de").split("train")["inputs"].read()
        file.write_text(whole)
    assert len(Store.open(tmp_path / "s").stream("de").split("train")["inputs"].read()) == 12_000


def test_an_address_works_like_a_folder_and_is_no_store_until_the_end(tmp_path):
    address = (tmp_path / "bucket").as_uri()
    docs = documents([3000] * 4)
    for name in ("old", "new"):
        with StoreWriter(address, Ids(), ["de"]) as writer:
            with pytest.raises(UserError, match="no token store"):
                Store.open(address)
            writer.add(name, "text", ["de"], "train", {"inputs": docs})
        read = Store.open(address).stream(name).split("train")["inputs"].read()
        np.testing.assert_array_equal(read, np.concatenate(docs))
    assert {path.name for path in (tmp_path / "bucket").iterdir() if any(path.rglob("*")) or path.is_file()} == {
        "manifest.json",
        "new",
        "vocabulary",
    }


def test_what_an_interrupted_writer_left_at_an_address_is_cleared(tmp_path):
    address = (tmp_path / "bucket").as_uri()
    with pytest.raises(KeyboardInterrupt), StoreWriter(address, Ids(), ["de"]) as writer:
        writer.add("old", "text", ["de"], "train", {"inputs": documents([3000] * 4)})
        raise KeyboardInterrupt
    with pytest.raises(UserError, match="no token store"):
        Store.open(address)
    write(address, {"de": ("text", ["de"], {"train": {"inputs": [[5, 1]]}})}, ["de"])
    assert not any("old" in name or "unfinished" in name for name in hashes(tmp_path))


def test_an_address_of_no_kind_is_an_error():
    with pytest.raises(UserError, match="nowhere"):
        Store.open("nowhere://bucket/x")


def test_the_vocabulary_travels_with_the_store(tmp_path):
    vocabulary = Vocabulary.bytes(["de"], 3)
    for folder in (str(tmp_path / "s"), (tmp_path / "t").as_uri()):
        with StoreWriter(folder, vocabulary, ["de"]) as writer:
            writer.add("de", "text", ["de"], "train", {"inputs": [vocabulary.encode("süß")]})
        store = Store.open(folder)
        assert store.vocabulary.fingerprint == vocabulary.fingerprint
        assert store.vocabulary.decode(store.stream("de").split("train")["inputs"].read().tolist()) == "süß"
    manifest = tmp_path / "s" / "manifest.json"
    changed = manifest.read_text().replace(vocabulary.fingerprint, "other")
    manifest.write_text(changed)
    with pytest.raises(
        UserError, match="manifest.json: the token store is corrupt.*has changed since it was written: its checksum"
    ):
        Store.open(tmp_path / "s")
    # A manifest of an older version.
    manifest.write_text(json.dumps({key: value for key, value in json.loads(changed).items() if key != SEAL}))
    with pytest.raises(UserError, match="not the one that the store was made with"):
        Store.open(tmp_path / "s").vocabulary  # noqa: B018
    facts = tmp_path / "s" / "vocabulary" / "vocabulary.json"
    facts.write_text(facts.read_text()[:-9])
    with pytest.raises(
        UserError, match=f"{re.escape(str(facts.parent))}: the vocabulary is damaged.*Remedy: delete the store"
    ):
        Store.open(tmp_path / "s").vocabulary  # noqa: B018


BAD = [
    (("de", "text", ["fr"], "train", {"inputs": [[5]]}), "'fr'"),
    (("de", "texts", ["de"], "train", {"inputs": [[5]]}), "did you mean 'text'"),
    (("de", "text", ["de", "en"], "train", {"inputs": [[5]]}), "2 languages"),
    (("de", "pairs", ["de", "en"], "train", {"inputs": [[5]]}), "needs"),
    (("de", "pairs", ["de", "en"], "train", {"inputs": [[5]], "targets": []}), "the same"),
    (("de", "text", ["de"], "train", {"inputs": [[5], []]}), "document 1 has no inputs"),
    (("de", "text", ["de"], "train", {"inputs": [[5, 1000]]}), "holds 1000"),
    (("de", "text", ["de"], "train", {"inputs": [[5, -1]]}), "holds -1"),
    (("l", "labelled", ["de"], "train", {"inputs": [[5, 1]], "labels": [[-2]]}), "holds -2"),
    (
        ("l", "labelled", ["de"], "train", {"inputs": [[5, 1], [6, 1]], "labels": [[2], [2, 3]]}),
        "1 labels, but the stream has one for each token",
    ),
    (("begun", "text", ["en"], "train", {"inputs": [[5]]}), "begun as text in"),
]


@pytest.mark.parametrize("arguments, message", BAD, ids=[message for _, message in BAD])
def test_invalid_documents_are_refused(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message), StoreWriter(tmp_path / "s", Ids(), ["de", "en"]) as writer:
        writer.add("begun", "text", ["de"], "train", {"inputs": [[5]]})
        writer.add(*arguments)
    assert not list(tmp_path.iterdir())


def test_labels_of_a_stream_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="'genre'"), StoreWriter(tmp_path / "s", Ids(), ["de"]) as writer:
        writer.labels["genre"] = ("a",)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "metadata", "shape", "array"])
def test_a_damaged_store_is_an_error_that_names_the_file(tmp_path, harm):
    folder = tmp_path / "s"
    write(folder, {"de": ("text", ["de"], {"train": {"inputs": documents([5000] * 4)}})}, ["de"])
    values = folder / "de/train/inputs/values"
    file = values / "c/2/0"
    content = bytearray(file.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 64
        file.write_bytes(content)
    if harm == "cut":
        file.write_bytes(content[: len(content) // 2])
    if harm == "remove":
        file.unlink()
    if harm == "metadata":
        (values / "zarr.json").write_text("{")
    if harm == "shape":
        facts = json.loads((values / "zarr.json").read_text())
        (values / "zarr.json").write_text(json.dumps(facts | {"shape": [3, 2048]}))
    if harm == "array":
        (values / "zarr.json").unlink()
    with pytest.raises(UserError, match="corrupt or incomplete") as error:
        Store.open(folder).stream("de").split("train")["inputs"].read()
    assert str(error.value).startswith(str(values)) and "\n" not in str(error.value)
    assert error.value.remedy


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    docs = documents([1500] * 2)
    write(tmp_path / "s", {"de": ("text", ["de"], {"train": {"inputs": docs}})}, ["de"])
    file = tmp_path / "s/de/train/inputs/values/c/0/0"
    content = file.read_bytes()
    for place in range(0, len(content), 101):
        harmed = bytearray(content)
        harmed[place] ^= 1 << place % 8
        file.write_bytes(harmed)
        with pytest.raises(UserError, match="corrupt"):
            Store.open(tmp_path / "s").stream("de").split("train")["inputs"].read()


@pytest.mark.parametrize(
    "content, message",
    [("{", "corrupt"), ("[]", "corrupt"), ('{"format": 99}', "format 99"), ('{"format": 1}', "corrupt")],
)
def test_a_damaged_manifest(tmp_path, content, message):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=message) as error:
        Store.open(tmp_path)
    assert "manifest.json" in str(error.value)


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # the nearest thing to a full disk that needs no root
    try:
        with (
            pytest.raises(UserError, match="the disk is full"),
            StoreWriter(tmp_path / "s", Ids(), ["de"]) as writer,
        ):
            for _ in range(10):
                writer.add("de", "text", ["de"], "train", {"inputs": documents([5000] * 4)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_unknown_streams_and_splits_name_the_nearest(tmp_path):
    store = write(tmp_path / "s", {"german": ("text", ["de"], {"train": {"inputs": [[5, 1]]}})}, ["de"])
    with pytest.raises(UserError, match="did you mean 'german'"):
        store.stream("germn")
    with pytest.raises(UserError, match="no validation examples"):
        store.stream("german").split("validation")


def test_a_writer_holds_back_no_more_of_a_larger_corpus(tmp_path):
    docs = documents([1000] * 50)

    def peak(times):
        tracemalloc.start()
        with StoreWriter(tmp_path / "s", Ids(), ["de"]) as writer:
            for _ in range(times):
                writer.add("de", "text", ["de"], "train", {"inputs": docs})
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    assert peak(40) < 2 * peak(4)  # and not 10 times


def test_reading_needs_no_tensorflow_and_no_jax():
    code = "import sys, mlm_jax.data.loading.loader; print({'jax', 'tensorflow', 'seqio', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"set()\n"
