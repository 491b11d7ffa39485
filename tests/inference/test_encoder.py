import json
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest

import mlm_jax
from mlm_jax.checkpoints.saving import Checkpoints
from mlm_jax.cli import main
from mlm_jax.commands.embed import embed_command
from mlm_jax.commands.fill_mask import fill_mask_command
from mlm_jax.common.errors import UserError
from mlm_jax.data.loading.batch import Rows
from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.inference.encoder import Model, encode_masked
from tests.evaluation import runs

LONG = " ".join(runs.words("en")) + " end"  # longer than the model takes


def save_run(folder, prefix="language", weights="shared"):
    store = runs.make_store(folder / "store", prefix=prefix)
    config = runs.make_config()
    config.model.encoder = ({"layers": 1, "weights": weights},)
    config.data.prefix = prefix
    _, program = runs.make_program(store, config)
    checkpoints = Checkpoints(folder, config, store.vocabulary, runs.LANGUAGES, {"entities": runs.TAGS})
    state = program.initialise()
    checkpoints.save(7, state)
    checkpoints.wait()
    return program, jax.device_get(state.params)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("use") / "run"
    return (folder, *save_run(folder))


@pytest.fixture(scope="module")
def model(run):
    return mlm_jax.load(run[0])


@pytest.fixture(scope="module")
def free_model(tmp_path_factory):
    """A model without language-specific parts."""
    folder = tmp_path_factory.mktemp("use") / "free"
    save_run(folder, prefix="none")
    return mlm_jax.load(folder)


def one_row(model, ids, language):
    ids = np.array(ids, np.int32)[None]
    return Rows(ids, np.ones_like(ids), np.arange(ids.shape[1], dtype=np.int32)[None], np.array([language], np.int32))


def test_importing_the_package_imports_nothing_heavy():
    code = "import mlm_jax, sys; assert mlm_jax.__version__; assert not {'jax', 'flax', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        mlm_jax.lod  # noqa: B018
    assert all(callable(getattr(mlm_jax, name)) for name in mlm_jax.__all__ if name.startswith("load"))


def test_embeddings_are_the_models_whatever_their_batch(run, model):
    _, program, params = run
    texts = [runs.sentence("ru", seed) for seed in range(20)] + ["", runs.words("ru")[0]]
    embedded = model.embed(texts, language="ru")
    assert embedded.shape == (22, 32)
    assert embedded.dtype == np.float32
    trained = program.model(params)
    vocabulary = model.vocabulary
    for index in (0, 20):
        document = [vocabulary.language_ids["ru"], *vocabulary.encode(texts[index]), vocabulary.eos_id]
        expected = trained.sentence_embeddings(one_row(model, document, runs.LANGUAGES.index("ru")))[0]
        np.testing.assert_allclose(embedded[index], expected, atol=1e-5)


def test_each_text_may_have_its_own_language(model):
    texts = [runs.sentence("en", 3), runs.sentence("hi", 3)]
    together = model.embed(texts, language=["en", "hi"])
    np.testing.assert_allclose(together[1], model.embed(texts[1:], language="hi")[0], atol=1e-5)
    assert np.abs(together[1] - model.embed(texts[1:], language="en")[0]).max() > 1e-4


def test_no_text_gives_no_rows(model):
    assert model.embed([], language="en").shape == (0, 32)
    with pytest.raises(TypeError, match="put a single one into a list"):
        model.embed("one text", language="en")


def test_a_text_longer_than_the_model_is_cut_with_a_warning(model):
    with pytest.warns(UserWarning, match="1 texts are longer than 32 tokens"):
        embedded = model.embed([LONG, "a"], language="en")
    assert np.isfinite(embedded).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.embed(["a"], language="en")


def test_cuts_of_a_stream_are_counted_to_its_end(run, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mlm_jax.inference.encoder.WINDOW", 2)
    lines = [LONG, "a", "b", LONG, LONG]
    with pytest.warns(UserWarning, match="^3 texts are longer than 32 tokens") as warned:
        assert len(list(model.embed_stream(lines, language="en"))) == 3
    assert len(warned) == 1 and warned[0].filename == __file__
    (tmp_path / "in.txt").write_text("\n".join(lines))
    arguments = ["embed", str(run[0]), "--language", "en", "--input", str(tmp_path / "in.txt")]
    assert main([*arguments, "--output", str(tmp_path / "out.npy")]) == 0
    assert capsys.readouterr().err == "3 texts are longer than 32 tokens and were cut\n"


def test_blanks_get_the_pieces_that_the_model_gives_most(run, model):
    _, program, params = run
    before, after = runs.words("en")[1], runs.words("en")[2]
    (candidates,) = model.fill_mask(f"{before} <mask> {after}", top_k=3, language="en")
    vocabulary = model.vocabulary
    start = [vocabulary.language_ids["en"], *vocabulary.encode(before)]
    document = [*start, vocabulary.mask_id, *vocabulary.encode(after), vocabulary.eos_id]
    trained = program.model(params)
    table, bias = trained.output_table()
    hidden = trained.masked_head(trained.encode(one_row(model, document, 0)))[0, len(start)]
    logits = np.array(table @ hidden + bias)
    logits[vocabulary.special_ids] = -np.inf
    best = np.argsort(-logits)[:3]
    assert [candidate.id for candidate in candidates] == best.tolist()
    np.testing.assert_allclose(
        [candidate.probability for candidate in candidates], np.exp(logits[best]) / np.exp(logits).sum(), rtol=1e-4
    )


def test_a_candidate_shows_the_text_with_its_blank_filled_in(model):
    first, second = runs.words("en")[1], runs.words("en")[2]
    one, two = model.fill_mask(f"{first} <mask> {second} <mask>", top_k=2, language="en")
    assert len(one) == len(two) == 2
    assert one[0].text.startswith(first)
    assert one[0].text.endswith(f"{second} <mask>")
    assert two[0].text.startswith(f"{first} <mask> {second}")
    assert not two[0].text.endswith("<mask>")


def test_a_stream_of_texts_keeps_its_order(model):
    texts = [f"{runs.sentence('en', seed)} <mask>" for seed in range(12)]
    streamed = list(model.fill_masks(iter(texts), top_k=2, language="en"))
    for index in (0, 5, 11):
        alone = model.fill_mask(texts[index], top_k=2, language="en")
        assert [c.id for c in streamed[index][0]] == [c.id for c in alone[0]]


def test_a_mask_takes_the_space_before_it_and_continues_what_follows(model):
    vocabulary = model.vocabulary
    word = runs.words("en")[1]
    assert encode_masked(vocabulary, f"{word} <mask> {word}") == [
        *vocabulary.encode(word),
        vocabulary.mask_id,
        *vocabulary.encode(word),
    ]
    assert vocabulary.pieces(encode_masked(vocabulary, f"{word} <mask>."))[-2:] == ["<mask>", "<0x2E>"]


def test_bytes_keep_their_spaces_around_a_mask():
    vocabulary = Vocabulary.bytes(("en",), 2)
    ids = encode_masked(vocabulary, "ab <mask>c")
    assert ids == [*vocabulary.encode("ab "), vocabulary.mask_id, *vocabulary.encode("c")]


def test_weights_of_each_task_do_what_they_were_trained_for(tmp_path):
    save_run(tmp_path / "run", weights="task")
    model = mlm_jax.load(tmp_path / "run")
    embedded, filled = model.embed(["bag"], language="en"), model.fill_mask("a <mask>", language="en")
    number = list(model.config.tasks).index("ranking")
    model.params["encoder"] = jax.tree.map(lambda leaf: leaf.at[:, number].multiply(2), model.params["encoder"])
    assert (model.embed(["bag"], language="en") != embedded).any()
    assert model.fill_mask("a <mask>", language="en") == filled


def test_a_language_is_asked_for_only_where_it_matters(model, free_model):
    assert model.needs_language
    with pytest.raises(UserError, match="the language of the text is required.*: one of en, ru, hi"):
        model.embed(["a"])
    assert not free_model.needs_language
    np.testing.assert_array_equal(free_model.embed(["a b"]), free_model.embed(["a b"], language="hi"))
    with pytest.raises(UserError, match="does not know the language 'hin'; did you mean 'hi'"):
        free_model.embed(["a"], language="hin")
    with pytest.raises(UserError, match="2 languages were given for 1 texts"):
        model.embed(["a"], language=["en", "hi"])


@pytest.mark.parametrize(
    ("text", "problem"), [("no blank", "text 2 has no <mask>"), ("a <mask> " * 30, "text 2 has .* the model takes 32")]
)
def test_texts_that_cannot_be_filled_in_are_named(model, text, problem):
    with pytest.raises(UserError, match=problem):
        list(model.fill_masks(["fine <mask>", text], language="en"))


def test_zero_candidates_are_refused(model):
    with pytest.raises(UserError, match="no 0 candidates.*--top"):
        model.fill_mask("a <mask>", top_k=0, language="en")


def test_compiled_shapes_are_few(run):
    model = mlm_jax.load(run[0])
    rng = np.random.default_rng(0)
    for count in (1, 3, 17, 50):
        model.embed([runs.sentence("en", int(rng.integers(1000))) for _ in range(count)], language="en")
    assert model._embed.programs <= 4  # two widths, two numbers of rows


def test_embed_writes_an_array_of_every_line(run, model, tmp_path, monkeypatch):
    lines = [runs.sentence("hi", seed) for seed in range(11)]
    (tmp_path / "in.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.setattr("mlm_jax.inference.encoder.WINDOW", 4)
    embed_command(run[0], str(tmp_path / "in.txt"), str(tmp_path / "out.npy"), language="hi")
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), model.embed(lines, language="hi"), atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.npy"]


def test_embed_writes_json_lines(run, model, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("а б\n\nв\n", encoding="utf-8")
    embed_command(run[0], str(tmp_path / "in.txt"), str(tmp_path / "out.jsonl"), language="ru")
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["text"] for line in written] == ["а б", "", "в"]
    assert capsys.readouterr().err == "1 lines are empty\n"
    np.testing.assert_allclose(
        [line["embedding"] for line in written], model.embed(["а б", "", "в"], language="ru"), atol=1e-5
    )


@pytest.mark.parametrize(
    ("content", "output", "problem"),
    [
        (None, "out.npy", "in.txt: cannot read"),
        (b"fine\n\xff\xfe\n", "out.npy", "in.txt:2: this is not UTF-8"),
        (b"fine\n", "out.csv", "out.csv: embeddings are written as .npy or .jsonl"),
        (b"fine\n", "missing/out.npy", "out.npy: its folder does not exist"),
        ((), "out.npy", "in.txt/x: cannot read: Not a directory"),
    ],
)
def test_what_cannot_be_read_or_written_leaves_nothing_behind(run, tmp_path, content, output, problem):
    file = tmp_path / "in.txt"
    if content is not None:
        file.write_bytes(content or b"fine\n")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=problem):
        embed_command(run[0], str(file / "x" if content == () else file), str(tmp_path / output), language="en")
    assert sorted(tmp_path.iterdir()) == before


def test_an_argument_that_is_not_utf8_is_named(run, capsys):
    assert main(["fill-mask", str(run[0]), "fine <mask>", "a\udcff <mask>", "--language", "en"]) == 2
    assert "error: an argument is not UTF-8: a\\udcff <mask>. Remedy" in capsys.readouterr().err


def test_fill_mask_prints_candidates_of_every_line(run, capsys):
    fill_mask_command(run[0], ["a <mask> b", "<mask> and <mask>"], top_k=2, language="en")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "a <mask> b"
    assert len(printed) == 1 + 2 + 1 + 2 * (1 + 2)
    assert printed[1].split()[1] == "%"


def test_an_empty_line_of_a_stream_stays_empty(run, monkeypatch, capsys):
    for lines in (["", "a <mask>", "  ", "b <mask>", ""], ["", ""]):
        monkeypatch.setattr("mlm_jax.commands.fill_mask.read_lines", lambda place, lines=lines: iter(lines))
        fill_mask_command(run[0], top_k=1, language="en")
        said = capsys.readouterr()
        assert [line for line in said.out.splitlines() if "%" not in line] == lines
        assert said.out.count("%") == sum("<mask>" in line for line in lines)
        assert f"{sum(not line.strip() for line in lines)} lines are empty" in said.err
    with pytest.raises(UserError, match="text 2 is empty"):
        fill_mask_command(run[0], ["a <mask>", " "], language="en")
    with pytest.raises(UserError, match="there is no text"):
        mlm_jax.load(run[0]).fill_mask("", language="en")


def test_a_place_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match="no checkpoint here"):
        mlm_jax.load(tmp_path)


def test_a_model_trained_elsewhere_uses_the_attention_of_this_machine(run):
    from mlm_jax.checkpoints.checkpoint import load_parameters

    loaded = load_parameters(run[0])
    loaded.config.model.attention = "splash"
    assert Model(loaded).embed(["a"], language="en").shape == (1, 32)
