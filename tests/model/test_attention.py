"""Attention against torch, its window by blocks against the whole mask, and positions against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from mlm_jax.model.attention import attention, reference
from mlm_jax.model.masks import in_windows, seen
from mlm_jax.model.positions import Relative, rotate, rotation

ROWS, LENGTH, HEADS, HEAD_DIM = 2, 200, 4, 8


def make(rng, heads=HEADS, length=LENGTH):
    return jnp.asarray(rng.normal(size=(ROWS, length, heads, HEAD_DIM)), jnp.float32)


@pytest.fixture
def packed(rng):
    """Queries, keys, values and the segments of two rows: three documents and padding, and one document."""
    segments = np.ones((ROWS, LENGTH), np.int32)
    segments[0] = np.repeat([1, 2, 3, 0], [90, 5, 85, 20])
    return make(rng), make(rng), make(rng), jnp.asarray(segments)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def in_torch(query, key, value, mask, scale):
    def heads_first(x):
        return torch.tensor(np.asarray(x)).transpose(1, 2)

    out = torch.nn.functional.scaled_dot_product_attention(
        *map(heads_first, (query, key, value)),
        attn_mask=torch.tensor(np.asarray(mask))[:, None],
        scale=scale,
        enable_gqa=key.shape[2] != query.shape[2],
    )
    return out.transpose(1, 2).numpy()


@pytest.mark.parametrize("scale", [None, 1.0])
@pytest.mark.parametrize("kv_heads", [HEADS, 2])
@pytest.mark.parametrize("window, causal", [(0, False), (0, True), (16, False), (16, True)])
def test_against_torch(rng, packed, scale, kv_heads, window, causal):
    query, _, _, segments = packed
    key, value = make(rng, kv_heads), make(rng, kv_heads)
    ours = attention(query, key, value, segment_ids=segments, window=window, causal=causal, scale=scale)
    theirs = in_torch(query, key, value, seen(segments, segments, window=window, causal=causal), scale)
    real = np.asarray(segments) > 0  # padding attends to nothing, and its output is not used
    np.testing.assert_allclose(np.asarray(ours)[real], theirs[real], atol=2e-6)


@pytest.mark.parametrize(
    "window, block, reach", [(16, 32, 32), (64, 32, 32), (64, 50, 50), (2, 7, 7), (16, 32, 8), (16, 64, 32)]
)
def test_a_window_by_blocks_is_the_window(packed, window, block, reach):
    query, key, value, segments = packed
    attend = jax.vmap(reference, in_axes=1, out_axes=1)
    by_blocks = in_windows(attend, query, key, value, segments, window=window, causal=False, block=block, reach=reach)
    whole = reference(query, key, value, seen(segments, segments, window=window, causal=False))
    real = np.asarray(segments) > 0
    np.testing.assert_allclose(np.asarray(by_blocks)[real], np.asarray(whole)[real], atol=2e-6)


def test_no_gradient_between_documents_or_from_outside_the_window(packed):
    query, key, value, segments = packed

    def one_output(value):
        return attention(query, key, value, segment_ids=segments, window=16)[0, 60].sum()

    touched = np.flatnonzero(np.abs(np.asarray(jax.grad(one_output)(value))[0]).sum((1, 2)))
    assert touched.tolist() == list(range(52, 69))

    def at_the_border(value):
        return attention(query, key, value, segment_ids=segments)[0, 92].sum()

    touched = np.flatnonzero(np.abs(np.asarray(jax.grad(at_the_border)(value))).sum((2, 3)).reshape(-1))
    assert touched.tolist() == list(range(90, 95))


def test_rotary_positions(rng):
    """Dimensions i and i + d/2 are a complex number turned by position · theta^(−2i/d); products depend on distances."""
    x, y = make(rng), make(rng)
    positions = jnp.asarray(rng.integers(0, 1000, (ROWS, LENGTH)))
    turned = np.asarray(rotate(x, rotation(positions, HEAD_DIM, 10_000.0)))
    numbers = np.asarray(x[..., :4]) + 1j * np.asarray(x[..., 4:])
    angle = np.asarray(positions)[..., None, None] * 10_000.0 ** (-np.arange(4) / 4)
    expected = numbers * np.exp(1j * angle)
    np.testing.assert_allclose(turned, np.concatenate([expected.real, expected.imag], -1), atol=2e-4)
    products = [
        jnp.einsum(
            "rlhd,rlhd->rlh", rotate(x, rotation(p, HEAD_DIM, 100.0)), rotate(y, rotation(p + 5, HEAD_DIM, 100.0))
        )
        for p in (jnp.zeros((ROWS, LENGTH), int), jnp.full((ROWS, LENGTH), 40))
    ]
    np.testing.assert_allclose(products[0], products[1], atol=2e-5)
    # A turn keeps products, so the gradient of ⟨turned x, y⟩ is y turned back.
    gradient = jax.grad(lambda x: jnp.vdot(rotate(x, rotation(positions, HEAD_DIM, 100.0)), y))(x)
    np.testing.assert_allclose(rotate(gradient, rotation(positions, HEAD_DIM, 100.0)), y, atol=2e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("buckets, farthest", [(32, 128), (8, 9)])
def test_buckets_of_distances_are_t5s(bidirectional, buckets, farthest):
    from transformers.models.t5.modeling_t5 import T5Attention

    relative = Relative(buckets, farthest, bidirectional)
    table = jnp.arange(buckets, dtype=jnp.float32)[:, None]  # one head, whose bias is the bucket's number
    ours = np.asarray(relative.bias(table, 150)).reshape(150, 150)
    ahead = torch.arange(150)[None, :] - torch.arange(150)[:, None]
    theirs = T5Attention._relative_position_bucket(ahead, bidirectional, buckets, farthest).numpy()
    np.testing.assert_array_equal(ours, theirs)
