"""A user's own seqio tasks and their mixture."""

from importlib.resources import files

import pytest
import seqio
import tensorflow as tf

from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.data.store.prepare import prepare
from mlm_jax.data.store.store import Store
from mlm_jax.data.store.tasks import SeqioVocabulary
from mlm_jax.data.vocabulary.pieces import Vocabulary

MODEL = str(files("seqio") / "test_data" / "sentencepiece" / "sentencepiece.model")
VOCABULARY = seqio.SentencePieceVocabulary(MODEL)
LINES = ["this is a test", "that is good"] * 5


def sources(split, shuffle_files=False, seed=None):
    return tf.data.Dataset.from_tensor_slices({"targets": LINES, "inputs": LINES[::-1]})


def mixture(*preprocessors, features=("targets",), vocabulary=VOCABULARY, add_eos=True):
    """Register a mixture of one task, and return the config of its run."""
    seqio.TaskRegistry.remove("of_user")
    seqio.MixtureRegistry.remove("mixture_of_user")

    def keep(ds):
        return ds.map(lambda x: {name: x[name] for name in features})

    seqio.TaskRegistry.add(
        "of_user",
        source=seqio.FunctionDataSource(sources, splits=("train", "validation")),
        preprocessors=[keep, seqio.preprocessors.tokenize, *preprocessors],
        output_features={name: seqio.Feature(vocabulary, add_eos=add_eos) for name in features},
    )
    seqio.MixtureRegistry.add("mixture_of_user", [("of_user", 2.0)])
    config = default_config()
    config.data.mixture, config.data.mixture_languages = (
        "mixture_of_user",
        {"of_user": "en" if len(features) == 1 else "en-de"},
    )
    config.vocabulary.sentinels = 2
    return config


def first(config, folder):
    """Prepare the store and return the features of the first example, and the vocabulary."""
    store = Store.open(prepare(config, folder, progress=False))
    split = store.stream("of_user").split("train")
    return [split[name].documents([0])[0].tolist() for name in split.features], store


def test_examples_are_stored_with_the_prefix_and_the_end_of_every_document(tmp_path):
    """Once: an example that has them already gets no second ones."""
    text = VOCABULARY.encode("this is a test")
    for name, preprocessors in (("end", [seqio.preprocessors.append_eos]), ("no end", [])):
        (document,), store = first(mixture(*preprocessors), tmp_path / name)
        assert document == [store.vocabulary.language_ids["en"], *text, VOCABULARY.eos_id]
        assert store.stream("of_user").rate == 2.0
        split = store.stream("of_user").split("train")
        assert split.tokens == sum(len(VOCABULARY.encode(line)) + 2 for line in LINES)

    def begun(ds):
        return ds.map(lambda x: {"targets": tf.concat([[store.vocabulary.language_ids["en"]], x["targets"]], 0)})

    assert first(mixture(begun), tmp_path / "begun")[0] == [document]
    config = mixture(features=("inputs", "targets"))
    sides, store = first(config, tmp_path / "pairs")
    expected = {"en": VOCABULARY.encode("that is good"), "de": text}
    assert sides == [[store.vocabulary.language_ids[side], *ids, VOCABULARY.eos_id] for side, ids in expected.items()]
    config.data.prefix = "none"
    assert first(config, tmp_path / "none")[0][1] == [*text, VOCABULARY.eos_id]


def test_preprocessors_are_told_how_long_an_example_may_be(tmp_path):
    def cut(ds, sequence_length):
        return ds.map(lambda x: {"targets": x["targets"][: sequence_length["targets"] - 2]})

    config = mixture(cut)
    config.data.max_document_tokens = 4
    (document,), _ = first(config, tmp_path / "store")
    assert len(document) == 4
    config = mixture()
    config.data.max_document_tokens = 4  # seqio cuts no document without a message
    (document,), _ = first(config, tmp_path / "whole")
    assert len(document) == len(VOCABULARY.encode(LINES[0])) + 2 > 4


def test_a_vocabulary_that_is_not_the_tasks_is_refused(tmp_path):
    config = mixture(vocabulary=seqio.ByteVocabulary())
    config.vocabulary.kind = "bytes"
    with pytest.raises(
        UserError, match=r"kind='bytes' is not the vocabulary of the seqio task 'of_user': .* in the task"
    ):
        prepare(config, tmp_path / "store", progress=False)
    settings = default_config().vocabulary
    settings.size, settings.sentinels = 276, 2
    Vocabulary.train(LINES * 20, settings, ("en",)).save(tmp_path / "other")
    config = mixture()
    config.vocabulary.path = str(tmp_path / "other")
    with pytest.raises(UserError, match=r"vocabulary.path='.*other' is not the vocabulary of the seqio task 'of_user'"):
        prepare(config, tmp_path / "store", progress=False)
    assert not (tmp_path / "store").exists()


def test_a_vocabulary_that_is_the_tasks_is_taken(tmp_path):
    config = mixture()
    config.vocabulary.path = MODEL
    assert first(config, tmp_path / "model")[0][0][1:-1] == VOCABULARY.encode(LINES[0])
    ours = Vocabulary.bytes(("en",), 2)
    config = mixture(vocabulary=SeqioVocabulary(ours))
    config.vocabulary.kind = "bytes"
    assert first(config, tmp_path / "bytes")[0][0][1:-1] == ours.encode(LINES[0])


def test_the_tasks_own_extra_ids_keep_their_meaning(tmp_path):
    config = mixture(vocabulary=seqio.SentencePieceVocabulary(MODEL, extra_ids=10))
    _, store = first(config, tmp_path / "store")
    assert store.vocabulary.mask_id >= VOCABULARY.vocab_size + 10


def test_a_module_that_cannot_be_imported_is_named(tmp_path):
    config = mixture()
    config.data.modules = ("nonexist",)
    with pytest.raises(UserError, match=r"data.modules: cannot import 'nonexist': No module named"):
        prepare(config, tmp_path / "store", progress=False)


def rows_of(store, feature="inputs", split="train"):
    found = store.stream("of_user").split(split)
    return [store.vocabulary.decode(row.tolist()) for row in found[feature].documents(range(found.documents))]


def test_a_feature_that_no_example_has_is_no_side_of_a_pair(tmp_path):
    """Whether it is declared and missing, or empty in every example, or only an end: the task is text."""

    def register(features, *preprocessors):
        config = mixture(features=("inputs", "targets"))
        seqio.TaskRegistry.remove("of_user")
        seqio.MixtureRegistry.remove("mixture_of_user")
        seqio.TaskRegistry.add(
            "of_user",
            source=seqio.FunctionDataSource(sources, splits=("train", "validation")),
            preprocessors=[*preprocessors, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
            output_features=features,
        )
        seqio.MixtureRegistry.add("mixture_of_user", [("of_user", 2.0)])
        config.data.mixture_languages = {"of_user": "en"}
        return config

    feature, optional = (seqio.Feature(VOCABULARY, add_eos=False, required=required) for required in (True, False))
    with_end = seqio.Feature(VOCABULARY, add_eos=True)

    def only(name):
        return lambda ds: ds.map(lambda x: {name: x[name]})

    for number, (features, step) in enumerate(
        (
            ({"inputs": optional, "targets": feature}, only("targets")),
            ({"inputs": feature, "targets": optional}, only("inputs")),
            (
                {"inputs": feature, "targets": feature},
                seqio.map_over_dataset(lambda x: {"inputs": "", "targets": x["targets"]}),
            ),
            (
                {"inputs": feature, "targets": feature},
                seqio.map_over_dataset(lambda x: {"inputs": x["targets"], "targets": ""}),
            ),
            (
                {"inputs": with_end, "targets": with_end},
                lambda ds: seqio.preprocessors.rekey(ds, {"inputs": None, "targets": "targets"}),
            ),
        )
    ):
        config = register(features, step)
        store = Store.open(prepare(config, tmp_path / f"{number}", progress=False))
        assert store.stream("of_user").kind == "text"
        read = LINES[::-1] if number == 1 else LINES
        assert rows_of(store) == [store.vocabulary.decode(store.vocabulary.encode(line)) for line in read]

    def empty(x):
        return tf.where(x["targets"] == LINES[0], "", x["inputs"])

    sometimes = seqio.map_over_dataset(lambda x: {"inputs": empty(x), "targets": x["targets"]})
    store = Store.open(
        prepare(register({"inputs": feature, "targets": feature}, sometimes), tmp_path / "pairs", progress=False)
    )
    assert store.stream("of_user").kind == "pairs" and store.stream("of_user").split("train").documents == 5
    assert store.manifest["facts"]["skipped"]["of_user"] == {"a side is empty": 10}  # of both splits


def test_unknown_pieces_count_with_their_text(tmp_path, monkeypatch):
    text = ["this is 光光 a test", "光", "that is good"]

    def whole(split, shuffle_files=False, seed=None):
        return tf.data.Dataset.from_tensor_slices({"targets": text})

    monkeypatch.setattr("tests.data.test_mixture.sources", whole)
    _, store = first(mixture(), tmp_path / "store")
    split = store.stream("of_user").split("train")
    assert store.vocabulary.unk_id in split["inputs"].documents([1])[0]
    assert (split.characters, split.bytes) == (sum(map(len, text)), sum(len(line.encode()) for line in text))

    def cut(ds):
        return ds.map(lambda x: {**x, "targets": x["targets"][:3]})

    _, store = first(mixture(cut), tmp_path / "cut")
    kept = [seqio.SentencePieceVocabulary(MODEL).encode(line)[:3] for line in text]
    assert store.stream("of_user").split("train").tokens == sum(map(len, kept)) + 2 * len(text)
    assert store.stream("of_user").split("train").characters < sum(map(len, text))


def test_a_name_in_mixture_languages_that_is_no_task_is_an_error(tmp_path):
    config = mixture()
    config.data.mixture_languages = {"of_user": "en", "of_usr": "de"}
    with pytest.raises(
        UserError, match="names 'of_usr', which is no task of 'mixture_of_user'; did you mean 'of_user'"
    ):
        prepare(config, tmp_path / "store", progress=False)
