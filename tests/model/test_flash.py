"""Our flash attention, run by Pallas's interpreter, against the reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from mlm_jax.config import default_config
from mlm_jax.model import block, kernels
from mlm_jax.model.attention import attention
from mlm_jax.model.block import Block
from mlm_jax.model.flash import Tiles, flash_attention, tiles_of, visited
from mlm_jax.model.flash_joint import flash_joint
from mlm_jax.model.flash_kernels import Masking, Tile
from mlm_jax.model.masks import seen
from mlm_jax.model.positions import rotate, rotation
from mlm_jax.parallel.mesh import make_mesh

ROWS, LENGTH, HEADS, KV_HEADS, HEAD_DIM = 2, 100, 4, 2, 16
TILES = Tiles(Tile(32, 16), Tile(16, 32), Tile(32, 32))  # no two alike, and none divides the length


@pytest.fixture(scope="module")
def packed():
    """Queries, keys, values, and the segments of two rows: documents and padding, and segments in any order."""
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(ROWS, LENGTH, heads, HEAD_DIM)) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    segments = np.stack([np.repeat([1, 2, 3, 4, 0], [20, 37, 3, 30, 10]), rng.integers(0, 4, LENGTH)])
    return [jnp.asarray(each, jnp.float32) for each in arrays], jnp.asarray(segments, jnp.int32)


def outcome(attend, arrays, segments):
    """Return the outputs of ``attend`` that mean something, and the gradients of a weighted sum of them."""
    weights = jax.random.normal(jax.random.key(1), arrays[0].shape)

    def outputs(arrays):
        return jnp.where((segments > 0)[..., None, None], attend(*arrays), 0)

    return jax.jit(lambda arrays: (outputs(arrays), jax.grad(lambda a: (outputs(a) * weights).sum())(arrays)))(arrays)


def assert_same(found, wanted):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=2e-6 * float(jnp.abs(other).max()))


@pytest.mark.parametrize("window, causal", [(0, False), (0, True), (16, False), (24, True)])
def test_values_and_gradients_are_those_of_the_reference(packed, window, causal):
    arrays, segments = packed
    options = {"window": window, "causal": causal, "scale": 0.3}

    def flash(query, key, value):
        return flash_attention(query, key, value, segments, segments, **options, tiles=TILES, interpret=True)

    def reference(query, key, value):
        return attention(query, key, value, segment_ids=segments, implementation="reference", **options)

    assert_same(outcome(flash, arrays, segments), outcome(reference, arrays, segments))


def test_a_memory_of_another_length_and_a_query_that_sees_nothing(packed):
    (query, key, value), segments = packed
    arrays, kv_segments = (query, key[:, :60], value[:, :60]), segments[:, 30:90]
    sees = (segments[:, :, None] == kv_segments[:, None]).any(-1) & (segments > 0)
    assert not sees.all() and (segments > 0)[~sees].any()

    def flash(*arrays):
        options = {"window": 0, "causal": False, "scale": 0.3, "tiles": TILES, "interpret": True}
        return flash_attention(*arrays, segments, kv_segments, **options)

    def reference(*arrays):
        options = {"segment_ids": segments, "kv_segment_ids": kv_segments, "scale": 0.3}
        return attention(*arrays, implementation="reference", **options)

    assert_same(outcome(flash, arrays, sees), outcome(reference, arrays, sees))
    assert not np.asarray(flash(*arrays))[~np.asarray(sees)].any()


def test_nothing_leaks_between_documents_or_beyond_a_window(packed):
    (query, key, value), segments = packed
    window = 24
    mask = np.asarray(seen(segments, segments, window=window, causal=False))

    def output(key, value, place):
        options = {"window": window, "causal": False, "scale": 0.3, "tiles": TILES, "interpret": True}
        return flash_attention(query, key, value, segments, segments, **options)[:, place].sum(axis=(1, 2))

    probe = jax.jit(jax.jacrev(lambda key, value, place: output(key, value, place).sum(), argnums=(0, 1)))
    for place in (0, 19, 20, 59, 60, 95):
        for gradient in probe(key, value, place):
            touched = np.asarray(jnp.abs(gradient).sum(axis=(2, 3)) > 0)  # [rows, keys]
            real = np.asarray(segments[:, place] > 0)
            assert not (touched & ~mask[:, place])[real].any()
            assert not touched[~real].any()
    assert mask[:, 19].any()


@pytest.mark.parametrize("mesh", [{"data": 8}, {"data": 2, "sequence": 2, "tensor": 2}])
@pytest.mark.parametrize("window", [0, 24])
def test_every_mesh_gives_the_same(packed, mesh, window):
    (query, key, value), segments = packed
    arrays = [jnp.tile(each[:, :96], (4, 1, 1, 1)) for each in (query, key, value)]
    segments = jnp.tile(segments[:, :96], (4, 1))

    def flash(query, key, value):
        options = {"window": window, "causal": False, "scale": 0.3, "interpret": True}
        return kernels.flash(query, key, value, segments, segments, **options)

    alone = outcome(flash, arrays, segments)
    with jax.set_mesh(make_mesh({"slices": 1, "data": 1, "fsdp": 1, "sequence": 1, "tensor": 1} | mesh)):
        assert_same(outcome(flash, arrays, segments), alone)


@settings(max_examples=40, deadline=None)
@given(
    segments=st.lists(st.integers(0, 3), min_size=32, max_size=32),
    window=st.sampled_from([0, 2, 8, 30]),
    causal=st.booleans(),
    first=st.sampled_from([0, 16]),
    by_keys=st.booleans(),
)
def test_blocks_that_are_not_visited_hold_no_pair_that_is_seen(segments, window, causal, first, by_keys):
    kv_segments = jnp.asarray([segments], jnp.int32)
    own = kv_segments[:, first : first + 16]
    mask = seen(own, kv_segments, window=window, causal=causal, positions=first + np.arange(16)) & (own > 0)[..., None]
    begin, end = visited(own, kv_segments, jnp.array([first]), Masking(window, causal), 8, 4, by_keys=by_keys)
    met = np.asarray(mask[0]).reshape(2, 8, 8, 4).any(axis=(1, 3))  # [blocks of queries, blocks of keys]
    for number, row in enumerate(met.T if by_keys else met):
        inside = (np.arange(len(row)) >= int(begin[0, number])) & (np.arange(len(row)) < int(end[0, number]))
        assert not row[~inside].any()


def test_blocks_of_other_documents_and_beyond_a_window_are_not_visited():
    segments = jnp.repeat(jnp.array([[1, 2]]), 64, axis=1)
    begin, end = visited(segments, segments, jnp.array([0]), Masking(0, False), 16, 16)
    assert begin.tolist() == [[0] * 4 + [4] * 4] and end.tolist() == [[4] * 4 + [8] * 4]
    begin, end = visited(segments[:, :64], segments[:, :64], jnp.array([0]), Masking(32, False), 16, 16)
    assert (end - begin).tolist() == [[2, 3, 3, 2]]


def test_wide_heads_have_smaller_blocks():
    for window in (0, 128):
        assert max(tile.queries * tile.keys for tile in tiles_of(128, window)) < 128 * 64


@pytest.mark.parametrize("turned, window, causal", [(False, 0, False), (True, 16, False), (True, 0, True)])
def test_one_array_of_queries_keys_and_values_gives_what_three_do(packed, turned, window, causal):
    segments = packed[1]
    joint = jax.random.normal(jax.random.key(0), (ROWS, LENGTH, 3, HEADS, HEAD_DIM))
    positions = jnp.tile(jnp.arange(LENGTH) % 37, (ROWS, 1))
    angles = rotation(positions, HEAD_DIM, 100.0) if turned else None
    options = {"window": window, "causal": causal, "scale": 0.3}

    def one(joint):
        return flash_joint(joint, angles, segments, **options, tiles=TILES, interpret=True)

    def three(joint):
        query, key, value = joint[:, :, 0], joint[:, :, 1], joint[:, :, 2]
        if turned:
            query, key = rotate(query, angles), rotate(key, angles)
        return attention(query, key, value, segment_ids=segments, implementation="reference", **options)

    weights = jax.random.normal(jax.random.key(1), (ROWS, LENGTH, HEADS, HEAD_DIM))

    def outcome(attend):
        def total(joint):
            outputs = jnp.where((segments > 0)[..., None, None], attend(joint), 0)
            return (outputs * weights).sum(), outputs

        return jax.jit(jax.value_and_grad(total, has_aux=True))(joint)

    ((_, found), slope), ((_, wanted), wanted_slope) = outcome(one), outcome(three)
    assert_same((found, slope), (wanted, wanted_slope))


@pytest.mark.parametrize("kv_heads, low_rank, joint", [(2, 0, True), (1, 0, False), (2, 4, False)])
def test_a_layer_reads_the_joint_product_if_it_can(monkeypatch, kv_heads, low_rank, joint):
    config = default_config()
    config.model.update(width=32, heads=2, kv_heads=kv_heads, biases=("attention",))
    if low_rank:
        config.model.lora = {"rank": low_rank}
    layer = Block(config.model, rngs=nnx.Rngs(0)).attention
    graphdef, weights = nnx.split(layer)
    weights = jax.tree.map(lambda leaf: leaf + 0.1, weights)
    x = jax.random.normal(jax.random.key(0), (8, 40, 32))
    segments = jnp.tile(jnp.repeat(jnp.array([1, 2, 0]), jnp.array([17, 20, 3])), (8, 1))
    angles = rotation(jnp.tile(jnp.arange(40), (8, 1)), 16, 100.0)
    taken = []

    def outcome(**mesh):
        def total(weights, x):
            mixed = nnx.merge(graphdef, weights).of_itself(x, angles, None, segments, window=16, causal=False)
            return jnp.where(segments[..., None] > 0, jnp.square(mixed), 0).mean()

        with jax.set_mesh(make_mesh(dict.fromkeys(("slices", "data", "fsdp", "sequence", "tensor"), 1) | mesh)):
            return jax.jit(jax.value_and_grad(total, (0, 1)))(weights, x)

    interpreted = functools.partial(kernels.flash_joint, interpret=True)
    wanted = outcome(data=8)
    monkeypatch.setattr(block, "choose", lambda *_, **__: "flash")
    monkeypatch.setattr(
        kernels, "flash_joint", lambda *args, **options: taken.append(1) or interpreted(*args, **options)
    )
    assert_same(outcome(data=4, fsdp=2), wanted)
    assert bool(taken) == joint
    taken.clear()
    assert_same(outcome(data=4, sequence=2), wanted)
    assert not taken
