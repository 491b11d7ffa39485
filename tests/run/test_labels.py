"""Texts with several classes and with numbers, from files to scores: held-out metrics are those of the trained model's answers."""

import json

import numpy as np
import pytest

import mlm_jax
from mlm_jax import cli
from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.data.text.labelled import check_formats, examples
from mlm_jax.run.loop import train

LETTERS = "abcdefgh"


def texts(seed, count):
    rng = np.random.default_rng(seed)
    return ["".join(LETTERS[n] for n in rng.integers(0, 8, 6)) for _ in range(count)]


def classes_of(text):
    return [letter for letter in "ab" if letter in text]


def number_of(text):
    return -text.count("c") / 2


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    for split, seed, count in (("train", 0, 120), ("held", 1, 24)):
        found = texts(seed, count)
        (folder / f"topics.{split}.tsv").write_text(
            "".join(f"{text}\t{','.join(classes_of(text))}\n" for text in found)
        )
        lines = [f"{text}\t{text[:3]}\t{number_of(text)}\n" for text in found]
        (folder / f"sts.{split}.tsv").write_text("sentence1\tsentence2\tscore\n" + "".join(lines))
    config = default_config()
    for name, form, kind in (("topics", "tsv", "classes"), ("sts", "xnli", "number")):
        files = {"train": str(folder / f"{name}.train.tsv"), "validation": str(folder / f"{name}.held.tsv")}
        config.data.labelled[name] = {"format": form, "kind": kind, "language": "en", **files}
    config.data.labelled["genre"] = {
        "format": "tsv",
        "language": "en",
        "train": str(folder / "genre.tsv"),
        "labels": ("a", "b"),
    }
    (folder / "genre.tsv").write_text("".join(f"{text}!\t{'a' if 'a' in text else 'b'}\n" for text in texts(2, 40)))
    config.vocabulary.kind, config.steps = "bytes", 40
    config.tasks = {
        "topics": {"objective": "multilabel_classification", "rows": 16, "length": 16},
        "sts": {"objective": "regression", "rows": 16, "length": 16},
        "genre": {"objective": "classification", "rows": 8, "length": 16, "class_weights": {"b": 2.0}},
    }
    config.model.update({"width": 16, "heads": 2, "mlp_width": 24, "encoder": ({"layers": 1},), "max_positions": 16})
    config.optimizer.learning_rate = 5e-3
    config.evaluation.every = 40
    train(config, folder / "run")
    return folder


def test_held_out_metrics_are_those_of_the_answers(run, capsys):
    found = [json.loads(line) for line in (run / "run" / "metrics.jsonl").read_text().splitlines()]
    first = next(event for event in found if "eval/loss/en" in event)
    last = [event for event in found if "eval/loss/en" in event][-1]
    assert last["eval/loss/mean"] < first["eval/loss/mean"] and last["eval/sts/loss/en"] < first["eval/sts/loss/en"]

    held = texts(1, 24)
    topics = mlm_jax.load_classifier(run / "run", "topics")
    said = [{one.label for one in answer} for answer in topics.classes(held)]
    true = [{*classes_of(text)} for text in held]
    hits = sum(len(a & b) for a, b in zip(said, true))
    f1 = 2 * hits / (sum(map(len, said)) + sum(map(len, true)))
    np.testing.assert_allclose(last["eval/f1/en"], f1, rtol=1e-6)
    assert f1 > 0.6

    sts = mlm_jax.load_classifier(run / "run", "sts")
    numbers = sts.scores([(text, text[:3]) for text in held])
    right = [number_of(text) for text in held]
    np.testing.assert_allclose(last["eval/sts/pearson/en"], np.corrcoef(numbers, right)[0, 1], atol=1e-4)
    assert last["eval/sts/spearman/mean"] > 0.3

    (run / "in.txt").write_text(held[0] + "\n\n")
    assert cli.main(["classify", str(run / "run"), "--task", "topics", "--input", str(run / "in.txt")]) == 0
    labels = ",".join(name for name in ("a", "b") if name in said[0])
    assert capsys.readouterr().out.split("\n")[0].split("\t")[::2] == [labels, held[0]]
    (run / "pair.txt").write_text(f"{held[0]}\t{held[0][:3]}\n")
    assert cli.main(["classify", str(run / "run"), "--task", "sts", "--input", str(run / "pair.txt")]) == 0
    assert capsys.readouterr().out == f"{numbers[0]:.4f}\t{held[0]}\t{held[0][:3]}\n"


def test_a_method_that_does_not_fit_the_task_is_an_error(run):
    with pytest.raises(
        UserError, match="'topics' predicts any number of classes .* Remedy: use classes instead of classify"
    ):
        mlm_jax.load_classifier(run / "run", "topics").classify(["abc"])
    with pytest.raises(UserError, match="'sts' predicts a number. Remedy: use scores instead of tag"):
        mlm_jax.load_classifier(run / "run", "sts").tag([["abc"]])


@pytest.mark.parametrize(
    ("text", "entry", "message"),
    [
        ("a\tmuch\n", {"kind": "number"}, "a.tsv:1: the label 'much' is not a number"),
        ("a\tnan\n", {"kind": "number"}, "the label 'nan' is not a number"),
        ("a\tx,z\n", {"kind": "classes", "labels": ("x", "y")}, "label 'z' is not one of x, y"),
        ("a\n", {"kind": "classes"}, "a.tsv:1: not 'text<TAB>label'"),
    ],
)
def test_labels_that_are_not_of_the_sets_kind(text, entry, message, tmp_path):
    (tmp_path / "a.tsv").write_text(text)
    with pytest.raises(UserError, match=message):
        [*examples({"format": "tsv", "language": "en", "train": str(tmp_path / "a.tsv"), **entry}, "train")]


def test_kinds_that_a_format_does_not_have():
    with pytest.raises(
        UserError, match="data.labelled.x.kind is 'number', but the format conll has a class for each word"
    ):
        check_formats({"x": {"format": "conll", "kind": "number"}})
    with pytest.raises(UserError, match="data.labelled.x.labels lists classes, but kind='number' has no classes"):
        check_formats({"x": {"format": "tsv", "kind": "number", "labels": ("1",)}})
