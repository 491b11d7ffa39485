"""Characters to slots and back against transformers' CANINE (its ``CharactersToMolecules`` and ``ConvProjection``)."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import CanineConfig
from transformers.models.canine.modeling_canine import CharactersToMolecules, ConvProjection

from mlm_jax.config import default_config
from mlm_jax.data.loading.batch import Rows
from mlm_jax.model.block import Scope
from mlm_jax.model.characters import CharacterEncoder

WIDTH, LENGTH = 16, 32


@pytest.fixture(scope="module", params=(4, 3), ids="rate {}".format)
def rate(request):
    return request.param


@pytest.fixture(scope="module")
def theirs(rate):
    torch.manual_seed(0)
    config = CanineConfig(
        hidden_size=WIDTH, downsampling_rate=rate, upsampling_kernel_size=rate, hidden_act="gelu", layer_norm_eps=1e-6
    )
    layers = CharactersToMolecules(config).eval(), ConvProjection(config).eval()
    for layer in layers:
        for weight in layer.parameters():
            torch.nn.init.normal_(weight, 0.2, 0.5)
    return layers


@pytest.fixture(scope="module")
def ours(rate, theirs):
    """The character encoder with their weights, and layers of characters that pass on what they are given."""
    config = default_config().model
    config.update(
        width=WIDTH,
        heads=2,
        mlp_width=24,
        window=8,
        character_downsampling=rate,
        norm="layer",
        norm_epsilon=1e-6,
        activation="geglu",
        biases=("norm",),
    )
    encoder = CharacterEncoder(config, rngs=nnx.Rngs(0))

    def array(weight):
        return jnp.asarray(weight.detach().numpy())

    for (convolution, norm), layer in zip(
        ((encoder.down, encoder.down_norm), (encoder.up, encoder.up_norm)), theirs, strict=True
    ):
        convolution.kernel[...] = array(layer.conv.weight).transpose(2, 1, 0)  # torch: [width, inputs, r]
        convolution.bias[...] = array(layer.conv.bias)
        norm.scale[...], norm.bias[...] = array(layer.LayerNorm.weight), array(layer.LayerNorm.bias)
    for block in (encoder.first, encoder.last):
        for layer in (block.attention.output, block.mlp.down):
            layer.kernel[...] = jnp.zeros_like(layer.kernel[...])
    return encoder


def rows_of_one_document(length):
    ones = np.ones((2, length), np.int32)
    return Rows(ones, ones, np.cumsum(ones, axis=1) - 1, np.zeros(2, np.int32))


@pytest.mark.parametrize("length", (LENGTH, LENGTH + 1))
def test_slots_and_characters_are_those_of_canine(ours, theirs, rate, length):
    x, rows = np.random.default_rng(1).normal(size=(2, length, WIDTH)).astype(np.float32), rows_of_one_document(length)
    scope = Scope(jnp.asarray(rows.segment_ids))
    fine, slots = ours.downsample(jnp.asarray(x), rows, scope, None)
    np.testing.assert_array_equal(fine, x)
    with torch.no_grad():
        # CANINE puts the first character in front of its slots and drops the last slot instead; a slot that the row
        # does not fill is none of its own either.
        molecules = theirs[0](torch.tensor(x))[:, 1:].numpy()
    np.testing.assert_allclose(slots.hidden[:, : molecules.shape[1]], molecules, atol=2e-5)

    repeated = np.repeat(np.asarray(slots.hidden), rate, axis=1)[:, :length]
    with torch.no_grad():
        characters = theirs[1](torch.tensor(np.concatenate([x, repeated], axis=-1))).numpy()
    np.testing.assert_allclose(ours.upsample(fine, slots, scope, None), characters, atol=2e-5)
