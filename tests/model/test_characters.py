"""Characters: n-grams, convolutions as JAX's own, and documents of a row that do not influence each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mlm_jax import model as model_room
from mlm_jax.config import default_config
from mlm_jax.data.loading.batch import Rows
from mlm_jax.model.characters import Convolution, n_gram_buckets

VOCABULARY, RATE, WIDTH = 300, 4, 16


def packed(*documents, length):
    """Return one row of documents, one behind the other."""
    tokens, segments, positions = (np.zeros((1, length), np.int32) for _ in range(3))
    start = 0
    for number, document in enumerate(documents, start=1):
        here = slice(start, start + len(document))
        tokens[0, here], segments[0, here], positions[0, here] = document, number, np.arange(len(document))
        start += len(document)
    return Rows(tokens, segments, positions, np.zeros(1, np.int32))


@pytest.fixture(scope="module")
def model():
    config = default_config()
    config.model.update(
        width=WIDTH,
        heads=2,
        mlp_width=24,
        encoder=({"layers": 2, "weights": "shared"},),
        window=8,
        max_positions=64,
        character_downsampling=RATE,
    )
    graphdef, params = model_room.create(config, vocabulary_size=VOCABULARY, languages=("en",), seed=0)
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda leaf: leaf + jnp.asarray(rng.normal(0, 0.2, leaf.shape), leaf.dtype), params)
    return model_room.merge(graphdef, params)


def document(length, seed):
    return np.random.default_rng(seed).integers(10, VOCABULARY, length)


def test_an_n_gram_has_the_same_buckets_wherever_it_stands_and_ends_with_its_document():
    word = document(6, 0)
    rows = packed(word, np.concatenate([document(3, 1), word]), length=24)
    for n, buckets in enumerate(n_gram_buckets(jnp.asarray(rows.tokens), jnp.asarray(rows.segment_ids)), start=2):
        buckets = np.asarray(buckets[0])
        np.testing.assert_array_equal(buckets[:6], buckets[9:15])  # the last ones are cut by either document's end
        places = [bytes(one) for one in buckets[:15]]
        assert len(set(places)) == 9  # and what differs has other buckets
        changed = rows.tokens.copy()
        changed[0, 2] += 1
        other = np.asarray(n_gram_buckets(jnp.asarray(changed), jnp.asarray(rows.segment_ids))[n - 2][0])
        assert np.flatnonzero((other != buckets).any(axis=1)).tolist() == list(range(max(3 - n, 0), 3))


def test_documents_that_begin_with_a_slot_are_encoded_as_alone(model):
    first, second = document(12, 0), document(9, 1)
    encode = jax.jit(model.encode)
    both = encode(packed(first, second, length=24))[0]
    for text, start in ((first, 0), (second, 12)):
        alone = encode(packed(text, length=24))[0, : len(text)]
        np.testing.assert_allclose(both[start : start + len(text)], alone, atol=2e-5)


def test_no_document_sees_another_one_in_the_same_slot(model):
    # The third slot holds the end of one document and the start of the other.
    rows = packed(document(10, 0), document(9, 1), length=24)
    encode = jax.jit(model.encode)
    hidden = np.asarray(encode(rows)[0])
    for place, others in ((3, slice(10, 19)), (9, slice(10, 19)), (10, slice(0, 10)), (18, slice(0, 10))):
        tokens = rows.tokens.copy()
        tokens[0, place] += 1
        changed = np.asarray(encode(rows._replace(tokens=tokens))[0])
        np.testing.assert_array_equal(changed[others], hidden[others])
        own = slice(0, 10) if place < 10 else slice(10, 19)
        # All characters of its own document change it, through the slots.
        assert (np.abs(changed[own] - hidden[own]).max(axis=1) > 1e-6).all()


def test_convolutions_are_those_of_jax():
    config = default_config()
    config.model.update(width=WIDTH, character_downsampling=RATE)
    layer = Convolution(config.model, 6, rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.arange(WIDTH) / WIDTH
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 12, 6)), jnp.float32)

    def lax(stride, padding):
        return (
            jax.lax.conv_general_dilated(
                x, layer.kernel[...], (stride,), [padding], dimension_numbers=("NWC", "WIO", "NWC")
            )
            + layer.bias[...]
        )

    np.testing.assert_allclose(layer.strided(x.reshape(2, 3, RATE, 6)), lax(RATE, (0, 0)), atol=1e-5)
    segments = jnp.ones((2, 12), jnp.int32)
    np.testing.assert_allclose(layer.same(x, segments), lax(1, ((RATE - 1) // 2, RATE // 2)), atol=1e-5)
