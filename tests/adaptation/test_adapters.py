"""Adapters that are saved alone and put back give the same parameters, and they are refused on another model."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import mlm_jax
from mlm_jax import cli
from mlm_jax import model as model_room
from mlm_jax.adaptation.adapters import is_adapter, load_adapters, save_adapters
from mlm_jax.checkpoints.checkpoint import load_parameters
from mlm_jax.checkpoints.saving import Checkpoints
from mlm_jax.common.errors import UserError
from mlm_jax.common.seal import SEAL
from mlm_jax.config import default_config
from mlm_jax.training.paths import by_path, map_by_path
from tests.hostile.limits import refused
from tests.interop.published import our_vocabulary

LANGUAGES = ("de", "en")


def workdir(folder, *, adapter=0, seed=0, adapter_seed=0, norm_position="pre", **group):
    """A model whose adapters are drawn apart from everything else."""
    config = default_config()
    config.model.update({"width": 16, "heads": 2, "mlp_width": 12, "global_every": 1, "norm_position": norm_position})
    config.model.encoder = ({"layers": 2, "weights": "shared", **({"adapter": adapter, **group} if adapter else {})},)
    vocabulary = our_vocabulary(LANGUAGES)
    _, shapes, _ = model_room.abstract(config, vocabulary_size=vocabulary.size, languages=LANGUAGES)

    def value(path, leaf):
        of = adapter_seed if is_adapter(path) else seed
        return np.random.default_rng([of, *path.encode()]).normal(size=leaf.shape).astype(np.float32)

    checkpoints = Checkpoints(folder, config, vocabulary, LANGUAGES, labels={})
    checkpoints.save(1, {"params": map_by_path(value, shapes)})
    checkpoints.wait()
    return folder


def parameters(place):
    return {path: np.asarray(value) for path, value in by_path(load_parameters(place).params).items()}


@pytest.mark.parametrize("group", [{}, {"adapter_weights": "shared"}], ids=["by language", "shared"])
def test_back_on_a_base_without_adapters(group, tmp_path, capsys):
    base, adapted = workdir(tmp_path / "base"), workdir(tmp_path / "adapted", adapter=4, **group)
    assert cli.main(["adapters", str(adapted), "--out", str(tmp_path / "alone")]) == 0
    assert (tmp_path / "alone" / "model.safetensors").stat().st_size < 8000
    assert cli.main(["adapters", str(base), "--load", str(tmp_path / "alone"), "--out", str(tmp_path / "again")]) == 0
    ours, theirs = parameters(tmp_path / "again"), parameters(adapted)
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[path], theirs[path]) for path in ours)
    assert load_parameters(tmp_path / "again").config.model.encoder == load_parameters(adapted).config.model.encoder


def test_one_languages_adapters_on_a_model_that_has_others(tmp_path):
    base = workdir(tmp_path / "base", adapter=4)
    trained = workdir(tmp_path / "trained", adapter=4, adapter_seed=5)
    again = load_adapters(base, save_adapters(trained, tmp_path / "en", "en"), tmp_path / "again")
    ours, before, after = (parameters(place) for place in (again, base, trained))
    for path in filter(is_adapter, ours):
        assert np.array_equal(ours[path][:, 0], before[path][:, 0]) and np.array_equal(
            ours[path][:, 1], after[path][:, 1]
        )
    assert jax.tree.all(
        jax.tree.map(np.array_equal, *({p: f[p] for p in f if not is_adapter(p)} for f in (ours, before)))
    )


def test_one_languages_adapters_on_a_base_without_adapters_leave_the_others_as_they_were(tmp_path):
    base, trained = workdir(tmp_path / "base"), workdir(tmp_path / "trained", adapter=4, adapter_seed=5)
    one = save_adapters(trained, tmp_path / "en", "en")
    again = load_adapters(base, one, tmp_path / "again")
    texts = ["hello world", "eine Zeile"]

    def vectors(place, language):
        return mlm_jax.load(place).embed(texts, language=language)

    np.testing.assert_array_equal(vectors(again, "de"), vectors(base, "de"))
    np.testing.assert_array_equal(vectors(again, "en"), vectors(trained, "en"))
    assert not np.allclose(vectors(again, "en"), vectors(base, "en"))
    downs = [value[:, 0] for path, value in parameters(again).items() if path.endswith("down/kernel")]
    assert downs and all(down.any() for down in downs)  # else they could never learn


def test_adapters_that_do_not_fit_the_model_are_refused(tmp_path):
    base, other = workdir(tmp_path / "base"), workdir(tmp_path / "other", seed=1)
    alone = save_adapters(workdir(tmp_path / "adapted", adapter=4), tmp_path / "alone")
    with pytest.raises(UserError, match="trained on other weights than this model's"):
        load_adapters(other, alone, tmp_path / "again")
    with pytest.raises(UserError, match="this model has no adapters"):
        save_adapters(base, tmp_path / "none")
    with pytest.raises(UserError, match="does not know the language 'fr'"):
        save_adapters(tmp_path / "adapted", tmp_path / "none", "fr")
    post = workdir(tmp_path / "post", norm_position="post")
    reused = workdir(tmp_path / "reused", norm_position="post", adapter=4, adapter_norm="reused")
    with pytest.raises(UserError, match="the model needs those of the other languages"):
        load_adapters(post, save_adapters(reused, tmp_path / "one", "en"), tmp_path / "again")
    with pytest.raises(UserError, match="there is no adapters.json"):
        load_adapters(base, tmp_path, tmp_path / "again")
    assert not (tmp_path / "again").exists() and not (tmp_path / "none").exists()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """(the workdir of a base model, the folder of adapters for it)."""
    place = tmp_path_factory.mktemp("adapters")
    return workdir(place / "base"), save_adapters(workdir(place / "adapted", adapter=4), place / "alone")


HOSTILE = {  # {what: (key of adapters.json, value)}
    "a base that is a number": ("base", 3),
    "languages that are numbers": ("languages", [1, 2]),
    "no languages": ("languages", []),
    "other languages": ("languages", ["en", "de"]),
    "one language that is a text": ("one_language", "de"),
    "layers that are a text": ("encoder", "x"),
    "layers that are numbers": ("encoder", [1]),
    "a billion layers": ("encoder", [{"layers": 10**9, "weights": "shared", "adapter": 4}]),
    "adapters as wide as a trillion": ("encoder", [{"layers": 2, "weights": "shared", "adapter": 10**12}]),
    "adapters as wide as 1e400": ("encoder", [{"layers": 2, "weights": "shared", "adapter": float("inf")}]),
    "adapters of another width": ("encoder", [{"layers": 2, "weights": "shared", "adapter": 5}]),
    "a key that there is not": ("encoder", [{"layers": 2, "weights": "shared", "adapter": 4, "adapter_x": 1}]),
}


@pytest.mark.parametrize("key, value", HOSTILE.values(), ids=HOSTILE)
def test_metadata_of_adapters_is_checked(alone, tmp_path, capfd, key, value):
    base, folder = alone
    shutil.copytree(folder, tmp_path / "theirs")
    file = tmp_path / "theirs" / "adapters.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({name: facts[name] for name in facts if name != SEAL} | {key: value}))
    refused(capfd, "adapters", base, "--load", tmp_path / "theirs", "--out", tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("name", ["adapters.json", "model.safetensors"])
def test_a_flipped_bit_is_noticed(alone, tmp_path, capfd, name):
    base, folder = alone
    shutil.copytree(folder, tmp_path / "theirs")
    content = bytearray((folder / name).read_bytes())
    content[-9] ^= 1
    (tmp_path / "theirs" / name).write_bytes(content)
    said = refused(capfd, "adapters", base, "--load", tmp_path / "theirs", "--out", tmp_path / "again")
    assert "changed since" in said and not (tmp_path / "again").exists()


@pytest.mark.parametrize("name", ["embedding", "../../escaped", "/escaped", "encoder/0/adapter/../x", "a/adapter/b"])
def test_adapters_bring_no_other_weights(alone, tmp_path, capfd, name):
    base, folder = alone
    shutil.copytree(folder, tmp_path / "theirs")
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {name: np.zeros((272, 16), np.float32)}, tmp_path / "theirs" / "model.safetensors")
    refused(capfd, "adapters", base, "--load", tmp_path / "theirs", "--out", tmp_path / "again")
    assert not (tmp_path / "again").exists()
