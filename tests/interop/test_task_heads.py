"""Classifiers imported and exported: transformers' logits are ours, with padding and without, and so are its pipelines' results."""

import json

import jax
import numpy as np
import pytest
import torch
import transformers
from transformers import AutoTokenizer, pipeline

import mlm_jax
from mlm_jax import cli
from mlm_jax import model as model_room
from mlm_jax.checkpoints.checkpoint import load_parameters
from mlm_jax.checkpoints.saving import Checkpoints
from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.interop.exporting import export_hf
from mlm_jax.interop.importing import import_hf
from mlm_jax.interop.task_heads import form_of
from tests.interop import parity
from tests.interop.published import our_vocabulary, published, sentences
from tests.interop.test_verbs import OURS

TEXTS = [text[:length] for text, length in zip(sentences(3000), (50, 20, 33, 7, 41))]
TASKS = {  # {task: (objective, names of its outputs)}
    "topic": ("classification", ("law", "gospel", "letter")),
    "topics": ("multilabel_classification", ("law", "gospel", "letter")),
    "similarity": ("regression", ("score",)),
    "tags": ("token_classification", ("O", "B-PER", "I-PER", "B-LOC")),
    "answer": ("question_answering", ("start", "end")),
}
PER_TOKEN = ("tags", "answer")
PROBLEMS = {
    "topic": "single_label_classification",
    "topics": "multi_label_classification",
    "similarity": "regression",
    "tags": None,
    "answer": None,
}
XMOD = {"layers": 3, "weights": "shared", "adapter": 8, "adapter_weights": "source_language", "adapter_norm": "reused"}
EOS = our_vocabulary(("de", "en")).eos_id
FAMILIES = {  # {family: settings of config.model}
    **OURS,
    "bert": {**OURS["xlm-roberta"], "position_offset": 0, "embedding_types": 2, "type_boundary": EOS},
    "xmod": {**OURS["xlm-roberta"], "encoder": (XMOD,)},
}
SEQUENCE = {"modernbert": ("head", ("mean", "first")), "eurobert": ("gelu", ("mean", "first", "late"))}
TOKENS = {"modernbert": "head"}


def forms(family):
    transform, poolings = SEQUENCE.get(family, ("tanh", ("first",)))
    whole = [("topic", {"pooling": pooling, "transform": transform}) for pooling in poolings]
    others = [(task, {"pooling": poolings[0], "transform": transform}) for task in ("topics", "similarity")]
    words = {"transform": TOKENS.get(family, "none")}
    asked = [] if family == "eurobert" else [("answer", words)]  # transformers has no such head
    return [*whole, *others, *asked, ("tags", words)]


def workdir_with(folder, family, task, options):
    """An untrained model of ours with a head; weights are random, and none is zero."""
    config = default_config()
    config.vocabulary.update(size=2000, sentinels=3)
    settings = {
        "width": 32,
        "heads": 4,
        "mlp_width": 40,
        "max_positions": 64,
        "window": 8,
        "encoder": ({"layers": 3, "weights": "shared"},),
        **FAMILIES[family],
    }
    config.model.update(settings)
    objective, names = TASKS[task]
    config.tasks = {task: {"objective": objective, "rows": 8, "length": 32, **options}}
    languages, vocabulary = ("de", "en"), our_vocabulary(("de", "en"))
    labels = {task: names}
    _, shapes, _ = model_room.abstract(
        config, vocabulary_size=vocabulary.size, languages=languages, labels={task: len(names)}
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: (
            (1 + 0.2 * rng.normal(size=leaf.shape)).astype(np.float32)
            if leaf.ndim < 3
            else (0.3 * rng.normal(size=leaf.shape)).astype(np.float32)
        ),
        shapes,
    )
    params["embedding"] = rng.normal(size=params["embedding"].shape).astype(np.float32)
    dense = [group["dense"] for group in params.get("classifier_transforms", {}).values()]
    for layer in [*params["classifiers"].values(), *dense]:  # small enough that tanh tells texts apart
        layer["kernel"] = 0.3 * rng.normal(size=layer["kernel"].shape).astype(np.float32)
    checkpoints = Checkpoints(folder, config, vocabulary, languages, labels=labels)
    checkpoints.save(7, {"params": params})
    checkpoints.wait()
    return folder


def our_logits(workdir, task, tokens, lengths, language=0):
    """``[rows, labels]`` or ``[rows, length, labels]`` of padded documents."""
    from mlm_jax.data.loading.batch import Rows

    used = mlm_jax.load_classifier(workdir, task)
    real = np.arange(tokens.shape[1])[None] < np.asarray(lengths)[:, None]
    positions = np.where(real, np.arange(tokens.shape[1])[None], 0).astype(np.int32)
    rows = Rows(tokens.astype(np.int32), real.astype(np.int32), positions, np.full(len(tokens), language, np.int32))
    model = model_room.merge(used.graphdef, used.params)
    logits = model.classify(used.task, model.encode(rows, task=used.task), rows.segment_ids, pooled=not used.by_word)
    return np.asarray(logits)


def with_two_texts_a_class(workdir, folder, tokens, lengths):
    """The same model with other biases of its outputs: exactly two texts belong to each class."""
    loaded = load_parameters(workdir)
    ((task, _),) = loaded.labels.items()
    ranked = np.sort(our_logits(workdir, task, tokens, lengths), axis=0)  # [texts, classes]
    layer = loaded.params["classifiers"][task]
    layer["bias"] = np.asarray(layer["bias"]) - (ranked[-3] + ranked[-2]) / 2
    checkpoints = Checkpoints(folder, loaded.config, loaded.vocabulary, loaded.languages, labels=loaded.labels)
    checkpoints.save(7, {"params": loaded.params})
    checkpoints.wait()
    return folder


def logits_of(outputs):
    """The logits of a head of transformers, those of the first and the last token of an answer side by side."""
    if hasattr(outputs, "start_logits"):
        return torch.stack([outputs.start_logits, outputs.end_logits], dim=-1).numpy()
    return outputs.logits.numpy()


def their_class(folder):
    return getattr(transformers, json.loads((folder / "config.json").read_text())["architectures"][0])


def test_a_users_own_objective_has_the_head_of_its_base(tmp_path, monkeypatch):
    (tmp_path / "own_topics.py").write_text(
        "from mlm_jax.objectives.classification import Classification\nclass Topics(Classification): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert form_of("own_topics:Topics") == form_of("classification") == ("ForSequenceClassification", PROBLEMS["topic"])
    with pytest.raises(UserError, match="the head of an objective 'mlm' has no counterpart in transformers"):
        form_of("mlm")


CASES = [(family, task, options) for family in FAMILIES for task, options in forms(family)]


@pytest.mark.parametrize(
    ("family", "task", "options"), CASES, ids=[f"{f} {t} {o.get('pooling', '')}" for f, t, o in CASES]
)
def test_a_head_of_ours_in_transformers_and_back(family, task, options, tmp_path):
    workdir = workdir_with(tmp_path / "run", family, task, options)
    out = export_hf(workdir, tmp_path / "out", family=family, task=task, language="de")
    model = their_class(out).from_pretrained(out).eval()
    objective, names = TASKS[task]
    assert tuple(model.config.id2label[index] for index in range(model.config.num_labels)) == names
    assert model.config.problem_type == PROBLEMS[task]
    inputs = AutoTokenizer.from_pretrained(out)(TEXTS, padding=True, return_tensors="pt")
    lengths = inputs["attention_mask"].sum(1).tolist()
    with torch.no_grad():
        theirs = logits_of(model(**inputs))
        alone = logits_of(model(**{key: value[:1, : lengths[0]] for key, value in inputs.items()}))[0]
    ours = our_logits(workdir, task, inputs["input_ids"].numpy(), lengths)
    for row, length in enumerate(lengths):
        part = slice(length) if task in PER_TOKEN else ...
        np.testing.assert_allclose(ours[row][part], theirs[row][part], atol=1e-4)
    np.testing.assert_allclose(ours[0][: lengths[0]] if task in PER_TOKEN else ours[0], alone, atol=1e-4)
    assert np.abs(theirs).std() > (1e-3 if task == "similarity" else 0.05)  # one output of similar texts varies less

    again = import_hf(out, tmp_path / "again")  # and back: the same labels, options and logits
    found = our_logits(again, objective, inputs["input_ids"].numpy(), lengths)
    np.testing.assert_array_equal(found, ours)
    second = export_hf(
        again, tmp_path / "second", family=family, task=objective, language="de" if family == "xmod" else ""
    )
    assert parity.tensors_of(second) == parity.tensors_of(out)


@pytest.mark.parametrize("family", FAMILIES)
def test_pipelines_say_what_our_verbs_say(family, tmp_path, capsys):
    (_, sequence), *_, (_, tokens) = forms(family)
    topic = workdir_with(tmp_path / "topic", family, "topic", sequence)
    out = export_hf(topic, tmp_path / "out", family=family, task="topic", language="de")
    theirs = pipeline("text-classification", str(out), device="cpu")(TEXTS)
    ours = mlm_jax.load_classifier(topic).classify(TEXTS, language="de")
    assert [one.label for one in ours] == [one["label"] for one in theirs]
    np.testing.assert_allclose([one.probability for one in ours], [one["score"] for one in theirs], atol=1e-4)
    pair = pipeline("text-classification", str(out), device="cpu")({"text": TEXTS[0], "text_pair": TEXTS[1]})
    (one,) = mlm_jax.load_classifier(topic).classify([(TEXTS[0], TEXTS[1])], language="de")
    assert (one.label, pair["label"]) == (pair["label"], one.label) and abs(one.probability - pair["score"]) < 1e-4

    skewed = workdir_with(tmp_path / "skewed", family, "topics", sequence)
    inputs = AutoTokenizer.from_pretrained(out)(TEXTS, padding=True, return_tensors="np")
    topics = with_two_texts_a_class(skewed, tmp_path / "topics", inputs["input_ids"], inputs["attention_mask"].sum(1))
    out = export_hf(topics, tmp_path / "out_topics", family=family, task="topics", language="de")
    theirs = pipeline("text-classification", str(out), device="cpu", top_k=None)(TEXTS)
    above = [{one["label"]: one["score"] for one in found if one["score"] > 0.5} for found in theirs]
    ours = mlm_jax.load_classifier(topics).classes(TEXTS, language="de")
    assert [{one.label for one in found} for found in ours] == [{*found} for found in above]
    # A class that had all texts or none would not show whose probabilities are above a half.
    assert all(sum(name in found for found in above) == 2 for name in TASKS["topics"][1])
    for found, wanted in zip(ours, above):
        np.testing.assert_allclose([one.probability for one in found], [wanted[one.label] for one in found], atol=1e-4)
    similar = workdir_with(tmp_path / "similar", family, "similarity", sequence)
    out = export_hf(similar, tmp_path / "out_similar", family=family, task="similarity", language="de")
    pair = pipeline("text-classification", str(out), device="cpu")({"text": TEXTS[0], "text_pair": TEXTS[1]})
    (number,) = mlm_jax.load_classifier(similar).scores([(TEXTS[0], TEXTS[1])], language="de")
    np.testing.assert_allclose(number, pair["score"], atol=1e-4)

    tags = workdir_with(tmp_path / "tags", family, "tags", tokens)
    assert (
        cli.main(
            [
                "export-hf",
                str(tags),
                "--out",
                str(tmp_path / "ner"),
                "--family",
                family,
                "--task",
                "tags",
                "--language",
                "de",
            ]
        )
        == 0
    )
    text = "Und Gott sprach zu Mose"
    found = pipeline("ner", str(tmp_path / "ner"), device="cpu", ignore_labels=[])(text)
    by_start = {piece["start"]: piece for piece in found}
    (tagged,) = mlm_jax.load_classifier(tags).tag([text.split()], language="de")
    starts = [text.index(word) for word in text.split()]
    # A tokenizer with the space in its first piece begins a word at the space.
    firsts = [by_start.get(start) or by_start[start - 1] for start in starts]
    assert [one.label for one in tagged] == [piece["entity"] for piece in firsts]
    np.testing.assert_allclose([one.probability for one in tagged], [piece["score"] for piece in firsts], atol=1e-4)


@pytest.mark.parametrize("kind", ["xlm-roberta", "bert", "modernbert"])
def test_fill_mask_and_the_pipeline(kind, tmp_path):
    published(tmp_path / "theirs", kind)
    ours = import_hf(tmp_path / "theirs", tmp_path / "ours")
    out = export_hf(ours, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(out)
    filled = pipeline("fill-mask", str(out), device="cpu", top_k=40)(f"Im Anfang war das {tokenizer.mask_token}.")
    used = mlm_jax.load(ours)
    wanted = [one for one in filled if not used.vocabulary.is_special[one["token"]]][:5]
    (candidates,) = used.fill_mask("Im Anfang war das <mask>.", top_k=5)
    assert [one.id for one in candidates] == [one["token"] for one in wanted]


HEADED = {  # {kind: (class, settings)} of transformers
    "xlm-roberta": ("XLMRoberta", {}),
    "bert": ("Bert", {}),
    "modernbert": ("ModernBert", {"classifier_pooling": "mean"}),
}


@pytest.mark.parametrize("suffix", ["ForSequenceClassification", "ForTokenClassification"])
@pytest.mark.parametrize("kind", HEADED)
def test_a_published_classifier_is_used_as_ours(kind, suffix, tmp_path, capsys):
    """A whole folder of transformers: labels, pipeline's answers, and the same bytes out again."""
    name, settings = HEADED[kind]
    plain = published(tmp_path / "theirs", kind, **settings)
    config = type(plain.config)(
        **{
            **plain.config.to_dict(),
            "id2label": {0: "nein", 1: "ja", 2: "vielleicht"},
            "label2id": {"nein": 0, "ja": 1, "vielleicht": 2},
        }
    )
    model = parity.random_model(getattr(transformers, name + suffix), config)
    model.save_pretrained(tmp_path / "theirs")
    ours = import_hf(tmp_path / "theirs", tmp_path / "ours")
    task = {"ForSequenceClassification": "text-classification", "ForTokenClassification": "ner"}[suffix]
    options = {} if task == "text-classification" else {"ignore_labels": []}
    theirs = pipeline(task, str(tmp_path / "theirs"), device="cpu", **options)
    used = mlm_jax.load_classifier(ours)
    assert used.labels == ("nein", "ja", "vielleicht")
    if task == "ner":
        words = ["Im", "Anfang", "war", "das", "Wort"]
        found = {piece["start"]: piece for piece in theirs(" ".join(words))}
        starts = [" ".join(words[:n]) for n in range(len(words))]
        at = [len(start) + bool(start) for start in starts]
        firsts = [found.get(start) or found[start - 1] for start in at]
        assert [one.label for one in used.tag([words])[0]] == [piece["entity"] for piece in firsts]
    else:
        assert [one.label for one in used.classify(TEXTS)] == [one["label"] for one in theirs(TEXTS)]
        first = (TEXTS[0], TEXTS[1])
        pair = theirs({"text": first[0], "text_pair": first[1]})
        assert abs(used.classify([first])[0].probability - pair["score"]) < 1e-4
    out = export_hf(ours, tmp_path / "out", task=used.task)
    assert parity.tensors_of(out) == parity.tensors_of(tmp_path / "theirs")


@pytest.mark.parametrize("kind", HEADED)
def test_a_published_head_of_questions_answers_as_transformers_does(kind, tmp_path):
    """BERT reads the text with another token type than the question, and so does our model."""
    plain = published(tmp_path / "theirs", kind)
    model = parity.random_model(getattr(transformers, f"{HEADED[kind][0]}ForQuestionAnswering"), plain.config)
    model.save_pretrained(tmp_path / "theirs")
    question, text = "Wer schuf die Himmel?", "Im Anfang schuf Gott die Himmel und die Erde."
    ours = import_hf(tmp_path / "theirs", tmp_path / "ours")
    out = export_hf(ours, tmp_path / "out", task="question_answering")
    assert parity.tensors_of(out) == parity.tensors_of(tmp_path / "theirs")
    (answer,) = mlm_jax.load_classifier(ours).answers([(question, text)])
    for folder in (tmp_path / "theirs", out):
        inputs = AutoTokenizer.from_pretrained(folder)(
            question, text, return_tensors="pt", return_offsets_mapping=True, return_token_type_ids=kind == "bert"
        )
        (spans,) = inputs.pop("offset_mapping").tolist()
        with torch.no_grad():
            found = their_class(folder).from_pretrained(folder).eval()(**inputs)
        starts, ends = (torch.softmax(part[0], 0).numpy() for part in (found.start_logits, found.end_logits))
        own = [place for place, number in enumerate(inputs.sequence_ids()) if number == 1]
        score, start, end = max((starts[a] * ends[b], a, b) for a in own for b in own if a <= b)
        assert (answer.start, answer.end) == (spans[start][0], spans[end][1])
        np.testing.assert_allclose(answer.probability, score, rtol=1e-3)


def test_what_a_family_cannot_express_is_refused_by_name(tmp_path):
    plain = workdir_with(tmp_path / "plain", "xlm-roberta", "topic", {})
    ways = "tasks.topic.transform is 'none', not 'tanh'; tasks.topic.pooling is 'mean', not 'first'"
    with pytest.raises(UserError, match=f"'topic' cannot be expressed as XLMRobertaForSequenceClassification: {ways}"):
        export_hf(plain, tmp_path / "out", family="xlm-roberta", task="topic", language="de")
    with pytest.raises(UserError, match="has no classifier 'topics'; did you mean 'topic'"):
        export_hf(plain, tmp_path / "out", task="topics", language="de")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problem_type": "regression"}, 'problem_type is "regression" of 3 outputs'),
        ({"problem_type": "ranking"}, 'problem_type is "ranking"'),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "id2label names"),
        ({"id2label": ["a"]}, "id2label is"),
        ({"architectures": ["BertForMultipleChoice"]}, "architectures names BertForMultipleChoice, whose head"),
        ({"architectures": ["BertForQuestionAnswering"]}, "tensor 'qa_outputs.weight' is missing"),
    ],
)
def test_heads_that_are_not_ours(change, message, tmp_path):
    plain = published(tmp_path / "theirs", "bert")
    plain.config.num_labels = 3
    parity.random_model(transformers.BertForSequenceClassification, plain.config).save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        import_hf(tmp_path / "theirs", tmp_path / "ours")
