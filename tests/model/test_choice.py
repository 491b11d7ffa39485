"""The choice of the attention implementation, and the messages about it."""

import jax
import jax.numpy as jnp
import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.model import choice
from mlm_jax.model.choice import choices, choose, cudnn_obstacle, flash_obstacle


def shape(length, heads=4, head_dim=64, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct((2, length, heads, head_dim), dtype)


def model(**keys):
    config = default_config()
    config.model.update({"width": 768, "heads": 12} | keys)
    return config.model


def test_cudnn_takes_rows_of_even_length_on_both_sides():
    assert cudnn_obstacle("gpu", shape(128), shape(130), biased=False) is None
    assert "not of 129" in cudnn_obstacle("gpu", shape(129), shape(128), biased=False).problem
    assert "not of 131" in cudnn_obstacle("gpu", shape(128), shape(131), biased=False).problem


@pytest.mark.parametrize(
    "capability, usable",
    [("7.5", False), ("6.1", False), ("8.0", True), ("8.9", True), ("10.0", True), ("12.1", True), ("gfx90a", False)],
)
def test_gpus_before_ampere_and_other_makers_take_the_reference(monkeypatch, capability, usable):
    class Card:
        compute_capability = capability

    monkeypatch.setattr(choice.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(choice.jax, "local_devices", lambda: [Card])
    chosen = choose("auto", shape(512), shape(512), biased=False, here="gpu")
    assert chosen == ("flash" if usable else "reference")
    if not usable:
        for kernel in ("flash", "cudnn"):
            with pytest.raises(UserError, match=f"compute capability 8.0, and this GPU has {capability}"):
                choose(kernel, shape(512), shape(512), biased=False, here="gpu")


def test_heads_that_flash_attention_does_not_take_go_to_cudnn_and_the_log_says_so():
    assert flash_obstacle("gpu", shape(512, head_dim=96), shape(512, head_dim=96), biased=False)
    found = choices(model(width=768, heads=8), 512, here="gpu")
    assert [each.implementation for each in found] == ["cudnn", "cudnn"]
    assert all("16, 32, 64 or 128, not of 96" in each.obstacle.problem for each in found)


def test_a_jax_without_pallas_for_triton_takes_cudnn(monkeypatch):
    monkeypatch.setattr(choice, "has_triton", lambda: False)
    assert choose("auto", shape(512), shape(512), biased=False, here="gpu") == "cudnn"
    assert "JAX" in flash_obstacle("gpu", shape(512), shape(512), biased=False).problem


@pytest.mark.parametrize(
    "keys, remedy",
    [
        ({"dtype": "float32"}, "model.dtype='bfloat16'"),
        ({"width": 756}, "64 or 128 wide"),  # heads of 63
        ({"head_width": 256}, "64 or 128 wide"),
        ({"position": "relative"}, "model.position='rope'"),
    ],
)
def test_what_keeps_a_gpu_from_its_kernel_is_said_with_the_remedy(keys, remedy):
    found = choices(model(**keys), 512, here="gpu")
    assert [each.layers for each in found] == ["encoder, whole rows", "encoder, window of 128"]
    assert all(each.implementation == "reference" and remedy in each.obstacle.remedy for each in found)


@pytest.mark.parametrize("here, implementation", [("gpu", "flash"), ("tpu", "splash"), ("cpu", "reference")])
def test_every_kind_of_layer_is_named_and_none_is_slow_by_default(here, implementation):
    found = choices(model(decoder=({"layers": 2},)), 512, 256, here=here)
    assert [(each.implementation, each.obstacle) for each in found] == [(implementation, None)] * 4
    assert [each.layers for each in found[2:]] == ["decoder", "decoder to encoder"]


def test_t5s_bias_keeps_only_layers_that_have_one_from_the_kernel():
    found = choices(model(decoder=({"layers": 2},), position="relative"), 512, 256, here="gpu")
    assert [each.implementation for each in found] == ["reference", "reference", "reference", "flash"]


def test_short_rows_and_a_reference_that_was_asked_for_are_no_obstacle():
    assert all(each.obstacle is None for each in choices(model(dtype="float32"), 64, here="gpu"))
    assert all(each.obstacle is None for each in choices(model(attention="reference"), 512, here="gpu"))
