"""Every key is declared once, with a default of its own kind and a sentence, and something reads it."""

import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from mlm_jax.config import default_config
from mlm_jax.config.check import check_values
from mlm_jax.config.keys import GROUPS, KEYS
from mlm_jax.config.keys.curriculum import PHASE
from mlm_jax.config.option import options_of
from mlm_jax.config.values import REQUIRED, Entry
from mlm_jax.model.layers import ACTIVATIONS, GATED
from mlm_jax.objectives.masking import Masking
from mlm_jax.training.directions import DIRECTIONS
from mlm_jax.training.schedule import SHAPES

PACKAGE = Path(__file__).parents[2] / "mlm_jax"


def leaves(config, prefix=""):
    for key, value in config.items():
        yield from leaves(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else [prefix + key]


def nested(kind):
    """The keys of the dictionaries that values of a kind are, or hold."""
    if isinstance(kind, Entry):
        yield from kind.keys
    elif hasattr(kind, "kind"):
        yield from nested(kind.kind)


ALL = [(key.name, key) for key in KEYS] + [
    (f"{key.name}: {inner.name}", inner) for key in KEYS for inner in nested(key.kind)
]


def test_each_key_is_declared_once_and_the_defaults_work():
    names = [key.name for key in KEYS]
    assert sorted(names) == sorted(set(names)) == sorted(leaves(default_config()))
    assert {name.rpartition(".")[0] for name in names} == set(GROUPS)
    check_values(default_config())


def test_the_default_config_is_a_new_one_at_each_call():
    default_config().tasks["mlm"]["rows"] = 1
    assert default_config().tasks["mlm"]["rows"] == 64


@pytest.mark.parametrize("key", [key for _, key in ALL], ids=[name for name, _ in ALL])
def test_a_key_has_a_sentence_and_a_default_of_its_kind(key):
    assert re.fullmatch(r"\S.{9,}\.", key.doc), key.doc
    assert key.kind.words
    if key.default not in (REQUIRED, None, (), {}):
        key.kind.check(key.name, key.default)


def test_something_reads_each_key():
    code = "\n".join(file.read_text() for file in PACKAGE.rglob("*.py") if file.parent.name != "keys")
    for name, key in ALL:
        last = key.name.rpartition(".")[2]
        assert re.search(rf"\.{last}\b|[\"']{last}[\"']", code), f"nothing reads {name}"


def test_choices_that_a_table_implements_are_those_of_the_table():
    kinds = {key.name: key.kind for key in KEYS}
    assert {GATED.get(name, name) for name in kinds["model.activation"].names} == set(ACTIVATIONS)
    assert set(GATED) < set(kinds["model.activation"].names)
    docs = {key.name: key.doc for key in KEYS}
    assert all(name in docs["optimizer.name"] for name in DIRECTIONS)
    assert all(name in docs["optimizer.schedule"] for name in SHAPES)


def test_the_mask_rate_of_a_phase_has_the_bounds_of_a_tasks():
    kind = next(key.kind for key in PHASE.keys if key.name == "mask_rate")
    assert kind.kind.kind == options_of(Masking)["mask_rate"].kind
