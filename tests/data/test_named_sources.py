"""Several sources of a language by name: streams of their own, with rates, caps, and phases that name them."""

import numpy as np
import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config, load_config
from mlm_jax.config.check import check_values
from mlm_jax.data.loading.loader import Loader
from mlm_jax.data.store.freshness import is_fresh
from mlm_jax.data.store.prepare import join, prepare, prepare_shard
from mlm_jax.data.store.store import Store
from mlm_jax.report.store_tables import changes_table, phase_title, phases_table, plan_table
from tests.data.stores import config, documents, write
from tests.data.test_shards import contents

SIZES = {"de:web": 300, "de:wiki": 60, "de:books": 20, "en": 200}  # documents of ten tokens each


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    streams = {
        name: ("text", [name[:2]], {"train": {"inputs": documents([10] * count, count)}})
        for name, count in SIZES.items()
    }
    streams |= {
        f"de-en:{name}": (
            "pairs",
            ["de", "en"],
            {"train": {side: documents([4] * n) for side in ("inputs", "targets")}},
        )
        for name, n in (("opus", 30), ("ted", 10))
    }
    return write(tmp_path_factory.mktemp("data") / "s", streams, ["de", "en"])


def loader(store, settings, tasks=None, **keys):
    """Return a loader with {source of German: settings}; the other sources have none."""
    made = config(tasks or {"mlm": {"objective": "mlm", "rows": 8, "length": 10}}, **{"steps": 400, **keys})
    of_de = {name[3:]: {"files": "x", **settings.get(name, {})} for name in SIZES if name.startswith("de:")}
    made.data.corpora = {"de": of_de, "en": "y"}
    made.data.parallel = {"de-en": {name: {"files": "x", **settings.get(name, {})} for name in ("opus", "ted")}}
    return Loader(store, made, {"mlm": "text", "rank": "pairs"})


def shares(loader, step=0, task="mlm"):
    return {name: round(share, 4) for name, share in loader.planned_by_source(task, step).items()}


def test_sources_share_their_language_by_size_epochs_or_rates(store):
    assert loader(store, {}).planned_shares("mlm", 0) == pytest.approx(
        {"de": 380**0.5 / (380**0.5 + 200**0.5), "en": 0.4204}, abs=1e-4
    )
    even = {"mixing": {"alpha": 0.0}}
    assert shares(loader(store, {}, **even)) == {"de:web": 0.3947, "de:wiki": 0.0789, "de:books": 0.0263}
    four = loader(store, {"de:books": {"epochs": 4}}, **even)
    assert shares(four) == pytest.approx({"de:web": 150 / 440, "de:wiki": 30 / 440, "de:books": 40 / 440}, abs=1e-4)
    rated = loader(store, {"de:web": {"rate": 1}, "de:wiki": {"rate": 3}, "de:books": {"rate": 0}}, **even)
    assert shares(rated) == {"de:web": 0.125, "de:wiki": 0.375, "de:books": 0.0}
    realised = rated.realised_by_source("mlm", 0, 400)
    assert realised == pytest.approx(shares(rated), abs=1e-3) and realised["de:books"] == 0
    assert rated.tokens_by_source(400) == {name: round(share * 32_000) for name, share in realised.items()}
    assert sum(rated.realised_shares("mlm", 0, 400).values()) == pytest.approx(1)


def test_epochs_count_in_the_size_of_the_language(store):
    proportional = loader(store, {"de:books": {"epochs": 10}}, mixing={"alpha": 1.0})
    assert proportional.planned_shares("mlm", 0) == pytest.approx({"de": 560 / 760, "en": 200 / 760})


def test_tokens_are_capped(store):
    capped = loader(store, {"de:web": {"tokens": 500}}, mixing={"alpha": 1.0})
    assert capped.planned_shares("mlm", 0) == pytest.approx({"de": 130 / 330, "en": 200 / 330})
    docs = {name: store.stream(name).split("train")["inputs"].documents(range(count)) for name, count in SIZES.items()}
    allowed = {name: {tuple(row.tolist()) for row in found} for name, found in docs.items()}
    allowed["de:web"] = {tuple(row.tolist()) for row in docs["de:web"][::6]}  # spread over all of it
    tasks = {"mlm": {"objective": "mlm", "rows": 8, "length": 10, "packed": False}}
    unpacked = loader(store, {"de:web": {"tokens": 505}}, tasks, mixing={"alpha": 1.0})
    assert unpacked.planned_shares("mlm", 0) == pytest.approx({"de": 130 / 330, "en": 200 / 330})
    read = {tuple(row.tolist()) for step in range(200) for row in unpacked.batch(step)["mlm"]["inputs"].tokens}
    assert read == set().union(*allowed.values())
    seen = set()
    for step in range(400):
        rows = capped.batch(step)["mlm"]["inputs"]
        seen |= {*rows.tokens.ravel().tolist()}
    places = [place for place, document in enumerate(docs["de:web"]) if {*document[:-1].tolist()} & seen]
    assert np.histogram(places, 10, (0, 300))[0].min() >= 3


def test_phases_may_name_all_text_of_a_language_or_a_pair(store):
    tasks = {name: {"objective": kind, "rows": 8, "length": 10} for name, kind in (("mlm", "mlm"), ("rank", "ranking"))}
    phases = ({"steps": 200, "sources": ("wiki", "en", "de-en")}, {"steps": 200, "sources": ("de", "de-en:ted")})
    data = loader(store, {}, tasks, curriculum=phases, mixing={"alpha": 1.0})
    assert data.planned_shares("mlm", 0) == pytest.approx({"de": 60 / 260, "en": 200 / 260})
    assert shares(data, 0, "rank") == {"de-en:opus": 0.75, "de-en:ted": 0.25}
    assert data.planned_shares("mlm", 200) == {"de": 1.0, "en": 0.0}
    assert shares(data, 200, "mlm") == pytest.approx(
        {"de:web": 300 / 380, "de:wiki": 60 / 380, "de:books": 20 / 380}, abs=1e-4
    )
    assert shares(data, 200, "rank") == {"de-en:opus": 0.0, "de-en:ted": 1.0}


def test_phases_name_the_sources_that_they_read(store):
    phases = (
        {"steps": 200},
        {"steps": 100, "sources": ("wiki", "de:books")},
        {"steps": 100, "sources": {"wiki": 1, "books": 3}},
    )
    data = loader(store, {"de:web": {"rate": 8}, "de:wiki": {"rate": 1}, "de:books": {"rate": 1}}, curriculum=phases)
    assert shares(data, 250) == {"de:web": 0.0, "de:wiki": 0.5, "de:books": 0.5}  # by the config's rates
    assert shares(data, 350) == {"de:web": 0.0, "de:wiki": 0.25, "de:books": 0.75}
    assert data.planned_shares("mlm", 350) == {"de": 1.0, "en": 0.0}  # its text has no named source
    again = loader(store, {"de:web": {"rate": 8}, "de:wiki": {"rate": 1}, "de:books": {"rate": 1}}, curriculum=phases)
    for step in (0, 199, 200, 399):  # a batch is a function of the step alone: a resumed run reads the same
        for a, b in zip(data.batch(step)["mlm"]["inputs"], again.batch(step)["mlm"]["inputs"]):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(UserError, match="no source is called 'wikki'; did you mean 'wiki'"):
        loader(store, {}, curriculum=({"steps": 400, "sources": "wikki"},))


def test_a_task_may_name_a_language_or_one_source_of_it_and_pairs_have_sources_too(store):
    tasks = {"mlm": {"objective": "mlm", "rows": 8, "length": 10, "data": "de"}}
    assert [stream.name for stream in loader(store, {}, tasks).streams("mlm")] == ["de:web", "de:wiki", "de:books"]
    tasks["mlm"]["data"] = ("de:wiki", "en")
    assert [stream.name for stream in loader(store, {}, tasks).streams("mlm")] == ["de:wiki", "en"]
    tasks = {"rank": {"objective": "ranking", "rows": 4, "length": 8}}
    pairs = loader(store, {"opus": {"rate": 1}, "ted": {"rate": 1}}, tasks)
    assert shares(pairs, task="rank") == {"de-en:opus": 0.5, "de-en:ted": 0.5}


def test_tables_tell_sources_apart(store):
    data = loader(store, {}, curriculum=({"steps": 300}, {"steps": 100, "sources": "books"}))
    for table in (plan_table(data), phases_table(data)):
        names = [*table.columns[0].cells]
        assert names == ["de", "de:web", "de:wiki", "de:books", "en"]
    cells = {
        name: [*column.cells]
        for name, column in zip(("language", "first", "_", "second", "passes"), phases_table(data).columns)
    }
    assert cells["second"] == ["8,000", "0", "0", "8,000", "0"] and cells["passes"][3].endswith("(many)")


def test_what_each_phase_sets_is_listed(store):
    phases = (
        {"steps": 300, "mask_rate": (0.3, 0.15)},
        {"steps": 100, "sources": {"books": 2}, "length": 20, "languages": ("de",)},
    )
    data = loader(store, {}, curriculum=phases)
    titles = [phase_title(phase, entry) for phase, entry in zip(data.phases, phases)]
    assert titles[0] == "curriculum[0]: mask_rate from 0.3 to 0.15"
    assert titles[1] == "curriculum[1]: sources books 2, length 20, languages de"
    table = changes_table(data)
    cells = {column.header: [*column.cells] for column in table.columns}
    assert cells == {
        "phase": ["0: steps 0 to 300", "1: steps 300 to 400"],
        "mask_rate": ["from 0.3 to 0.15", ""],
        "sources": ["", "books 2"],
        "length": ["", "20"],
        "languages": ["", "de"],
    }


def write_text(folder):
    rng = np.random.default_rng(1)
    for name, count in (("web1", 40), ("web2", 30), ("wiki", 25), ("en", 50)):
        lines = [f"{name} {number}: " + " ".join(rng.choice(["word", "light", "day"], 6)) for number in range(count)]
        (folder / f"{name}.txt").write_text("\n".join(lines))
    made = default_config()
    wiki = {"files": str(folder / "wiki.txt"), "epochs": 2}
    made.data.corpora = {"de": {"web": str(folder / "web*.txt"), "wiki": wiki}, "en": {"files": str(folder / "en.txt")}}
    made.data.validation_fraction = 0.1
    made.vocabulary.kind = "bytes"
    return made


@pytest.mark.parametrize("named", ["", "de", "de:wiki"])
def test_named_sources_are_streams_of_the_store_and_of_its_shards(tmp_path, named):
    made = write_text(tmp_path)
    if named:
        (tmp_path / "held.txt").write_text("held out here\nwiki 3 is not\n")
        made.data.validation = {named: str(tmp_path / "held.txt")}
    prepare(made, tmp_path / "whole", progress=False)
    store = Store.open(tmp_path / "whole")
    held = {name for name, stream in store.streams.items() if "validation" in stream.splits}
    assert {s.name for s in store.streams.values() if "train" in s.splits} == {"de:web", "de:wiki", "en"}
    # Text that is named for a language is that of all its sources.
    assert held == ({"en", "de"} if named == "de" else {"en", "de:web", "de:wiki"})
    if named:
        assert store.streams[named].splits["validation"].documents == 2
    for index in reversed(range(4)):
        prepare_shard(made, tmp_path / "store", index, 4, progress=False)
    join(made, tmp_path / "store", 4, progress=False)
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")
    made.data.corpora["de"]["wiki"] = {**made.data.corpora["de"]["wiki"], "epochs": 7, "tokens": 9}
    assert is_fresh(made, tmp_path / "store")  # settings that only the loader reads make no store stale
    made.data.corpora = {**made.data.corpora, "de": made.data.corpora["de"] | {"web": str(tmp_path / "web1.txt")}}
    assert not is_fresh(made, tmp_path / "store")


@pytest.mark.parametrize(
    "sources, problem",
    [
        ({}, "names no source"),
        ({"web": 3}, "data.corpora.de.web is 3"),
        ({"epochs": 3}, "has 'epochs', but no 'files'"),
        ({"a:b": "x"}, "calls a source 'a:b'"),
        ({"web": {"files": "x", "rates": 1}}, "unknown key 'rates'; did you mean 'rate'"),
        ({"web": {"files": "x", "rate": 1}, "wiki": "y"}, "web has a rate, and data.corpora.de.wiki has none"),
        ({"files": "x", "tokens": 0}, "data.corpora.de.tokens is 0"),
    ],
)
def test_what_cannot_be_a_source_is_named(sources, problem):
    made = default_config()
    made.data.corpora = {"de": sources}
    with pytest.raises(UserError, match=problem):
        check_values(made)


@pytest.mark.parametrize("entry", ['{"web": "os:system"}', '{"web": {"files": "os:system"}}', '{"files": "os:system"}'])
def test_a_config_in_json_names_no_code_in_a_source_either(tmp_path, entry):
    (tmp_path / "config.json").write_text(f'{{"data": {{"corpora": {{"de": {entry}}}}}}}')
    with pytest.raises(UserError, match="a config in JSON cannot name a function"):
        load_config(tmp_path / "config.json")
