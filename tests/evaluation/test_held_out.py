import json

import jax
import numpy as np
import pytest

from mlm_jax.data.store import Store
from mlm_jax.evaluation.held_out import HeldOut
from mlm_jax.evaluation.retrieval import accuracy_at_1
from mlm_jax.evaluation.sentences import aligned_rows, held_out_sentences
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


def test_bits_per_byte_counts_ordinary_tokens_of_the_held_out_text(run, store):
    metrics, split = run[2].metrics, store.streams["ru"].split("validation")
    ordinary = split.tokens - 2 * split.documents  # a language token before and an end after each
    assert metrics["eval/bits_per_byte/ru"] == pytest.approx(
        metrics["eval/loss/ru"] / np.log(2) * ordinary / split.bytes
    )


def test_the_same_model_measures_the_same_again(run):
    held_out, params, first = run
    assert held_out.evaluate(params).metrics == first.metrics


def test_a_limit_looks_at_the_first_rows_only(run):
    held_out, params, first = run
    everything = held_out.evaluate(params, everything=True, tasks=("entities",))
    assert everything.retrieval is None
    assert set(everything.metrics) == {key for key in first.metrics if "/entities/" in key}
    assert everything.metrics["eval/entities/loss/en"] != first.metrics["eval/entities/loss/en"]


def test_one_device_measures_what_eight_do(run, store):
    held_out, params, first = run
    loader, program = runs.make_program(store, runs.make_config(), devices=jax.devices()[:1])
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
    from mlm_jax.data.store import Store, StoreWriter
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
    save_sections(tmp_path, {
        "languages": runs.LANGUAGES,
        "table": language_rows(runs.LANGUAGES, evaluation.metrics, {}, {}, {}),
        "retrieval": retrieval_section(retrieval.matrices, retrieval.languages, retrieval.candidates, 20),
        "map": map_section(retrieval.embeddings, retrieval.texts),
        "samples": evaluation.samples,
    })  # fmt: skip
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
