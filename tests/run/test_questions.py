"""Questions about texts, from SQuAD's JSON to exact match: rows hold the answers, and held-out scores are those of the answers."""

import json
import string
from collections import Counter

import numpy as np
import pytest

import mlm_jax
from mlm_jax import cli
from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.data.store.prepare import prepare
from mlm_jax.data.store.question_rows import END, START, Window, unpacked
from mlm_jax.data.store.store import Store
from mlm_jax.data.text.labelled import examples
from mlm_jax.data.text.labelled_formats.squad import ELSEWHERE
from mlm_jax.evaluation.answers import Question, answer_scores, best_span, join_windows
from mlm_jax.inference.classifier import best_answer
from mlm_jax.run.loop import train
from tests.interop.published import our_vocabulary


def squad(paragraphs):
    """SQuAD's JSON of [(text, [(question, answers)])]; an answer is found in the text, or is (text, where the file says)."""
    number = iter(range(10**6))

    def entry(context, question, answers):
        places = [a if isinstance(a, tuple) else (a, context.index(a)) for a in answers]
        given = [{"text": text, "answer_start": start} for text, start in places]
        return {"id": f"q{next(number)}", "question": question, "answers": given}

    found = [{"context": text, "qas": [entry(text, *qa) for qa in qas]} for text, qas in paragraphs]
    return json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": found}]})


def made_up(seed, count):
    """Texts of letters in which the answer is the digits behind the letter that is asked for."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        letters = rng.permutation([*string.ascii_lowercase[:6]])[:3]
        numbers = rng.integers(1000, 9999, 3)
        text = " ".join(f"{letter}{number}" for letter, number in zip(letters, numbers))
        asked = int(rng.integers(3))
        found.append((text, [(f"{letters[asked]}?", [str(numbers[asked])])]))
    return found


def config_of(folder, **entry):
    config = default_config()
    config.data.labelled = {"qa": {"format": "squad", "language": "en", **entry}}
    config.vocabulary.kind = "bytes"
    return config


@pytest.mark.parametrize("kind", ["bytes", "ours"])
def test_rows_hold_the_answers_wherever_the_windows_are(kind, tmp_path):
    context = "Im Anfang schuf Gott die Himmel und die Erde. Ａlte Ｚeichen ﬁnden sich 我 hier, naïve Leser! " * 3
    answers = ["Gott", "die Himmel", "Ｚeichen ﬁnden", "我", "naïve"]
    (tmp_path / "a.json").write_text(squad([(context, [(f"Was {n}?", [answer]) for n, answer in enumerate(answers)])]))
    config = config_of(tmp_path, validation=str(tmp_path / "a.json"), window=80, overlap=30)
    if kind == "ours":
        our_vocabulary(("en",)).save(tmp_path / "vocabulary")
        config.vocabulary.path = str(tmp_path / "vocabulary")
    store = Store.open(prepare(config, tmp_path / "store", progress=False))
    split = store.stream("qa").split("validation")
    inputs, labels, facts = (split[name].documents(range(split.documents)) for name in ("inputs", "labels", "answers"))
    assert split.documents > 2 * len(answers) if kind == "bytes" else split.documents > len(answers)
    seen = set()
    for ids, flags, packed in zip(inputs, labels, facts):
        assert len(ids) == len(flags) <= 80
        known = unpacked(packed)
        start, end = (int(np.flatnonzero((flags > 0) & (flags & flag > 0))[0]) for flag in (START, END))
        if start == 0:
            assert end == 0  # not in this window
            continue
        candidates = np.flatnonzero(flags[1:] >= 0) + 1
        spans = [known["spans"][place - candidates[0]] for place in (start, end)]
        (answer,) = known["answers"]
        assert answer in known["text"][spans[0][0] : spans[1][1]]
        assert len(known["text"][spans[0][0] : spans[1][1]].strip()) <= len(answer) + 4 * (kind == "ours")
        seen.add(answer)
    assert seen == {*answers}


def test_the_script_of_squad():
    """Numbers of the script of SQuAD 2.0 for these answers."""
    asked = [
        Question(("Denver Broncos", "the Broncos"), "The Denver Broncos!", 1.0, 0.0),  # 1, 1
        Question(("24–10",), "24-10", 1.0, 0.0),  # an en dash is no ASCII punctuation: 0, 0
        Question(("in the year 1066",), "year 1066", 1.0, 0.0),  # 0, F1 of 2 of 3 and 2 words
    ]
    found = answer_scores(asked)
    assert found == pytest.approx({"exact_match": 1 / 3, "f1": (1 + 0 + 0.8) / 3})
    asked.append(Question((), "something", 0.0, 1.0))  # there is none, and that is said
    asked.append(Question((), "something", 1.0, 0.0))
    split = {"has_answer_f1": 1.8 / 3, "no_answer_f1": 1 / 2}
    assert answer_scores(asked) == pytest.approx({"exact_match": 2 / 5, "f1": 2.8 / 5, **split})


@pytest.mark.parametrize(
    ("language", "said", "answer", "exact", "f1"),
    [  # numbers of MLQA's own script
        ("de", "Das „Haus“ der Kunst", "haus kunst", 1, 1),
        ("es", "¿La casa? de los Reyes", "Casa de Reyes", 1, 1),
        ("vi", "những cái Tên của Tôi", "tên tôi", 1, 1),
        ("ar", "القاهرة، في مصر", "قاهرة", 0, 0.5),
        ("hi", "दिल्ली।", "दिल्ली", 1, 1),
        ("zh-Hans", "北京，1949年", "北京 1949", 0, 6 / 7),
        ("zh", "the 北京", "北 京", 0, 0.8),
        ("en", "“The 24–10”", "2410", 1, 1),
        ("ru", "Москва — das", "москва", 0, 2 / 3),  # which has no rules of its own there
    ],
)
def test_the_script_of_mlqa(language, said, answer, exact, f1):
    found = answer_scores([Question((answer,), said, 1.0, 0.0)], "mlqa", language)
    assert found == pytest.approx({"exact_match": exact, "f1": f1})


def test_a_question_without_an_answer():
    """No answer is as good as in the window that is surest of one, as in SQuAD 2.0's recipes."""
    windows = [Window([7, 8, 9, 9], 2, 0, [(0, 3), (4, 7)]), Window([7, 8, 9, 9], 2, 1, [(4, 7), (8, 13)])]
    low, high = np.zeros((6, 2)), np.zeros((6, 2))  # of <s>, question, separator, two tokens of the text, </s>
    low[0], high[0] = 3.0, 2.0
    high[4, 0] = high[4, 1] = 1.5
    read = [*zip(windows, (low, high))]
    assert best_answer("one two three", read, 1) == best_answer("one two three", read, 1, 1.0)
    assert best_answer("one two three", read, 1)[0::2] == ("three", 8)
    none = best_answer("one two three", read, 1, 0.0)
    shares = np.exp(high) / np.exp(high).sum(axis=0)
    assert (none.text, none.start, none.end) == ("", 0, 0) and none.probability == pytest.approx(shares[0].prod())


def test_the_best_span_is_that_of_a_search_over_all():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 2))
    found = best_span(logits, 5, 48)
    every = {(s, e): logits[s, 0] + logits[e, 1] for s in range(5, 48) for e in range(s, min(s + 30, 48))}
    assert (found.start, found.end) == max(every, key=every.get)


def test_the_best_window_of_a_question_counts():
    flags = np.array([0, -1, 0, 0, -1])
    facts = {"id": "q", "answers": ["b"], "spans": [[0, 1], [2, 3]]}
    low, high = np.zeros((5, 2)), np.zeros((5, 2))
    low[2], high[3], high[0] = 2.0, 5.0, -4.0
    found = join_windows([({**facts, "text": "x y"}, flags, low), ({**facts, "text": "a b"}, flags, high)])
    assert found == {"q": Question(("b",), "b", 10.0, -8.0)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions")
    (folder / "train.json").write_text(squad(made_up(0, 200)))
    (folder / "held.json").write_text(squad(made_up(1, 30)))
    config = config_of(folder, train=str(folder / "train.json"), validation=str(folder / "held.json"), window=16)
    config.steps, config.evaluation.every = 150, 150
    config.tasks = {"qa": {"objective": "question_answering", "rows": 32, "length": 32}}
    config.model.update(
        width=32, heads=4, mlp_width=48, encoder=({"layers": 2},), max_positions=32, global_every=1, dtype="float32"
    )
    config.optimizer.learning_rate = 5e-3
    train(config, folder / "run")
    return folder


def test_held_out_scores_are_those_of_the_answers(run, capsys):
    events = [json.loads(line) for line in (run / "run" / "metrics.jsonl").read_text().splitlines()]
    found = [event for event in events if "eval/f1/en" in event]
    held = [(question, text, answers[0]) for text, qas in made_up(1, 30) for question, answers in qas]
    used = mlm_jax.load_classifier(run / "run")
    answers = used.answers([(question, text) for question, text, _ in held], language="en")
    right = np.mean([one.text == answer for one, (_, _, answer) in zip(answers, held)])
    assert found[-1]["eval/exact_match/en"] == pytest.approx(right) and right > 0.3 > found[0]["eval/exact_match/en"]
    for one, (_, text, _) in zip(answers, held):
        assert text[one.start : one.end].strip() == one.text and 0 < one.probability <= 1
    (run / "in.tsv").write_text(f"{held[0][0]}\t{held[0][1]}\n")
    assert cli.main(["classify", str(run / "run"), "--input", str(run / "in.tsv")]) == 0
    assert capsys.readouterr().out.split("\t")[0] == answers[0].text
    assert cli.main(["classify", str(run / "run"), "--input", str(run / "in.tsv"), "--no-answer=-1e9"]) == 0
    assert capsys.readouterr().out.startswith("\t")  # the answer is empty
    (run / "wrong.tsv").write_text("who?\n")
    assert cli.main(["classify", str(run / "run"), "--input", str(run / "wrong.tsv")]) == 2
    with pytest.raises(UserError, match="use answers instead of tag"):
        used.tag([["a"]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "this is not an object"),
        ('{"data": [{"paragraphs": [{"context": "a"}]}]}', r"data\[0\].paragraphs\[0\] has no list 'qas'"),
        ('{"data": 3}', "the file has no list 'data'"),
        ("{", "this is not JSON"),
    ],
)
def test_files_that_are_not_squads_are_named(content, message, tmp_path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=message):
        [*examples({"format": "squad", "language": "en", "train": str(tmp_path / "a.json")}, "train")]


def test_answers_are_found_where_the_file_is_off(tmp_path):
    text = "one two one three"
    (tmp_path / "a.json").write_text(squad([(text, [("a?", [("one", 7)]), ("b?", [("four", 3)]), ("c?", [])])]))
    skipped = Counter()
    entry = {"format": "squad", "language": "en", "train": str(tmp_path / "a.json")}
    first, last = examples(entry, "train", skipped)
    assert first.question.answers == (("one", 8),) and last.question.answers == () and skipped[ELSEWHERE] == 1
