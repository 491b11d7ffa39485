import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax import cli
from mlm_jax import model as model_room
from mlm_jax.checkpoints.saving import Checkpoints
from mlm_jax.data.loading.batch import Rows
from mlm_jax.inference.aligner import load_aligner
from tests.evaluation.runs import LANGUAGES, make_config, make_store, sentence


def save(folder, **model):
    vocabulary = make_store(folder / "store").vocabulary
    config = make_config(max_positions=64, global_every=1, **model)
    rows = {"rows": 8, "length": 24}
    config.tasks = {"aligned": {"objective": "cross_attention_mlm" if model else "mlm", **rows}}
    _, shapes, _ = model_room.abstract(config, vocabulary_size=vocabulary.size, languages=LANGUAGES)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32), shapes)
    checkpoints = Checkpoints(folder / "run", config, vocabulary, LANGUAGES, {})
    checkpoints.save(3, {"params": params})
    checkpoints.wait()
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save(tmp_path_factory.mktemp("align"), cross_lingual={"score": "dot", "fuse": "residual"})


def test_weights_are_the_layers_summed_by_word(run):
    model = load_aligner(run)
    sources, targets = [sentence("en", 1), sentence("en", 2)], [sentence("ru", 1), sentence("ru", 2)]
    found = model.align(sources, targets, source_language="en", target_language="ru")
    for alignment, source, target in zip(found, sources, targets):
        assert alignment.source == tuple(source.split()) and alignment.target == tuple(target.split())
        assert alignment.weights.shape == (len(target.split()), len(source.split()))
        # The remaining weight is on the language token and the end.
        assert (alignment.weights.sum(axis=1) <= 1 + 1e-5).all()
    documents = [
        model._documents([model.vocabulary.encode(text)], code)[0][0]
        for text, code in ((targets[0], "ru"), (sources[0], "en"))
    ]
    rows = [
        Rows(ids[None], np.ones_like(ids)[None], np.arange(len(ids))[None], np.array([index]))
        for ids, index in zip(documents, (1, 0))
    ]
    weights = model_room.merge(model.graphdef, model.params).encode_with_source(*rows)[1][0]  # [pieces, pieces]
    starts = model.vocabulary.word_starts
    first = np.flatnonzero(starts[documents[0]])[1:3]  # the first word's pieces follow the language token
    second = np.flatnonzero(starts[documents[1]])[1:3]
    expected = weights[first[0] : first[1], second[0] : second[1]].sum(axis=1).mean()
    np.testing.assert_allclose(found[0].weights[0, 0], expected, rtol=1e-4)


def test_links_of_lines_with_error_rate_and_drawing(run, tmp_path, capsys):
    files = [tmp_path / "en.txt", tmp_path / "ru.txt", tmp_path / "gold.txt", tmp_path / "out.svg"]
    files[0].write_text(f"{sentence('en', 1)}\n\n{sentence('en', 2)}\n")
    files[1].write_text(f"{sentence('ru', 1)}\n\n{sentence('ru', 2)}\n")
    files[2].write_text("0-0 1p2\n\n0-0\n")
    arguments = ["align", str(run), str(files[0]), str(files[1]), "--languages", "en-ru"]
    assert cli.main([*arguments, "--gold", str(files[2]), "--draw", str(files[3])]) == 0
    out, err = capsys.readouterr()
    lines = out.split("\n")
    assert len(lines) == 4 and not lines[1] and len(lines[0].split()) == len(sentence("ru", 1).split())
    assert "alignment error rate" in err and files[3].read_text().startswith("<svg")
    assert cli.main(arguments[:-2]) == 2
    assert "Remedy: give --languages SOURCE-TARGET, of en, ru, hi" in capsys.readouterr().err
    files[1].write_text(f"{sentence('ru', 1)}\n")
    assert cli.main(arguments) == 2
    assert "ru.txt: the file ends before line 2" in capsys.readouterr().err
    files[2].write_text("0-0\n0:1\n")
    files[1].write_text(f"{sentence('ru', 1)}\n\n{sentence('ru', 2)}\n")
    assert cli.main([*arguments, "--gold", str(files[2])]) == 2
    assert "gold.txt:2: '0:1' is not a link" in capsys.readouterr().err


@pytest.mark.parametrize("gold, problem", [("", "before line 1,"), ("0-0\n", "before line 2,"), ("0-0\n" * 3, None)])
def test_gold_links_of_another_length_are_found_before_anything_is_aligned(run, tmp_path, capsys, gold, problem):
    files = [tmp_path / "en.txt", tmp_path / "ru.txt", tmp_path / "gold.txt"]
    for file, text in zip(files, (sentence("en", 1) + "\nb\n", sentence("ru", 1) + "\nб\n", gold)):
        file.write_text(text)
    assert cli.main(["align", str(run), *map(str, files[:2]), "--languages", "en-ru", "--gold", str(files[2])]) == 2
    out, err = capsys.readouterr()
    assert (
        not out and (f"gold.txt: the file ends {problem}" if problem else "en.txt: the file ends before line 3,") in err
    )


def test_a_gold_link_of_words_that_are_not_there_is_named_and_empty_sides_are_counted(run, tmp_path, capsys):
    files = [tmp_path / "en.txt", tmp_path / "ru.txt", tmp_path / "gold.txt"]
    lines = f"{sentence('en', 1)}\n\n", f"{sentence('ru', 1)}\nи\n"
    words = len(sentence("en", 1).split()), len(sentence("ru", 1).split())
    for file, text in zip(files, (*lines, f"0-0 {words[0] - 1}p{words[1] - 1}\n\n")):
        file.write_text(text)
    arguments = ["align", str(run), *map(str, files[:2]), "--languages", "en-ru", "--gold", str(files[2])]
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 2 and err.startswith("1 pairs have a side without words, and no links\n")
    for link in (f"{words[0]}-0", f"0p{words[1]}"):
        files[2].write_text(f"0-0 {link}\n\n")
        assert cli.main(arguments) == 2
        out, err = capsys.readouterr()
        assert (
            not out
            and f"gold.txt:1: the link {link.replace('p', '-')} names a word that does not exist: the texts" in err
        )


def test_cuts_are_counted_to_the_end(run, tmp_path, capsys):
    for name in ("en", "ru"):
        (tmp_path / name).write_text("".join(f"{sentence(name, 1)} " * 9 + "\n" for _ in range(3)) + "a\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cli.main(["align", str(run), str(tmp_path / "en"), str(tmp_path / "ru"), "--languages", "en-ru"]) == 0
    assert capsys.readouterr().err == "6 texts are longer than 64 tokens and were cut\n"


def test_a_model_without_the_layer_says_so(tmp_path, capsys):
    run = save(tmp_path)
    assert cli.main(["align", str(run), "a", "b"]) == 2
    assert "no cross-lingual attention to align words by" in capsys.readouterr().err
