"""Classes of texts and words equal those of the head for each text alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax import model as model_room
from mlm_jax.checkpoints.checkpoint import Loaded
from mlm_jax.commands.classify import classify_command
from mlm_jax.common.errors import UserError
from mlm_jax.data.loading.batch import Rows
from mlm_jax.inference.classifier import Classifier, Prediction
from tests.evaluation.runs import GENRES, LANGUAGES, TAGS, make_config, make_store, sentence

LABELS = {"genre": GENRES, "entities": TAGS}
TEXTS = [sentence("en", 0), "", sentence("en", 1) + " " + sentence("en", 2), sentence("en", 3)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A model whose weights are drawn so wide that classes differ."""
    vocabulary = make_store(tmp_path_factory.mktemp("classify") / "store").vocabulary
    config = make_config(max_positions=48)
    config.tasks = {
        "genre": {"objective": "classification", "rows": 8, "length": 24},
        "entities": {"objective": "token_classification", "rows": 8, "length": 24},
    }
    sizes = {task: len(names) for task, names in LABELS.items()}
    _, shapes, _ = model_room.abstract(config, vocabulary_size=vocabulary.size, languages=LANGUAGES, labels=sizes)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32), shapes)
    return Loaded(0, config, vocabulary, LANGUAGES, LABELS, params)


def probabilities(classifier, ids, language="en"):
    """The probabilities of one text, ``[classes]``, or of its tokens with prefix and end, ``[tokens, classes]``."""
    tokens = np.array([[classifier.vocabulary.language_ids[language], *ids, classifier.vocabulary.eos_id]], np.int32)
    rows = Rows(
        tokens,
        np.ones_like(tokens),
        np.arange(tokens.size, dtype=np.int32)[None],
        np.array([LANGUAGES.index(language)], np.int32),
    )
    model = model_room.merge(classifier.graphdef, classifier.params)

    @jax.jit
    def logits(rows):
        return model.classify(classifier.task, model.encode(rows), rows.segment_ids, pooled=not classifier.by_word)

    return np.asarray(jax.nn.softmax(logits(rows)))[0]


def assert_is(prediction, expected, labels):
    assert prediction.label == labels[int(expected.argmax())]
    np.testing.assert_allclose(prediction.probability, expected.max(), rtol=1e-4)


def test_texts(loaded):
    classifier = Classifier(loaded, "genre")
    found = classifier.classify(TEXTS, language="en")
    for text, one in zip(TEXTS, found, strict=True):
        assert_is(one, probabilities(classifier, classifier.vocabulary.encode(text)), GENRES)
    assert len({one.probability for one in found}) == len(TEXTS)
    assert classifier.classify([]) == []


def test_pairs_have_an_end_between_them_and_the_longer_side_is_cut(loaded):
    classifier = Classifier(loaded, "genre")
    encode, eos = classifier.vocabulary.encode, classifier.vocabulary.eos_id
    first, second = encode(TEXTS[0]), encode(TEXTS[3])
    (one,) = classifier.classify([(TEXTS[0], TEXTS[3])], language="en")
    assert_is(one, probabilities(classifier, [*first, eos, *second]), GENRES)
    long = " ".join([TEXTS[0]] * 20)
    with pytest.warns(UserWarning, match="1 texts are longer than 48 tokens"):
        (cut,) = classifier.classify([(long, TEXTS[3])], language="en")
    kept = encode(long)[: 48 - 3 - len(second)]
    assert_is(cut, probabilities(classifier, [*kept, eos, *second]), GENRES)
    with pytest.warns(UserWarning, match="1 texts are longer than 48 tokens"):
        classifier.classify([long, TEXTS[3]], language="en")


def test_words_have_the_class_of_their_first_piece(loaded):
    classifier = Classifier(loaded, "entities")
    sentences = [text.split() for text in TEXTS]
    found = classifier.tag(sentences, language="en")
    for words, tags in zip(sentences, found, strict=True):
        pieces = [classifier.vocabulary.encode(word) for word in words]
        by_token = probabilities(classifier, [piece for word in pieces for piece in word])
        starts = 1 + np.cumsum([0, *map(len, pieces)])[:-1]
        for start, tag in zip(starts, tags, strict=True):
            assert_is(tag, by_token[start], TAGS)
    assert max(len(classifier.vocabulary.encode(word)) for words in sentences for word in words) > 1
    with pytest.warns(UserWarning, match="1 texts are longer"):
        (long,) = classifier.tag([sentences[0] * 20], language="en")
    assert len(long) == 20 * len(sentences[0]) and long[0].label and long[-1] == Prediction("", 0.0)


def test_the_command_writes_a_line_a_text_or_a_word(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr("mlm_jax.inference.classifier.load_parameters", lambda place: loaded)
    (tmp_path / "in.txt").write_text(f"{TEXTS[0]}\n{TEXTS[0]}\t{TEXTS[3]}\n")
    classify_command("run", "genre", str(tmp_path / "in.txt"), str(tmp_path / "out.tsv"), language="en")
    lines = [line.split("\t", 2) for line in (tmp_path / "out.tsv").read_text().splitlines()]
    expected = Classifier(loaded, "genre").classify([TEXTS[0], (TEXTS[0], TEXTS[3])], language="en")
    assert [(label, text) for label, _, text in lines] == [
        (expected[0].label, TEXTS[0]),
        (expected[1].label, f"{TEXTS[0]}\t{TEXTS[3]}"),
    ]
    classify_command("run", "entities", str(tmp_path / "in.txt"), str(tmp_path / "out.tsv"), language="en")
    blocks = (tmp_path / "out.tsv").read_text().split("\n\n")
    assert [line.split("\t")[0] for line in blocks[0].splitlines()] == TEXTS[0].split()


def test_empty_lines_stay_empty_and_are_counted(loaded, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mlm_jax.inference.classifier.load_parameters", lambda place: loaded)
    (tmp_path / "in.txt").write_text(f"{TEXTS[0]}\n\n \t \n{TEXTS[3]}\n")
    for task, blank in (("genre", ["", ""]), ("entities", ["", "", ""])):
        classify_command("run", task, str(tmp_path / "in.txt"), str(tmp_path / "out.tsv"), language="en")
        lines = (tmp_path / "out.tsv").read_text().split("\n")
        first = len(TEXTS[0].split()) if task == "entities" else 1
        assert lines[first : first + len(blank)] == blank and all(lines[:first])
        assert capsys.readouterr().err == "2 lines are empty\n"


@pytest.mark.parametrize(
    "line, message", [("a\tb\tc", "3 columns; a text has 1"), ("a\t ", "a side of the pair is empty")]
)
def test_a_line_that_is_no_text_is_named_by_its_number_in_the_file(loaded, tmp_path, monkeypatch, line, message):
    monkeypatch.setattr("mlm_jax.inference.classifier.load_parameters", lambda place: loaded)
    monkeypatch.setattr("mlm_jax.inference.encoder.WINDOW", 2)
    (tmp_path / "in.txt").write_text(f"{TEXTS[0]}\n{TEXTS[3]}\n{TEXTS[0]}\n{line}\n")
    with pytest.raises(UserError, match=f"in.txt:4: {message}"):
        classify_command("run", "genre", str(tmp_path / "in.txt"), str(tmp_path / "out.tsv"), language="en")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    "task, message", [("", "several classifiers.*one of genre, entities"), ("gener", "did you mean 'genre'")]
)
def test_which_classifier(loaded, task, message):
    with pytest.raises(UserError, match=message):
        Classifier(loaded, task)
    without = {name: part for name, part in loaded.params.items() if name != "classifiers"}
    with pytest.raises(UserError, match="no classifier.*train a task"):
        Classifier(loaded._replace(labels={}, params=without))
    with pytest.raises(UserError, match="use tag"):
        Classifier(loaded, "entities").classify(["a"], language="en")


def test_a_single_text_is_no_sequence_of_texts(loaded):
    with pytest.raises(TypeError, match="put a single one into a list"):
        Classifier(loaded, "genre").classify("abc")
    for wrong in ("abc", ["abc"]):
        with pytest.raises(TypeError, match="each a sequence of words"):
            Classifier(loaded, "entities").tag(wrong)
