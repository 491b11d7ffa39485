"""The code around a call of cuDNN (blocks, masks, meshes), with the float32 reference in its place."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.model import kernels
from mlm_jax.model.attention import attention, reference
from mlm_jax.parallel.mesh import make_mesh

ROWS, LENGTH, HEADS, KV_HEADS, HEAD_DIM = 2, 520, 4, 2, 8


@pytest.fixture
def in_place_of_cudnn(monkeypatch):
    """Let the reference answer calls of cuDNN, and return the shapes of their masks."""
    masks = []

    def fused(query, key, value, mask, *, scale):
        masks.append(mask.shape)
        return reference(query * scale, key, value, mask)

    monkeypatch.setattr(kernels, "fused", fused)
    return masks


@pytest.fixture(scope="module")
def packed():
    """Queries, keys, values, and the segments of two rows: three documents and padding, and one document."""
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(ROWS, LENGTH, heads, HEAD_DIM)) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    segments = np.ones((ROWS, LENGTH), np.int32)
    segments[0] = np.repeat([1, 2, 3, 0], [200, 15, 285, 20])
    return [jnp.asarray(each, jnp.float32) for each in arrays], jnp.asarray(segments)


def outcome(attend, arrays, segments):
    """Return the outputs of ``attend`` that mean something, and gradients of the mean of their squares."""

    def outputs(arrays):
        return jnp.where((segments > 0)[..., None, None], attend(*arrays, segments), 0)

    return jax.jit(lambda arrays: (outputs(arrays), jax.grad(lambda a: jnp.square(outputs(a)).mean())(arrays)))(arrays)


def by_cudnn(window=0, causal=False):
    return lambda query, key, value, segments: kernels.cudnn(
        query, key, value, segments, segments, window=window, causal=causal, scale=0.3
    )


def by_reference(window=0, causal=False):
    return lambda query, key, value, segments: attention(
        query, key, value, segment_ids=segments, window=window, causal=causal, scale=0.3, implementation="reference"
    )


def assert_same(found, wanted):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6 * float(jnp.abs(other).max()))


@pytest.mark.parametrize(
    "window, causal, masks",
    [
        (128, False, [(ROWS * 5, 128, 256)]),  # ⌈520 / 128⌉ blocks of a row
        (30, True, [(ROWS * 5, 128, 256)]),
        (200, False, [(ROWS, LENGTH, LENGTH)]),  # rows are too short for blocks of 256 queries
        (0, True, [(ROWS, LENGTH, LENGTH)]),
    ],
)
def test_values_and_gradients_are_those_of_the_reference(in_place_of_cudnn, packed, window, causal, masks):
    found = outcome(by_cudnn(window, causal), *packed)
    assert sorted(set(in_place_of_cudnn)) == masks
    assert_same(found, outcome(by_reference(window, causal), *packed))


def test_rows_whose_mask_would_be_large_attend_in_blocks_of_queries(monkeypatch, in_place_of_cudnn, packed):
    monkeypatch.setattr(kernels, "LARGEST_MASK", 128 * LENGTH)
    found = outcome(by_cudnn(causal=True), *packed)
    assert set(in_place_of_cudnn) == {(ROWS, 128, LENGTH)}
    assert_same(found, outcome(by_reference(causal=True), *packed))


@pytest.mark.parametrize("window", [0, 128])
@pytest.mark.parametrize("sizes", [{"data": 2, "tensor": 2, "sequence": 2}, {"data": 1, "sequence": 8}])
def test_devices_of_a_mesh_together_see_what_one_sees(monkeypatch, in_place_of_cudnn, packed, sizes, window):
    monkeypatch.setattr(kernels, "LARGEST_MASK", 64 * LENGTH)
    mesh = make_mesh(
        {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1} | sizes, jax.devices()[: math.prod(sizes.values())]
    )
    with jax.set_mesh(mesh):
        found = jax.device_get(outcome(by_cudnn(window), *packed))
    assert_same(found, outcome(by_reference(window), *packed))


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("window", [0, 32])
def test_no_gradient_between_documents_or_from_outside_the_window(
    monkeypatch, in_place_of_cudnn, packed, window, blocks
):
    if blocks:
        monkeypatch.setattr(kernels, "LARGEST_MASK", 128 * LENGTH)
    (query, key, value), segments = packed
    for position, first, last in ((127, 0, 199), (128, 0, 199), (200, 200, 214), (216, 215, 499), (499, 215, 499)):

        def one_output(key, value, at=position):
            return by_cudnn(window)(query, key, value, segments)[0, at].sum()

        expected = [p for p in range(first, last + 1) if not window or abs(p - position) <= window // 2]
        for gradient in jax.jit(jax.grad(one_output, (0, 1)))(key, value):
            touched = np.flatnonzero(np.abs(np.asarray(gradient)).sum((2, 3)).reshape(-1))
            assert touched.tolist() == expected


def test_rows_of_8192_hold_no_mask_of_all_pairs_and_attend_once_in_each_direction(monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91_000)  # traced, and never run
    arrays = [jax.ShapeDtypeStruct((1, 8192, 12, 64), jnp.bfloat16)] * 3

    def total(*args):
        return by_cudnn()(*args).astype(jnp.float32).sum()

    program = jax.make_jaxpr(jax.grad(total, (0, 1, 2)))(*arrays, jax.ShapeDtypeStruct((1, 8192), jnp.int32))
    calls, sizes = [], []

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            calls.append(equation.primitive.name)
            sizes.extend(math.prod(getattr(v.aval, "shape", ())) for v in (*equation.invars, *equation.outvars))
            for inner in jax.core.jaxprs_in_params(equation.params):
                walk(inner)

    walk(program.jaxpr)
    assert sum(name.startswith("dot_product_attention_fwd") for name in calls) == 1
    assert sum(name.startswith("dot_product_attention_bwd") for name in calls) == 1
    assert max(sizes) <= 8192 * 12 * 64  # a query's elements; all pairs would be 8192 · 8192
