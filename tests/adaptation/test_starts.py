"""New pieces start as the pieces of their translations: from the command to the rows of a model."""

import json

import numpy as np
import pytest

from mlm_jax import cli
from mlm_jax import model as model_room
from mlm_jax.adaptation.continuing import continued_config
from mlm_jax.adaptation.starts import lexicon, new_pieces
from mlm_jax.checkpoints.checkpoint import load_parameters
from mlm_jax.checkpoints.initialise import check_init
from mlm_jax.checkpoints.starts import read_starts, write_starts
from mlm_jax.checkpoints.transplant import ModelSpec, transplant
from mlm_jax.common.errors import UserError
from mlm_jax.data.vocabulary.folder import load_vocabulary
from mlm_jax.interop.importing import import_hf
from mlm_jax.training.paths import by_path
from tests.interop.published import published

FILES = ["starts.json", "tokenizer.json", "vocabulary.json"]
WORDS = {"kalongo": "Himmel", "mbizabi": "Erde", "tuwanga": "Wasser", "pemberu": "Licht"}


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A vocabulary of German with pieces of words that are made up, and what they mean."""
    folder = tmp_path_factory.mktemp("starts")
    published(folder / "theirs", "xlm-roberta")
    import_hf(folder / "theirs", folder / "model", languages=("de",))
    rng = np.random.default_rng(0)
    order = [rng.permutation([*WORDS])[:3] for _ in range(60)]
    (folder / "new.txt").write_text("\n".join(" ".join(words) for words in order))
    pairs = "".join(f"{' '.join(WORDS[word] for word in words)}\t{' '.join(words)}\n" for words in order)
    (folder / "de-xx.tsv").write_text(pairs, encoding="utf-8")
    command = ["grow", str(folder / "model"), "--language", "xx", "--text", str(folder / "new.txt"), "--pieces", "8"]
    options = ["--start", "lexicon", "--pairs", f"de-xx={folder}/de-xx.tsv", "--out", str(folder / "vocabulary")]
    assert cli.main([*command, *options]) == 0
    return folder


def test_new_rows_are_the_mean_of_what_their_translations_hold(grown):
    config = continued_config(grown / "model", vocabulary=grown / "vocabulary")
    check_init(config.checkpoint.init)
    loaded, new = load_parameters(grown / "model"), load_vocabulary(grown / "vocabulary")
    old, arrays = loaded.vocabulary, {path: np.asarray(value) for path, value in by_path(loaded.params).items()}
    mixtures = read_starts(config.checkpoint.init["starts"], old, new)
    assert mixtures and {*mixtures} <= {*new_pieces(old, new)}
    assert sorted(file.name for file in (grown / "vocabulary").iterdir()) == FILES
    _, shapes, _ = model_room.abstract(config, vocabulary_size=new.size, languages=("de",))
    fresh = {path: np.zeros(leaf.shape, np.float32) for path, leaf in by_path(shapes).items()}
    facts = ModelSpec(loaded.config, old, ("de",)), ModelSpec(config, new, ("de",))
    found = transplant(arrays, facts[0], fresh, facts[1], starts=config.checkpoint.init["starts"])
    for index, (ids, weights) in mixtures.items():
        assert weights.sum() == pytest.approx(1) and len(ids) <= 5
        np.testing.assert_allclose(found.params["embedding"][index], weights @ arrays["embedding"][ids], rtol=1e-5)
    kept = arrays["embedding"][: old.size]
    np.testing.assert_array_equal(found.params["embedding"][: old.size], kept)  # old pieces stay, bit for bit
    whole = [index for index in mixtures if new.pieces([index])[0].strip("▁") in WORDS]
    assert whole  # a piece that is a word begins mostly as the pieces of its translation
    for index in whole:
        ids, weights = mixtures[index]
        parts = old.encode(WORDS[new.pieces([index])[0].strip("▁")])
        assert int(ids[weights.argmax()]) in parts
    spelt = transplant(arrays, facts[0], fresh, facts[1])
    assert any((spelt.params["embedding"][index] != found.params["embedding"][index]).any() for index in mixtures)


def test_the_same_pairs_the_other_way_round(grown):
    old, new = load_parameters(grown / "model").vocabulary, load_vocabulary(grown / "vocabulary")
    lines = (grown / "de-xx.tsv").read_text(encoding="utf-8").splitlines()
    found = lexicon(old, new, [tuple(reversed(line.split("\t"))) for line in lines])
    written = read_starts(grown / "vocabulary" / "starts.json", old, new)
    assert found.keys() == written.keys()
    for index, (ids, weights) in found.items():
        np.testing.assert_array_equal(ids, written[index][0])
        np.testing.assert_allclose(weights, written[index][1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"nowhere": {"▁": 1}}, "this run's vocabulary has no piece 'nowhere'"),
        ({"▁": {"nowhere": 1}}, "the vocabulary of the model has no piece 'nowhere'"),
        ({"▁": {"▁": -1}}, "'▁' begins as no mixture"),
        ({"▁": {}}, "'▁' begins as no mixture"),
        ({"▁": {"▁": 1e308}}, "'▁' begins as no mixture"),
        ({"▁": {"▁": 10**400}}, "'▁' begins as no mixture"),
        ({"▁": {"▁": float("nan")}}, "'▁' begins as no mixture"),
        ({"▁": {"▁": 1}, "": "0"}, "it has changed since it was written"),
        ([], "'' begins as no mixture"),
        ([[]], "'' begins as no mixture"),
    ],
)
def test_files_that_say_something_else(content, message, grown, tmp_path):
    old, new = load_parameters(grown / "model").vocabulary, load_vocabulary(grown / "vocabulary")
    (tmp_path / "starts.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_starts(tmp_path / "starts.json", old, new)
    write_starts(tmp_path / "whole.json", {new.size - 1: (np.array([5, 6]), np.array([1, 3]))}, old, new)
    assert read_starts(tmp_path / "whole.json", old, new)[new.size - 1][1].tolist() == [0.25, 0.75]


def test_options_that_do_not_fit(grown, capsys):
    command = ["grow", str(grown / "model"), "--language", "xx", "--text", str(grown / "new.txt")]
    for options, message in (
        (["--start", "lexicon"], "only one of the start 'lexicon' and pairs"),
        (["--pairs", "de-xx=a.tsv"], "only one of the start 'lexicon' and pairs"),
        (["--start", "lexicon", "--pairs", "de-en=a.tsv"], "the translations of 'de-en' are not of 'xx'"),
    ):
        assert cli.main([*command, *options, "--out", str(grown / "other")]) == 2
        assert message in capsys.readouterr().err and not (grown / "other").exists()
