import dataclasses
import json
import re

import jax
import numpy as np
import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.data.store.store import Store
from mlm_jax.data.store.writer import StoreWriter
from mlm_jax.evaluation.held_out import HeldOut
from mlm_jax.evaluation.labelled_sets import in_task_order, labelled_sets
from mlm_jax.evaluation.retrieval import accuracy_at_1
from mlm_jax.evaluation.sentences import ParallelSentences, aligned_rows, held_out_sentences, retrieval_metrics
from mlm_jax.report import language_rows, map_section, retrieval_section, save_sections, write_report
from tests.evaluation import runs


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return runs.make_store(tmp_path_factory.mktemp("held_out") / "store")


@pytest.fixture(scope="module")
def run(store):
    loader, program = runs.make_program(store, runs.make_config())
    params = program.initialise().params
    held_out = HeldOut(program, loader, store)
    return held_out, params, held_out.evaluate(params)


def test_every_task_is_measured_in_every_language_that_it_has(run):
    metrics = run[2].metrics
    for language in (*runs.LANGUAGES, "mean", "micro"):
        for name in ("loss", "accuracy", "bits_per_byte"):
            assert f"eval/{name}/{language}" in metrics
    assert "eval/ranking/loss/en" in metrics  # the first language of both pairs
    # Nothing was learnt: every piece is about equally likely.
    assert metrics["eval/loss/mean"] == pytest.approx(np.log(420), abs=0.2)


def test_zero_shot_languages_are_measured_though_no_task_reads_them(run, store):
    assert "train" not in store.streams["ner-ru"].splits
    metrics = run[2].metrics
    for name in ("loss", "accuracy", "f1"):
        assert f"eval/entities/{name}/ru" in metrics
        assert f"eval/entities/{name}/hi" not in metrics


def test_test_sets_without_training_text_are_measured(store):
    without = Store.open(store.folder)
    for name in ("hi", "en-hi"):
        del without.streams[name].splits["train"]
    held_out = HeldOut(*runs.make_program(without, runs.make_config())[::-1], without)
    assert [stream.name for stream in held_out.loader.streams("ranking")] == ["en-ru"]
    assert [stream.name for stream in held_out.streams["ranking"]] == ["en-ru", "en-hi"]
    assert [stream.name for stream in held_out.streams["mlm"]] == ["en", "ru", "hi"]
    assert ("en", "hi") in held_out.sentences.pairs


def labelled_store(folder, **sets):
    """A store of labelled sets: {name: (language, labels, {split: [labels of each document]})}."""
    from tests.data.stores import Ids

    with StoreWriter(folder, Ids(), ("en", "de")) as writer:
        for name, (language, _, splits) in sets.items():
            for split, documents in splits.items():
                inputs = [np.arange(5, 6 + (len(labels) if len(labels) > 1 else 4)) for labels in documents]
                labels = [np.array([*labels, -1] if len(labels) > 1 else labels) for labels in documents]
                writer.add(name, "labelled", (language,), split, {"inputs": inputs, "labels": labels})
        writer.labels = {name: labels for name, (_, labels, _) in sets.items()}
    return Store.open(folder)


NER = ("O", "B-PER", "B-ORG")
TRAINED, HELD_OUT = {"train": [[0, 1, 2]], "validation": [[0, 1, 2]]}, {"validation": [[0, 1, 0]]}
GENRE = {"train": [[0], [1]], "validation": [[0], [1]]}


def sets_of(store, tasks):
    read = {task: [store.stream(name) for name in entry["data"]] for task, entry in tasks.items()}
    return {task: [s.name for s in found] for task, found in labelled_sets(store, tasks, read).items()}


def test_a_set_that_nobody_reads_is_measured_by_the_task_that_knows_its_labels(tmp_path, caplog):
    store = labelled_store(
        tmp_path / "store",
        ner=("en", NER, TRAINED),
        fewer=("de", ("B-PER", "O"), HELD_OUT),
        other=("de", NER[::-1], HELD_OUT),
        read=("de", NER, TRAINED),
        genre=("en", ("no", "yes"), GENRE),
        foreign=("de", ("a", "b"), {"validation": [[0], [1]]}),
    )
    tasks = {
        "entities": {"data": ("ner",)},
        "more": {"data": ("read",), "evaluate_on": ()},
        "genre": {"data": ("genre",)},
    }
    assert sets_of(store, tasks) == {"entities": ["ner", "fewer", "other"], "more": ["read"], "genre": ["genre"]}
    assert "no task is evaluated on the labelled sets foreign, since no task has" in caplog.text
    np.testing.assert_array_equal(in_task_order(np.array([[0, 1, -1]]), store.stream("fewer"), NER), [[1, 0, -1]])


def test_labels_that_a_task_does_not_know_and_sets_of_two_tasks_are_errors(tmp_path):
    yes, split = ("no", "yes"), {"validation": [[0], [1]]}
    store = labelled_store(
        tmp_path / "store",
        ner=("en", NER, TRAINED),
        wider=("de", (*NER, "B-LOC"), HELD_OUT),
        a=("en", yes, GENRE),
        b=("en", yes, GENRE),
        c=("de", yes, split),
    )
    ner, a, b = ({"data": (name,)} for name in ("ner", "a", "b"))
    with pytest.raises(
        UserError, match="set 'wider' has the label 'B-LOC', which task 'entities' does not have.*labels"
    ):
        sets_of(store, {"entities": ner})
    with pytest.raises(UserError, match="the labelled set 'c' has labels of the tasks 'a' and 'b'.*evaluate_on"):
        sets_of(store, {"a": a, "b": b})
    assert sets_of(store, {"a": a, "b": b | {"evaluate_on": "c"}}) == {"a": ["a"], "b": ["b", "c"]}
    with pytest.raises(UserError, match="task 'a' cannot be tested on 'ner'"):
        sets_of(store, {"a": a | {"evaluate_on": ("ner",)}})
    with pytest.raises(UserError, match="has no stream 'd'"):
        sets_of(store, {"a": a | {"evaluate_on": ("d",)}})


def test_labels_of_a_test_set_are_measured_as_the_task_numbers_them(run, store, tmp_path):
    held_out, params, first = run
    russian = store.streams["ner-ru"]
    other = dataclasses.replace(russian, labels=runs.TAGS[::-1])  # the same file, its classes in another order
    split = dict(russian.splits)
    held_out.streams["entities"] = (other,)
    try:
        turned, _ = held_out.task_metrics("entities", params, everything=True)
    finally:
        held_out.streams["entities"] = (store.streams["ner-en"], russian)
    assert split == russian.splits
    straight, _ = held_out.task_metrics("entities", params, everything=True)
    batch = next(held_out._batches("entities", other, True, False))["labels"]
    stored = next(held_out._batches("entities", russian, True, False))["labels"]
    np.testing.assert_array_equal(np.asarray(batch), np.where(np.asarray(stored) < 0, -1, 2 - np.asarray(stored)))
    assert turned["loss"]["ru"] != straight["loss"]["ru"]


def test_held_out_pairs_that_are_cut_are_counted(store, caplog):
    config = runs.make_config()
    config.tasks = {"ranking": runs.TASKS["ranking"] | {"length": 12}}
    config.model.max_positions = 12
    loader, program = runs.make_program(store, config)
    sentences = [d for documents in HeldOut(program, loader, store).sentences.documents.values() for d in documents]
    cut = sum(len(document) > 12 for document in sentences)
    assert 0 < cut < 90 and f"retrieval cuts {cut} of {len(sentences)} held-out sentences to 12 tokens" in caplog.text
    split = store.stream("en-hi").split("validation")
    sides = [[len(document) for document in split[side].documents(np.arange(30))] for side in ("inputs", "targets")]
    longer = sum(size > 12 for side in sides for size in side)
    assert (
        0 < longer < 60
        and f"ranking, held-out en-hi: cuts {longer} of 60 texts, of up to {max(map(max, sides))}" in caplog.text
    )


def test_words_beyond_a_rows_end_count_in_f1(store, caplog):
    config = runs.make_config()
    config.tasks = {"entities": runs.TASKS["entities"] | {"length": 6}}
    loader, program = runs.make_program(store, config)
    held_out = HeldOut(program, loader, store)
    assert re.search(
        r"entities, held-out ner-ru: cuts 29 of 30 texts, of up to \d+ tokens, to 6: entities beyond", caplog.text
    )
    seen = {}

    def scores(predicted, gold, languages):
        for ours, right, language in zip(predicted, gold, languages):
            seen.setdefault(language, []).append((ours, right))
        return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlm_jax.evaluation.held_out.entity_scores", scores)
        held_out.task_metrics("entities", program.initialise().params, everything=True)
    for language, found in seen.items():
        labels = store.streams[f"ner-{language}"].split("validation")["labels"].documents(range(30))
        assert [right for _, right in found] == [[runs.TAGS[n] for n in row[row >= 0]] for row in labels]
        for (ours, _), row in zip(found, labels):
            places = np.flatnonzero(row >= 0)
            assert all(tag == "O" for tag, place in zip(ours, places) if 5 <= place < len(row) - 1)


def test_bits_per_byte_counts_ordinary_tokens_of_the_held_out_text(run, store):
    metrics, split = run[2].metrics, store.streams["ru"].split("validation")
    ordinary = split.tokens - 2 * split.documents  # a language token before and an end after each
    assert metrics["eval/bits_per_byte/ru"] == pytest.approx(
        metrics["eval/loss/ru"] / np.log(2) * ordinary / split.bytes
    )


def test_the_same_model_measures_the_same_again(run):
    held_out, params, first = run
    assert held_out.evaluate(params).metrics == first.metrics


def test_what_metrics_are_computed_of_gives_the_metrics(run):
    held_out, params, found = run
    of_languages = {key for key in found.metrics if key.rpartition("/")[2] not in ("mean", "micro")}
    assert found.observed.keys() == of_languages  # of every metric, language and pair
    for key, (units, first, second) in found.observed.items():
        assert first.sum() / second.sum() == pytest.approx(found.metrics[key], rel=1e-5), key
        assert len(units) == len(set(units.tolist())) or "ranking" in key
    pairs = [found.observed[f"eval/retrieval_at_1/{pair}"].units for pair in ("en-ru", "ru-en", "ru-hi", "en-hi")]
    assert all(set(pairs[0].tolist()) == set(other.tolist()) for other in pairs)  # the same sentences in all languages
    assert set(found.observed["eval/loss/en"].units) == set(found.observed["eval/accuracy/en"].units)
    assert not set(found.observed["eval/loss/en"].units) & set(found.observed["eval/loss/ru"].units)
    everything = held_out.evaluate(params, everything=True, tasks=("mlm",)).observed["eval/loss/en"]
    np.testing.assert_array_equal(everything.units[:8], found.observed["eval/loss/en"].units)
    np.testing.assert_allclose(everything.first[:8], found.observed["eval/loss/en"].first, rtol=1e-5)


def test_a_limit_looks_at_the_first_rows_of_text_only_and_at_all_labels(run):
    held_out, params, first = run
    everything = held_out.evaluate(params, everything=True, tasks=("entities", "mlm"))
    assert everything.retrieval is None
    of_both = {key for key in first.metrics if "/entities/" in key or "bits_per_byte" in key}
    assert of_both <= everything.metrics.keys()
    same = {key: everything.metrics[key] == first.metrics[key] for key in of_both}
    assert all(same[key] for key in of_both if "/entities/" in key)
    assert not any(same[key] for key in of_both if "bits_per_byte" in key)


def test_a_limit_on_examples_takes_the_first_ones(run):
    held_out, params, first = run
    held_out.config.evaluation.examples = 3
    try:
        found = held_out.evaluate(params, tasks=("entities",)).observed
    finally:
        held_out.config.evaluation.examples = 0
    units = found["eval/entities/f1/en"].units
    assert len(units) == 3
    np.testing.assert_array_equal(units, first.observed["eval/entities/f1/en"].units[:3])


def test_one_device_measures_what_eight_do(run, store):
    held_out, params, first = run
    config = runs.make_config()
    config.tasks["mlm"]["same_language_rows"] = 2
    loader, program = runs.make_program(store, config, devices=jax.devices()[:1])
    alone = jax.device_put(jax.device_get(params), jax.devices()[0])
    second = HeldOut(program, loader, store).evaluate(alone)
    assert second.metrics.keys() == first.metrics.keys()
    for key, value in first.metrics.items():
        assert second.metrics[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key


def test_languages_without_parallel_text_are_joined_through_a_third(store):
    sentences = held_out_sentences(store, limit=1000)
    assert set(sentences.pairs) == {("en", "ru"), ("en", "hi"), ("ru", "hi")}
    vocabulary = store.vocabulary
    for i, j in sentences.pairs["ru", "hi"][:5]:
        russian = vocabulary.decode(sentences.documents["ru"][i].tolist()).split()
        hindi = vocabulary.decode(sentences.documents["hi"][j].tolist()).split()
        assert [runs.words("ru").index(word) for word in russian] == [runs.words("hi").index(word) for word in hindi]
    rows = aligned_rows(sentences)
    assert {language: len(mine) for language, mine in rows.items()} == dict.fromkeys(runs.LANGUAGES, 30)


def test_sentences_that_occur_twice_are_sought_once(tmp_path):
    from tests.data.stores import Ids

    inputs = [np.array([5, 6, 1]), np.array([5, 6, 1]), np.array([7, 1])]
    targets = [np.array([8, 1]), np.array([9, 1]), np.array([9, 1])]
    with StoreWriter(tmp_path / "store", Ids(), ("de", "fr")) as writer:
        for split in ("train", "validation"):
            writer.add("de-fr", "pairs", ("de", "fr"), split, {"inputs": inputs, "targets": targets})
    sentences = held_out_sentences(Store.open(tmp_path / "store"), limit=10)
    assert len(sentences.documents["de"]) == len(sentences.documents["fr"]) == 2
    assert sentences.pairs["de", "fr"].tolist() == [[0, 0], [1, 1]]


def test_the_retrieval_matrix_is_that_of_the_aligned_embeddings(run):
    retrieval = run[2].retrieval
    assert retrieval.candidates == 30
    embeddings = retrieval.embeddings
    for score, matrix in retrieval.matrices.items():
        assert (matrix[1, 2], matrix[2, 1]) == accuracy_at_1(embeddings["ru"], embeddings["hi"], score)
    metrics = run[2].metrics
    assert metrics["eval/retrieval_at_1/ru-hi"] == retrieval.matrices["csls"][1, 2]
    assert metrics["eval/retrieval_at_1/mean"] == pytest.approx(np.nanmean(retrieval.matrices["csls"]))


def test_the_micro_average_of_retrieval_is_over_sentences():
    rows = {("a", "b"): np.zeros((30, 2), int), ("a", "c"): np.zeros((10, 2), int)}
    sentences = ParallelSentences({code: [] for code in "abc"}, rows)
    csls = np.array([[np.nan, 1.0, 0.0], [0.5, np.nan, np.nan], [0.2, np.nan, np.nan]])
    metrics = retrieval_metrics({"csls": csls}, sentences)
    assert metrics["eval/retrieval_at_1/mean"] == pytest.approx((1.0 + 0.0 + 0.5 + 0.2) / 4)
    assert metrics["eval/retrieval_at_1/micro"] == pytest.approx((30 + 0 + 15 + 2) / 80)


def test_samples_put_text_and_blanks_together_again(run, store):
    samples = run[2].samples
    assert list(samples) == list(runs.LANGUAGES)
    whole = ["".join(part if isinstance(part, str) else part["truth"] for part in sample) for sample in samples["hi"]]
    split = store.streams["hi"].split("validation")
    assert whole == [store.vocabulary.decode(document.tolist()) for document in split["inputs"].documents([0, 1])]
    for sample in samples["hi"]:
        blanks = [part for part in sample if not isinstance(part, str)]
        assert blanks
        for blank in blanks:
            probabilities = [probability for _, probability in blank["guesses"]]
            assert len(probabilities) == 5
            assert probabilities == sorted(probabilities, reverse=True)


def test_an_evaluation_becomes_a_report(run, tmp_path):
    _, _, evaluation = run
    retrieval = evaluation.retrieval
    save_sections(
        tmp_path,
        {
            "languages": runs.LANGUAGES,
            "table": language_rows(runs.LANGUAGES, evaluation.metrics, {}, {}, {}),
            "retrieval": retrieval_section(retrieval.matrices, retrieval.languages, retrieval.candidates, 20),
            "map": map_section(retrieval.embeddings, retrieval.texts),
            "samples": evaluation.samples,
        },
    )
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 20, **evaluation.metrics}) + "\n")
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert retrieval.texts["hi"][0].split()[0] in page
    assert f"{100 * evaluation.metrics['eval/retrieval_at_1/mean']:.1f}" in page


def test_a_phase_is_measured_with_the_rotary_positions_it_trains_with(store):
    config = runs.make_config()
    config.curriculum = ({"steps": 5}, {"steps": 15, "rope_theta": 2.0})
    loader, program = runs.make_program(store, config)
    params = program.initialise().params
    held_out = HeldOut(program, loader, store)
    assert held_out.after(0) is held_out.after(5) is held_out and held_out.after(6) is held_out.after(20)
    other = runs.make_config(rope_theta=2.0)
    other_loader, other_program = runs.make_program(store, other)
    wanted = HeldOut(other_program, other_loader, store).evaluate(params, tasks=("mlm",)).metrics
    assert held_out.after(6).evaluate(params, tasks=("mlm",)).metrics == wanted
    assert held_out.evaluate(params, tasks=("mlm",)).metrics != wanted


def test_weights_of_each_task_are_those_it_is_measured_with(store):
    config = runs.make_config()
    config.model.encoder = ({"layers": 1, "weights": "task"},)
    loader, program = runs.make_program(store, config)
    params = program.initialise().params
    first = HeldOut(program, loader, store).evaluate(params)
    assert first.retrieval is not None and first.samples
    number = list(config.tasks).index("ranking")
    changed = jax.tree.map(lambda leaf: leaf.at[:, number].multiply(1.5), params["encoder"])
    second = HeldOut(program, loader, store).evaluate(params | {"encoder": changed})
    moved = {key for key, value in first.metrics.items() if second.metrics[key] != value}
    assert all("/ranking/" in key or "/retrieval" in key for key in moved) and any("/ranking/" in key for key in moved)
    assert (first.retrieval.embeddings["en"] != second.retrieval.embeddings["en"]).any()
    assert first.samples == second.samples


def test_losses_of_named_sources_are_those_of_their_text_alone(tmp_path):
    whole = runs.make_store(tmp_path / "whole")
    with StoreWriter(tmp_path / "named", whole.vocabulary, whole.languages) as writer:
        for split in ("train", "validation"):
            part = whole.stream("en").split(split)
            texts, half = part["inputs"].documents(range(part.documents)), part.documents // 2
            for name, of_name in (("en:web", texts[:half]), ("en:books", texts[half:])):
                writer.add(name, "text", ("en",), split, {"inputs": of_name}, bytes=sum(map(len, of_name)))
            writer.extend(whole.stream("ru"), split)
    config = runs.make_config()
    config.tasks = {"mlm": runs.TASKS["mlm"]}
    loader, program = runs.make_program(Store.open(tmp_path / "named"), config)
    held_out = HeldOut(program, loader, Store.open(tmp_path / "named"))
    found = held_out.evaluate(program.initialise().params, everything=True).metrics
    for metric in ("loss", "bits_per_byte"):
        values = {name: found[f"eval/{metric}/{name}"] for name in ("en", "en:web", "en:books", "ru", "mean")}
        low, high = sorted((values["en:web"], values["en:books"]))
        assert low < values["en"] < high and values["mean"] == pytest.approx((values["en"] + values["ru"]) / 2)
    rows = language_rows(("en", "ru"), found, {}, {}, {}, [source.name for source in loader.sources()])
    assert [row.language for row in rows] == ["en", "en:web", "en:books", "ru", "mean"]
    assert rows[-1].loss == pytest.approx((rows[0].loss + rows[3].loss) / 2)
