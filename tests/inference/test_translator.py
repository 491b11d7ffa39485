import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax import model as model_room
from mlm_jax.checkpoints.checkpoint import Loaded
from mlm_jax.common.errors import UserError
from mlm_jax.data.loading.batch import Rows
from mlm_jax.inference.translator import Search, Translator, written_languages
from tests.evaluation.runs import LANGUAGES, make_config, make_store, sentence

OWN = {"layers": 1, "weights": "target_language"}
SHARED = {"layers": 1, "weights": "shared"}
MODELS = {
    "a decoder for each language": {"decoder": (OWN,), "global_every": 1},
    "a shared decoder with relative positions": {
        "decoder": (SHARED | {"adapter": 4, "adapter_weights": "target_language"},),
        "position": "relative",
        "norm": "rms",
        "attention_scale": False,
        "tied_embeddings": False,
    },
    "encoders for each language, learned positions": {
        "encoder": ({"layers": 1, "weights": "source_language"},),
        "decoder": (SHARED,),
        "position": "learned",
    },
    "a decoder fused with what cross-lingual attention finds": {
        "decoder": (OWN,),
        "cross_lingual": {"score": "additive", "fuse": "gate"},
    },
}
TEXTS = [sentence("en", 0), sentence("en", 1) + " " + sentence("en", 2), "", sentence("en", 3)]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("translate") / "store").vocabulary


def translator(vocabulary, **model):
    """A model whose weights are drawn so wide that its texts differ."""
    config = make_config(max_positions=64)
    config.model.update(model)
    config.tasks = {"translation": {"objective": "translation", "rows": 8, "length": 24}}
    _, shapes, _ = model_room.abstract(config, vocabulary_size=vocabulary.size, languages=LANGUAGES)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32), shapes)
    return Translator(Loaded(0, config, vocabulary, LANGUAGES, {}, params))


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_the_decoder_without_a_cache(vocabulary, name):
    ours = translator(vocabulary, **MODELS[name])
    search = Search(beams=3, count=2, length_penalty=0.6, length=7)
    targets = ["ru", "hi", "ru", "en"]
    found = ours.translate(TEXTS, target_language=targets, source_language="en", search=search)
    model = model_room.merge(ours.graphdef, ours.params)

    @jax.jit
    def log_probabilities(source, target):
        memory = model.encode(source, target_language=target.language)
        hidden = model.decode(target, memory, source.segment_ids, source_language=source.language)
        logits = jnp.where(jnp.asarray(ours._forbidden), -jnp.inf, model.logits(model.decoder_head(hidden)))
        return jax.nn.log_softmax(logits)

    def rows(tokens, language):
        tokens = np.array([tokens], np.int32)
        index = np.array([LANGUAGES.index(language)], np.int32)
        return Rows(tokens, np.ones_like(tokens), np.arange(tokens.size, dtype=np.int32)[None], index)

    prefix, eos = vocabulary.language_ids, vocabulary.eos_id
    for text, language, translation in zip(TEXTS, targets, found):
        assert len(translation.hypotheses) == (2 if text else 0)
        source = rows([prefix["en"], *vocabulary.encode(text), eos], "en")
        for hypothesis in translation.hypotheses:
            written = hypothesis.ids
            steps = log_probabilities(source, rows([prefix[language], *written[:-1]], language))[0]
            total = sum(float(steps[place, token]) for place, token in enumerate(written))
            np.testing.assert_allclose(hypothesis.score, total / len(written) ** 0.6, rtol=1e-5)
            assert hypothesis.ended == (written[-1] == eos)
            assert hypothesis.text == vocabulary.decode(written)


@pytest.mark.parametrize("search", [Search(beams=1, length=6), Search(temperature=1.0, top_k=9, count=2, length=6)])
def test_a_stream_gives_what_each_text_gives_alone(vocabulary, search):
    ours = translator(vocabulary, **MODELS["a decoder for each language"])
    streamed = list(ours.stream(iter(TEXTS), target_language="ru", source_language="en", search=search))
    assert [text for text, _ in streamed] == TEXTS
    for number, (text, translation) in enumerate(streamed):
        padded = [""] * number + [text]  # at the same position of the stream, on which draws depend
        alone = ours.translate(padded, target_language="ru", source_language="en", search=search)[-1]
        assert [h.ids for h in alone.hypotheses] == [h.ids for h in translation.hypotheses]
        assert len(translation.hypotheses) == (search.count if text else 0)
    if search.temperature:
        drawn = [{h.ids for h in translation.hypotheses} for _, translation in streamed]
        assert max(map(len, drawn)) == 2  # two different draws


def test_several_languages_and_pieces_that_end_a_text(vocabulary):
    ours = translator(vocabulary, **MODELS["a shared decoder with relative positions"])
    options = dict(source_language="en", search=Search(beams=1, length=6))
    counts = Counter()
    streamed = list(ours.stream(iter(TEXTS[:3]), target_language=("ru", "hi"), counts=counts, **options))
    assert [text for text, _ in streamed] == [text for text in TEXTS[:3] for _ in range(2)]
    for place, language in enumerate(("ru", "hi")):
        alone = ours.translate(TEXTS[:3], target_language=language, **options)
        assert [found for _, found in streamed[place::2]] == alone
    (whole,) = streamed[0][1].hypotheses
    assert not whole.ended  # so that the piece ends it below
    stop = vocabulary.pieces(whole.ids[2:3])[0].removeprefix("▁")
    (stopped,) = ours.translate(
        TEXTS[:1], target_language="ru", source_language="en", search=Search(beams=1, length=6, stop=(stop,))
    )
    assert stopped.hypotheses[0].ended and stopped.hypotheses[0].ids == whole.ids[:3]


def test_a_model_to_which_languages_make_no_difference_writes_one_column(vocabulary):
    """A translator whose texts begin without a language token, like an imported T5."""
    ours = translator(vocabulary, encoder=(SHARED,), decoder=(SHARED,), language_embedding=False)
    options = dict(source_language="en", search=Search(beams=1, length=3))
    assert ours.tells_targets_apart and len(list(ours.stream(TEXTS[:1], target_language=("ru", "hi"), **options))) == 2
    ours.config.data.prefix = "none"
    assert not ours.tells_targets_apart
    assert ours.translate(TEXTS[:1], target_language="hi", **options)
    with pytest.raises(UserError, match="would write the same into ru, hi: .* Remedy: name one language"):
        list(ours.stream(TEXTS[:1], target_language=("ru", "hi"), **options))


def test_greedy_is_one_beam_and_scores_alike(vocabulary):
    ours = translator(vocabulary, **MODELS["a shared decoder with relative positions"])
    options = dict(target_language="hi", source_language="en")
    (greedy,) = ours.translate(TEXTS[:1], search=Search(beams=1, length=5), **options)
    (drawn,) = ours.translate(TEXTS[:1], search=Search(temperature=1.0, top_k=1, length=5), **options)
    assert drawn.hypotheses[0].ids == greedy.hypotheses[0].ids
    np.testing.assert_allclose(drawn.hypotheses[0].score, greedy.hypotheses[0].score, rtol=1e-5)


def test_cuts_of_a_stream_are_counted_to_its_end(vocabulary, monkeypatch):
    monkeypatch.setattr("mlm_jax.inference.translator.WINDOW", 2)
    ours = translator(vocabulary, **MODELS["a decoder for each language"])
    long = " ".join(TEXTS * 3)
    options = dict(target_language="ru", source_language="en", search=Search(beams=1, length=2))
    with pytest.warns(UserWarning, match="^3 texts are longer than 64 tokens") as warned:
        assert len(list(ours.stream([long, "a", "b", long, long], **options))) == 5
    assert len(warned) == 1 and warned[0].filename == __file__
    counts = Counter()
    assert list(ours.stream([long], counts=counts, **options)) and counts == {"too long and cut": 1}


def test_each_language_is_written_by_the_weights_of_a_task_that_learned_to(vocabulary):
    """A translator with a decoder for each of two translation tasks and a denoising task."""
    write = {"objective": "translation", "directions": "forward", "rows": 8, "length": 24}
    ours = translator(vocabulary, decoder=(OWN | {"weights": "task"},))
    tasks = {
        "denoise": write | {"objective": "denoising"},
        "to_ru": write | {"data": "en-ru"},
        "to_hi": write | {"data": "en-hi"},
    }
    ours.config.tasks, ours.config.data.parallel = tasks, {"en-ru": "", "en-hi": ""}
    ours.config.data.corpora = {"en": "", "ru": ""}
    _, shapes, _ = model_room.abstract(ours.config, vocabulary_size=vocabulary.size, languages=LANGUAGES)
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32), shapes)
    loaded = Loaded(0, ours.config, vocabulary, LANGUAGES, {}, params)
    options = dict(target_language=("ru", "hi", "en"), source_language="en", search=Search(beams=1, length=5))
    found = [one for _, one in Translator(loaded).stream(TEXTS[:1], **options)]
    for one, language, task in zip(found, ("ru", "hi", "en"), ("to_ru", "to_hi", "denoise")):
        options["target_language"] = language
        by = {name: Translator(loaded, task=name).translate(TEXTS[:1], **options)[0] for name in tasks}
        assert one == by[task] and len({translation.hypotheses[0].ids for translation in by.values()}) == 3


@pytest.mark.parametrize(
    "task, data, written",
    [
        ({}, {"parallel": {"en-ru": ""}}, ("en", "ru")),
        ({"directions": "forward"}, {"parallel": {"en-ru": ""}, "corpora": {"hi": ""}}, ("ru",)),
        ({"data": "hi-en"}, {"parallel": {"en-ru": ""}}, ("en", "hi")),
        ({"objective": "denoising"}, {"parallel": {"en-ru": ""}, "corpora": {"hi": ""}}, ("hi",)),
        ({"directions": "forward"}, {"mixture_languages": {"opus": "en-hi", "wiki": "en"}}, ("hi",)),
        ({}, {}, ()),
    ],
)
def test_which_languages_a_run_has_learned_to_write(vocabulary, task, data, written):
    config = make_config()
    config.data.update(data)
    config.tasks = {"mlm": {"objective": "mlm"}, "write": {"objective": "translation", **task}}
    assert written_languages(config, LANGUAGES) == {code: ["write"] for code in written}


def test_a_decoder_that_was_never_trained_does_not_translate(vocabulary):
    ours = translator(vocabulary, **MODELS["a decoder for each language"])
    ours.config.data.parallel = {"en-ru": ""}
    ours = Translator(Loaded(0, ours.config, vocabulary, LANGUAGES, {}, ours.params))
    options = dict(source_language="en", search=Search(beams=1, length=2))
    assert ours.translate(TEXTS[:1], target_language="ru", **options)
    with pytest.raises(UserError, match="to write 'hi'. Remedy: translate into en, ru, or train on pairs with hi"):
        ours.translate(TEXTS[:1], target_language="hi", **options)
    ours.config.checkpoint.init = {"from": "another run"}
    assert ours.translate(TEXTS[:1], target_language="hi", **options)


def test_bad_input(vocabulary):
    ours = translator(vocabulary, **MODELS["a decoder for each language"])
    with pytest.raises(UserError, match="does not know the language 'rus'; did you mean 'ru'"):
        ours.translate(["a"], target_language="rus", source_language="en")
    with pytest.raises(UserError, match="the language of the text is required"):
        ours.translate(["a"], target_language="ru")
    with pytest.raises(UserError, match="2 target languages were given for 1 texts"):
        ours.translate(["a"], target_language=["ru", "hi"], source_language="en")
    with pytest.warns(UserWarning, match="1 texts are longer than 64 tokens"):
        ours.translate(
            [sentence("en", 1) + " " + TEXTS[1] * 4],
            target_language="ru",
            source_language="en",
            search=Search(beams=1, length=2),
        )
    with pytest.raises(UserError, match="no decoder, and cannot translate"):
        translator(vocabulary)
    for wrong in (
        {"beams": 0},
        {"top_p": 0.0},
        {"count": 5, "beams": 4},
        {"temperature": math.nan},
        {"length_penalty": math.nan},
        {"top_k": 5},
        {"top_p": 0.5},
    ):
        with pytest.raises(UserError):
            Search(**wrong)
    with pytest.raises(TypeError, match="put a single one into a list"):
        ours.translate("abc", target_language="ru", source_language="en")
    with pytest.raises(UserError, match="'zzzzz' is not a piece of the vocabulary"):
        ours.translate(["a"], target_language="ru", source_language="en", search=Search(stop=("zzzzz",)))
