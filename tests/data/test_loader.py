import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlm_jax.common.errors import UserError
from mlm_jax.data.loading import order
from mlm_jax.data.loading.loader import Loader
from mlm_jax.data.text.rates import rates
from tests.data.stores import EOS, PAD, config, documents, write

LANGUAGES = ["de", "en", "hi"]
LENGTHS = {"de": [30, 7, 1, 55, 2, 90, 12] * 6, "en": [40, 40, 3] * 4, "hi": [9, 21] * 2}
KINDS = {"mlm": "text", "rank": "pairs", "genre": "labelled", "names": "labelled"}
MLM = {"mlm": {"objective": "mlm", "rows": 6, "length": 16}}


def text(seed=0):
    """Return {language: documents}, held-out ones too; a token's value tells its language and document apart."""
    return {code: documents(lengths, seed + i) for i, (code, lengths) in enumerate(LENGTHS.items())}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    streams = {}
    for code, docs in text().items():
        streams[code] = (
            "text",
            [code],
            {"train": {"inputs": docs}, "validation": {"inputs": documents([20, 5, 9], 50)}},
        )
    for first, second, count in (("de", "en", 20), ("hi", "en", 5)):
        rng = np.random.default_rng(count)
        sides = {
            "inputs": documents(rng.integers(2, 14, count), 1),
            "targets": documents(rng.integers(2, 14, count), 2),
        }
        streams[f"{first}-{second}"] = ("pairs", [first, second], {"train": sides, "validation": sides})
    inputs = documents([4, 9, 30, 2, 5], 3)
    streams["genre"] = ("labelled", ["en"], {"train": {"inputs": inputs, "labels": [[i % 3] for i in range(5)]}})
    tags = [np.append(np.arange(len(row) - 1), -1) for row in inputs]
    streams["names"] = ("labelled", ["en"], {"train": {"inputs": inputs, "labels": tags}})
    return write(tmp_path_factory.mktemp("data") / "s", streams, LANGUAGES, labels={"genre": ("a", "b", "c")})


def loader(store, tasks=MLM, process_index=0, process_count=1, split="train", **keys):
    made = config(tasks, **{"steps": 1000, **keys})
    kinds = {task: KINDS[task] for task in tasks}
    return Loader(store, made, kinds, split, process_index, process_count)


def segments(rows):
    """Yield (language, tokens) of every segment, in order."""
    for tokens, ids, positions, language in zip(*rows):
        for number in range(1, ids.max() + 1):
            mine = np.flatnonzero(ids == number)
            assert (np.diff(mine) == 1).all() and positions[mine].tolist() == list(range(len(mine)))
            yield LANGUAGES[language], tokens[mine].tolist()


def check_shape(rows, count, length):
    for array in rows[:3]:
        assert array.shape == (count, length) and array.dtype == np.int32
    assert rows.language.shape == (count,) and rows.language.dtype == np.int32
    padding = rows.segment_ids == 0
    assert (rows.tokens[padding] == PAD).all() and not rows.positions[padding].any()
    assert (rows.tokens >= 0).all()


def is_part_of_a_document(segment, docs):
    together = ";".join("," + ",".join(map(str, doc)) + "," for doc in docs)
    return f",{','.join(map(str, segment))}," in together


# ------------------------------------------------------------------------------------------ text


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.sampled_from([2, 5, 16, 64, 300]))
def test_an_epoch_holds_every_token_of_every_document_once(store, seed, rows, length):
    tasks = {"mlm": {"objective": "mlm", "rows": rows, "length": length, "data": "de"}}
    data = loader(store, tasks, seed=seed)
    docs = text()["de"]
    stream = np.concatenate(docs)
    needed = -(-len(stream) // length)
    got = []
    for step in range(-(-needed // rows)):
        inputs = data.batch(step)["mlm"]["inputs"]
        check_shape(inputs, rows, length)
        got += list(segments(inputs))[:None]
    one_epoch, tokens = [], 0
    for language, segment in got:
        assert language == "de"
        one_epoch.append(segment)
        tokens += len(segment)
        if tokens >= len(stream):
            break
    assert tokens == len(stream)
    assert sorted(token for segment in one_epoch for token in segment) == sorted(stream.tolist())
    assert all(is_part_of_a_document(segment, docs) for segment in one_epoch)


def test_stretches_from_two_places_are_two_segments(store, monkeypatch):
    monkeypatch.setattr(order, "BLOCK_TOKENS", 50)  # so that most rows are cut at the edge of a block
    docs = text()["de"]
    data = loader(store, {"mlm": {"rows": 4, "length": 40, "data": "de"}})
    for step in range(20):
        for _, segment in segments(data.batch(step)["mlm"]["inputs"]):
            assert is_part_of_a_document(segment, docs)


def test_segments_begin_where_documents_do(store):
    starts = {int(doc[0]) for docs in text().values() for doc in docs if len(doc) > 1}
    data = loader(store, {"mlm": {"rows": 8, "length": 64}})
    begun = cut = 0
    for step in range(10):
        rows = data.batch(step)["mlm"]["inputs"]
        for row in range(8):
            tokens, ids = rows.tokens[row], rows.segment_ids[row]
            for column in range(1, 64):
                if ids[column] == ids[column - 1] + 1:
                    # Otherwise a slice ended, at the end of the stream or of a block.
                    begun += tokens[column - 1] == EOS
                    cut += tokens[column - 1] != EOS
                elif ids[column]:
                    assert tokens[column - 1] != EOS or tokens[column] not in starts
    assert begun > 20 * cut


def test_a_batch_is_a_function_of_the_step_alone(store):
    first, again = loader(store), loader(store)
    for step in (7, 3, 7, 0):
        for a, b in zip(first.batch(step)["mlm"]["inputs"], again.batch(step)["mlm"]["inputs"]):
            np.testing.assert_array_equal(a, b)
    other = loader(store, seed=1)
    assert any((first.batch(s)["mlm"]["inputs"].tokens != other.batch(s)["mlm"]["inputs"].tokens).any() for s in (0, 1))


TASKS = {
    "mlm": {"rows": 12, "length": 16},
    "rank": {"rows": 12, "length": 10},
    "genre": {"rows": 12, "length": 8, "data": ("genre",)},
}


@pytest.mark.parametrize("hosts", [2, 3, 4, 12])
def test_hosts_hold_blocks_of_one_hosts_rows(store, hosts):
    whole = loader(store, TASKS)
    parts = [loader(store, TASKS, host, hosts) for host in range(hosts)]
    for step in (0, 5):
        expected, got = whole.batch(step), [part.batch(step) for part in parts]
        for task, batch in expected.items():
            for name, part in batch.items():
                pieces = [piece[task][name] for piece in got]
                for together, split in zip(part, zip(*pieces)) if name != "labels" else [(part, pieces)]:
                    np.testing.assert_array_equal(np.concatenate(split), together)


def test_a_host_reads_only_its_own_rows(store, monkeypatch):
    from mlm_jax.data.store.ragged import Flat

    asked = []
    request = Flat.request
    monkeypatch.setattr(Flat, "request", lambda self, a, b: asked.append(int(np.sum(b - a))) or request(self, a, b))
    loader(store, MLM, 1, 3).batch(0)
    assert sum(asked) <= 2 * 16


def test_the_realised_mix_is_the_planned_one_at_every_step(store):
    data = loader(store, mixing={"alpha": 0.3})
    sizes = [sum(lengths) for lengths in LENGTHS.values()]
    planned = dict(zip(LANGUAGES, rates(sizes, 0.3)))
    assert data.planned_shares("mlm", 5) == pytest.approx(planned)
    counts = np.zeros(3, int)
    for step in range(40):
        counts += np.bincount(data.batch(step)["mlm"]["inputs"].language, minlength=3)
        shares = counts / counts.sum()
        assert data.realised_shares("mlm", 0, step + 1) == pytest.approx(dict(zip(LANGUAGES, shares)))
        assert np.abs(counts - counts.sum() * np.array(list(planned.values()))).max() < 1.5
    late = data.batch(39)["mlm"]["inputs"].language
    assert data.realised_shares("mlm", 39, 40) == pytest.approx(
        dict(zip(LANGUAGES, np.bincount(late, minlength=3) / 6))
    )


def test_tokens_seen_and_epochs_are_counted(store):
    data = loader(store, {"mlm": {"rows": 5, "length": 33}})
    seen = dict.fromkeys(LANGUAGES, 0)
    for step in range(60):
        assert data.tokens_seen(step) == seen
        for language, segment in segments(data.batch(step)["mlm"]["inputs"]):
            seen[language] += len(segment)
    for code, passes in data.epochs("mlm", 60).items():
        assert passes == pytest.approx(seen[code] / sum(LENGTHS[code]))


def test_streams_of_one_language_share_by_size(tmp_path):
    streams = {
        name: ("text", [name[:2]], {"train": {"inputs": documents([size])}})
        for name, size in (("de-web", 3000), ("de-news", 1000), ("en-web", 1000))
    }
    data = loader(write(tmp_path / "s", streams, ["de", "en"]), mixing={"alpha": 0.0})
    assert data.planned_shares("mlm", 0) == {"de": 0.5, "en": 0.5}
    assert [len(data.streams("mlm")), data._tasks["mlm"].order.shares(0).tolist()] == [3, [0.375, 0.125, 0.5]]


def test_a_mixtures_own_rates(tmp_path, store):
    streams = {code: ("text", [code], {"train": {"inputs": documents([50])}}) for code in LANGUAGES}
    made = write(tmp_path / "s", streams, LANGUAGES, rates={"de": 3.0, "en": 1.0, "hi": 0.0})
    data = loader(made, mixing={"strategy": "mixture"})
    assert data.planned_shares("mlm", 0) == {"de": 0.75, "en": 0.25, "hi": 0}
    with pytest.raises(UserError, match="no mixture has a rate for stream 'de'"):
        loader(store, mixing={"strategy": "mixture"})


def test_unimax_repeats_no_language_more_often_than_it_says(store):
    budget = sum(sum(lengths) for lengths in LENGTHS.values())
    data = loader(store, steps=budget // 96, mixing={"strategy": "unimax", "unimax_epochs": 2.5})
    epochs = data.epochs("mlm", budget // 96)
    assert epochs["hi"] == pytest.approx(2.5, abs=0.3) and max(epochs.values()) < 2.8


# ------------------------------------------------------------------------------------------ one example a row


def test_one_document_a_row(store):
    tasks = {"mlm": {"rows": 4, "length": 30, "data": ("de",), "packed": False}}
    data = loader(store, tasks)
    docs = text()["de"]
    cut = [doc.tolist() if len(doc) <= 30 else [*doc[:29].tolist(), EOS] for doc in docs]
    got = []
    for step in range(len(docs) // 2):
        rows = data.batch(step)["mlm"]["inputs"]
        check_shape(rows, 4, 30)
        assert rows.segment_ids.max() == 1
        got += [segment for _, segment in segments(rows)]
    half = len(got) // 2  # two epochs
    assert sorted(got[:half]) == sorted(got[half:]) == sorted(cut) and got[:half] != got[half:]


def pairs_of(store, name):
    train = store.stream(name).split("train")
    indices = range(train.documents)
    return [
        (a.tolist(), b.tolist())
        for a, b in zip(train["inputs"].documents(indices), train["targets"].documents(indices))
    ]


def test_pairs_are_read_in_both_directions_by_turns(store):
    data = loader(store, {"rank": {"rows": 5, "length": 20, "data": ("de-en",)}})
    forward = pairs_of(store, "de-en")
    epochs = []
    for epoch in range(3):
        seen = set()
        for step in range(epoch * 4, epoch * 4 + 4):
            batch = data.batch(step)["rank"]
            check_shape(batch["inputs"], 5, 20)
            for (a, first), (b, second) in zip(segments(batch["inputs"]), segments(batch["targets"]), strict=True):
                assert {a, b} == {"de", "en"}
                pair = (first, second) if a == "de" else (second, first)
                seen.add((forward.index(pair), a))
        assert sorted(index for index, _ in seen) == list(range(20))
        assert sum(language == "de" for _, language in seen) == 10
        epochs.append(seen)
    assert epochs[0] == epochs[2] and not epochs[0] & epochs[1]


def test_runs_of_rows_are_of_one_pair_and_one_direction(store):
    data = loader(store, {"rank": {"rows": 12, "length": 20, "same_language_rows": 3}})
    assert data.realised_shares("rank", 0, 200) == pytest.approx(data.planned_shares("rank", 0), abs=1e-2)
    read = []
    for step in range(20):
        batch = data.batch(step)["rank"]
        sides = np.stack([batch["inputs"].language, batch["targets"].language], axis=1).reshape(4, 3, 2)
        assert (sides == sides[:, :1]).all()
        read += [tuple(side) for side in sides[:, 0].tolist()]
    times = {direction: read.count(direction) for direction in read}
    assert len(times) == 4 and all(abs(count - times[direction[::-1]]) <= 1 for direction, count in times.items())


def test_pairs_forward_and_their_shares(store):
    data = loader(store, {"rank": {"rows": 4, "length": 20, "directions": "forward"}}, mixing={"alpha": 1.0})
    assert data.planned_shares("rank", 0) == pytest.approx({"de": 0.4, "en": 0.5, "hi": 0.1})
    mean = np.mean([len(a) for a, _ in pairs_of(store, "de-en")])
    for step in range(10):
        batch = data.batch(step)["rank"]
        assert (batch["targets"].language == 1).all()
        for (language, first), (_, second) in zip(segments(batch["inputs"]), segments(batch["targets"])):
            assert (first, second) in pairs_of(store, f"{language}-en")
    assert data.tokens_seen(100)["de"] == pytest.approx(320 * mean, abs=1)


def test_long_examples_are_cut_but_closed_and_it_is_said(store, caplog):
    data = loader(store, {"genre": {"rows": 5, "length": 6, "data": ("genre",)}})
    assert "genre cuts 2 of 5 texts, of up to 30 tokens, to 6" in caplog.text
    rows = data.batch(0)["genre"]["inputs"]
    for _, segment in segments(rows):
        assert segment[-1] == EOS and len(segment) <= 6
    assert sorted(len(segment) for _, segment in segments(rows)) == [2, 4, 5, 6, 6]


def test_labels_of_documents_and_of_tokens(store):
    tasks = {
        "genre": {"rows": 5, "length": 40, "data": ("genre",)},
        "names": {"rows": 5, "length": 7, "data": ("names",)},
    }
    batch = loader(store, tasks).batch(0)
    train = store.stream("genre").split("train")
    label_of = {tuple(doc.tolist()): i % 3 for i, doc in enumerate(train["inputs"].documents(range(5)))}
    got = [label_of[tuple(segment)] for _, segment in segments(batch["genre"]["inputs"])]
    assert batch["genre"]["labels"].tolist() == got and sorted(got) == [0, 0, 1, 1, 2]
    labels, ids = batch["names"]["labels"], batch["names"]["inputs"].segment_ids
    assert labels.shape == (5, 7) and (labels[ids == 0] == -1).all()
    for row, real in zip(labels, ids.sum(1)):
        assert row[:real].tolist() == [*range(real - 1), -1]


# ------------------------------------------------------------------------------------------ phases


def test_phases_change_languages_and_length_and_go_on_in_the_text(store):
    phases = ({"steps": 4, "languages": ("de",)}, {"steps": 6, "length": 40, "rates": {"de": 1, "en": 1, "hi": 0}})
    data = loader(store, {"mlm": {"rows": 6, "length": 16}}, steps=10, curriculum=phases)
    got, total = [], sum(LENGTHS["de"])
    for step in range(10):
        rows = data.batch(step)["mlm"]["inputs"]
        check_shape(rows, 6, 16 if step < 4 else 40)
        got += [segment for language, segment in segments(rows) if language == "de"]
        assert set(rows.language) == ({0} if step < 4 else {0, 1})
    tokens = [token for segment in got for token in segment]
    assert total > 4 * 6 * 16 and len(tokens) < total  # the second phase continues this epoch
    values, counts = np.unique(np.concatenate(text()["de"]), return_counts=True)
    held = dict(zip(values.tolist(), counts.tolist()))
    assert all(count <= held[value] for value, count in zip(*np.unique(tokens, return_counts=True)))
    assert data.planned_shares("mlm", 0) == {"de": 1, "en": 0, "hi": 0}
    assert data.planned_shares("mlm", 4) == {"de": 0.5, "en": 0.5, "hi": 0}
    assert data.realised_shares("mlm", 0, 10) == pytest.approx({"de": 0.7, "en": 0.3, "hi": 0})


def test_a_language_that_a_phase_leaves_out_needs_no_rate(store):
    data = loader(store, curriculum=({"steps": 1000, "languages": ("de", "hi"), "rates": {"de": 1, "hi": 3}},))
    assert data.planned_shares("mlm", 0) == {"de": 0.25, "en": 0, "hi": 0.75}


# ------------------------------------------------------------------------------------------ validation


def test_validation_is_every_document_once_in_order(store):
    data = loader(store)
    expected = np.concatenate(documents([20, 5, 9], 50)).tolist()
    for rows in (1, 2, 8):
        batches = list(data.validation("mlm", "hi", rows))
        assert len(batches) == -(-3 // rows)
        got = []
        for batch in batches:
            check_shape(batch["inputs"], rows, 16)
            got += [token for language, segment in segments(batch["inputs"]) for token in segment if language == "hi"]
        assert got == expected
    (first,) = data.validation("mlm", "hi", 2, limit=1)
    assert first["inputs"].segment_ids[1].tolist() == [0] * 16
    assert first["inputs"].tokens[0].tolist() == expected[:16]


def test_validation_of_pairs_either_way_and_on_two_hosts(store):
    tasks = {"rank": {"rows": 4, "length": 20}}
    data = loader(store, tasks)
    forward = [
        pair
        for batch in data.validation("rank", "de-en", 8)
        for pair in zip(segments(batch["inputs"]), segments(batch["targets"]))
    ]
    assert [(a, b) for (_, a), (_, b) in forward] == pairs_of(store, "de-en")
    backward = [
        pair
        for batch in data.validation("rank", "de-en", 8, reverse=True)
        for pair in zip(segments(batch["targets"]), segments(batch["inputs"]))
    ]
    assert backward == forward
    hosts = [list(loader(store, tasks, host, 2).validation("rank", "de-en", 8)) for host in range(2)]
    for whole, *halves in zip(data.validation("rank", "de-en", 8), *hosts, strict=True):
        for array, parts in zip(whole["inputs"], zip(*(half["inputs"] for half in halves))):
            np.testing.assert_array_equal(np.concatenate(parts), array)


def test_validation_of_labels_is_filled_up_with_ignored_ones(tmp_path):
    for labels, expected in (([[2], [0], [1]], [[2, 0], [1, -1]]), ([[2, -1], [0, -1], [1, -1]], None)):
        examples = {"inputs": [[5, 1], [6, 1], [7, 1]], "labels": labels}
        made = write(tmp_path / "s", {"l": ("labelled", ["de"], {"train": examples, "validation": examples})}, ["de"])
        batches = list(loader(made, {"names": {"rows": 2, "length": 4}}).validation("names", "l", 2))
        expected = expected or [[[2, -1, -1, -1], [0, -1, -1, -1]], [[1, -1, -1, -1], [-1] * 4]]
        assert [batch["labels"].tolist() for batch in batches] == expected
        assert batches[1]["inputs"].tokens.tolist() == [[7, 1, 0, 0], [0] * 4]


def test_invalid_validation_requests_are_refused(store):
    with pytest.raises(UserError, match="reads text, but stream 'de-en' is of kind pairs"):
        list(loader(store).validation("mlm", "de-en", 2))
    with pytest.raises(UserError, match="no validation examples"):
        list(loader(store, {"genre": {"rows": 1, "length": 8, "data": "genre"}}).validation("genre", "genre", 2))


# ------------------------------------------------------------------------------------------ reading ahead


def test_reading_ahead_gives_the_same_batches(store):
    data = loader(store, steps=9)
    steps = []
    for step, batch in data.iterate(4):
        steps.append(step)
        np.testing.assert_array_equal(batch["mlm"]["inputs"].tokens, data.batch(step)["mlm"]["inputs"].tokens)
    assert steps == [4, 5, 6, 7, 8]
    assert [step for step, _ in data.iterate(2, 4)] == [2, 3]


def test_a_thread_that_fails_raises_where_it_failed(store, monkeypatch):
    data = loader(store)
    batch = data.batch
    monkeypatch.setattr(data, "batch", lambda step: batch(step) if step < 3 else 1 / 0)
    steps = []
    with pytest.raises(ZeroDivisionError):
        for step, _ in data.iterate(0):
            steps.append(step)
    assert steps == [0, 1, 2]


def test_the_thread_stops_with_its_consumer_and_reads_no_further_than_it_may(store, monkeypatch):
    data = loader(store)
    read = []
    batch = data.batch
    monkeypatch.setattr(data, "batch", lambda step: read.append(step) or batch(step))
    batches = data.iterate(0, prefetch=2)
    next(batches)
    time.sleep(0.3)
    assert len(read) <= 4  # one given, two waiting, one in hand
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "loader"]


def test_a_damaged_store_ends_the_run_with_the_file_named(tmp_path):
    made = write(tmp_path / "s", {"de": ("text", ["de"], {"train": {"inputs": documents([9000])}})}, ["de"])
    data = loader(made)
    target = tmp_path / "s/de/train/inputs/values/c/0/0"
    content = bytearray(target.read_bytes())
    content[100:5000:7] = bytes(len(content[100:5000:7]))
    target.write_bytes(content)
    with pytest.raises(UserError, match="corrupt or incomplete"):
        for _ in data.iterate(0, 200):
            pass


# ------------------------------------------------------------------------------------------ bad input


BAD = [
    ({"mlm": {"rows": 5, "length": 8}}, {"process_count": 2}, "which cannot be divided among 2 hosts"),
    (
        {"mlm": {"rows": 6, "length": 8, "same_language_rows": 2}},
        {"process_count": 2},
        "among 2 hosts.* in runs of 2 rows of the same language.*of 4",
    ),
    ({"mlm": {"rows": 4, "length": 8, "data": ("ge",)}}, {}, "no stream 'ge'"),
    ({"mlm": {"rows": 4, "length": 8, "data": ("de-en",)}}, {}, "stream 'de-en' is of kind pairs"),
    (
        {"genre": {"rows": 4, "length": 8}},
        {},
        "mixes labels of tokens with labels of whole documents.*tasks.genre.data",
    ),
    ({"rank": {"rows": 4, "length": 8, "packed": True}}, {}, "packed is True"),
    ({"rank": {"rows": 4, "length": 8, "directions": "back"}}, {}, "directions is 'back'"),
    ({"rank": {"rows": 4, "length": 8}}, {"split": "test"}, "reads pairs, but the token store has none"),
    ({"rank": {"rows": 4, "length": 8}}, {"curriculum": ({"steps": 1000, "languages": ("de",)},)}, "no data in"),
    ({"mlm": {"rows": 4, "length": 8}}, {"languages": ("en", "de", "hi")}, "the token store has the languages"),
    ({"mlm": {"rows": 4, "length": 8}}, {"curriculum": ({"steps": 9},)}, "take 9 steps"),
]


@pytest.mark.parametrize("tasks, keys, message", BAD, ids=[message for *_, message in BAD])
def test_invalid_tasks_are_refused(store, tasks, keys, message):
    with pytest.raises(UserError, match=message) as error:
        loader(store, tasks, **keys)
    assert "\n" not in str(error.value)


def test_streams_whose_labels_differ(tmp_path):
    examples = {"train": {"inputs": [[5, 1]], "labels": [[0]]}}
    streams = {name: ("labelled", ["de"], examples) for name in ("one", "two")}
    made = write(tmp_path / "s", streams, ["de"], labels={"one": ("a", "b"), "two": ("b", "a")})
    with pytest.raises(UserError, match="labels differ .*one: a/b, two: b/a.*list the same .labels. for all of them"):
        loader(made, {"genre": {"rows": 1, "length": 8}})


def test_a_store_that_lacks_an_array_fails_at_the_start(tmp_path):
    made = write(tmp_path / "s", {"de": ("text", ["de"], {"train": {"inputs": [[5, 1]]}})}, ["de"])
    (tmp_path / "s/de/train/inputs/offsets/zarr.json").unlink()
    with pytest.raises(UserError, match="offsets: the token store is corrupt"):
        loader(made)
