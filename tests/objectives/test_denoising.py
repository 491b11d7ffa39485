import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlm_jax.common.errors import UserError
from mlm_jax.data.loading.batch import Rows
from mlm_jax.objectives.denoising import Denoising, noise_mask, random_partition
from tests.objectives.helpers import make_context


@pytest.mark.parametrize("raw, inputs, targets", [(568, 512, 114), (1137, 1024, 229), (284, 256, 58), (141, 128, 29)])
def test_lengths_are_those_of_t5(raw, inputs, targets):
    assert Denoising().lengths(raw)[2:] == (inputs, targets)  # seqio's random_spans_helper


def prepare(objective, context):
    """Compiled, as a training step does it."""
    return jax.jit(functools.partial(objective.prepare, context=context))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), items=st.sampled_from([5, 9, 40]), parts=st.sampled_from([1, 3, 5]))
def test_partitions(seed, items, parts):
    lengths = np.asarray(random_partition(jax.random.key(seed), items, parts))
    assert lengths.sum() == items and len(lengths) == parts and (lengths > 0).all()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_noise_mask_has_exact_counts(seed):
    mask = np.asarray(noise_mask(jax.random.key(seed), 60, 9, 3))
    assert mask.sum() == 9 and not mask[0]
    assert (np.diff(mask.astype(int)) == 1).sum() == 3


def test_nothing_is_lost_between_input_and_target():
    sentinels = np.arange(40, 50, dtype=np.int32)
    context = make_context(sentinels=sentinels)
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 40, (4, 60)).astype(np.int32)
    rows = Rows(tokens, np.ones_like(tokens), np.tile(np.arange(60), (4, 1)), np.array([0, 1, 2, 0]))
    examples = prepare(Denoising(), context)({"inputs": rows}, jax.random.key(1))
    for row in range(4):
        source, target = list(np.asarray(examples.source.tokens)[row]), list(np.asarray(examples.labels)[row])
        assert restored(source, target, sentinels) == list(tokens[row])
        assert np.asarray(examples.decoder.tokens)[row][0] == 3


def restored(source, target, sentinels):
    """The text that a source and its target, both ending in eos, were made of."""
    assert source[-1] == target[-1] == 1
    spans, current = {}, None
    for token in target[:-1]:
        if token in sentinels:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    text = []
    for token in source[:-1]:
        text.extend(spans.pop(token) if token in sentinels else [token])
    assert not spans  # the decoder is asked for nothing else
    return text


@pytest.mark.parametrize(
    "options", [{}, {"noise_density": 0.5, "mean_span": 2.0}, {"noise_density": 0.9, "mean_span": 2.0}]
)
def test_padding_is_no_text(options):
    sentinels = np.arange(40, 50, dtype=np.int32)
    length, sizes = 24, [24, 13, 3, 1, 0]
    tokens = np.random.default_rng(0).integers(5, 40, (len(sizes), length)).astype(np.int32)
    segments = (np.arange(length) < np.array(sizes)[:, None]).astype(np.int32)
    rows = Rows(tokens * segments, segments, np.tile(np.arange(length), (len(sizes), 1)), np.array([1, 2, 1, 2, 0]))
    prepared = prepare(Denoising(**options), make_context(sentinels=sentinels))
    for seed in range(5):
        examples = jax.tree.map(np.asarray, prepared({"inputs": rows}, jax.random.key(seed)))
        for row, size in enumerate(sizes):
            source = list(examples.source.tokens[row][examples.source.segment_ids[row] > 0])
            target = list(examples.labels[row][examples.decoder.segment_ids[row] > 0])
            if target:
                assert restored(source, target, sentinels) == list(tokens[row, :size])
            else:  # too little text for a span
                assert source == ([*tokens[row, :size], 1] if size else [])
        assert not examples.weights[-1].any() and not examples.weights[examples.decoder.segment_ids == 0].any()
        counted = (examples.decoder.segment_ids > 0).sum(axis=1)  # N_l is of text alone
        totals = np.maximum(np.bincount(rows.language, counted, 3), 1)
        np.testing.assert_allclose(examples.weights.sum(axis=1), counted / totals[rows.language], rtol=1e-6)


def test_too_few_sentinels():
    tokens = np.full((1, 60), 7, np.int32)
    rows = Rows(tokens, tokens, tokens, np.zeros(1, np.int32))
    with pytest.raises(UserError, match="3 sentinels"):
        Denoising(task="d").prepare({"inputs": rows}, jax.random.key(0), make_context())
