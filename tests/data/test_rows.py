"""Rows of two texts with one label: the tokens that are cut if they are too long."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlm_jax.data.loading.loader import Loader
from mlm_jax.data.store.two_texts import cut_longer
from tests.data.stores import EOS, PAD, config, write


def one_by_one(first, second, room):
    """Take a token from the longer text, of equal ones from the second, until both fit."""
    while first + second > room:
        first, second = (first - 1, second) if first > second else (first, second - 1)
    return first, second


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 40))
def test_the_longer_text_is_cut_first(first, second, room):
    assert cut_longer(first, second, room) == one_by_one(first, second, room)


def test_rows_of_two_texts_keep_the_shorter_one_whole(tmp_path):
    premise, hypothesis = [7, *range(100, 120)], [*range(200, 203)]  # 7 is a language token
    pairs = [[*premise, EOS, *hypothesis, EOS], [7, *hypothesis, EOS, *premise[1:], EOS], [7, 100, EOS, 200, EOS]]
    examples = [*pairs[:2], [*premise, EOS], pairs[2]]
    features = {"inputs": [np.array(ids, np.int32) for ids in examples], "labels": [[0]] * 4}
    store = write(tmp_path / "s", {"nli": ("labelled", ["en"], {"train": features, "validation": features})}, ["en"])
    loader = Loader(
        store, config({"nli": {"objective": "classification", "rows": 4, "length": 10}}), {"nli": "labelled"}
    )
    (batch,) = loader.validation("nli", "nli", 4)
    assert batch["inputs"].tokens.tolist() == [
        [7, 100, 101, 102, 103, EOS, 200, 201, 202, EOS],
        [7, 200, 201, 202, EOS, 100, 101, 102, 103, EOS],
        [7, *range(100, 108), EOS],  # a single text
        [7, 100, EOS, 200, EOS, *[PAD] * 5],
    ]
