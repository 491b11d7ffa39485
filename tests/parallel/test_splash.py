"""Splash attention compiled for TPUs that this machine lacks, and interpreted on rows split along their length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.model.attention import attention
from mlm_jax.model.kernels import splash
from mlm_jax.parallel import devices, topology
from mlm_jax.parallel.batches import batch_sharding
from mlm_jax.parallel.mesh import make_mesh
from mlm_jax.parallel.rules import partition_spec

needs_libtpu = pytest.mark.skipif(not devices.libtpu_installed(), reason=f"no libtpu: {devices.INSTALL_TPU}")
ROWS, LENGTH, HEADS, KV_HEADS, HEAD_DIM = 4, 512, 4, 2, 64


def compiled(name, mesh_sizes, *, implementation="splash", **mask):
    """Return the optimised program of attention and its gradients on a topology."""
    mesh = make_mesh(
        {"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1} | mesh_sizes, devices.devices(topology.parse(name))
    )

    def array(heads):
        shape = (ROWS, LENGTH, heads, HEAD_DIM)
        spec = partition_spec(("rows", "length", "activation_heads", None), mesh, shape)
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=jax.sharding.NamedSharding(mesh, spec))

    segments = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32, sharding=batch_sharding((ROWS, LENGTH), mesh))

    def loss(query, key, value, segment_ids):
        mixed = attention(query, key, value, segment_ids=segment_ids, implementation=implementation, **mask)
        return mixed.astype(jnp.float32).sum()

    with jax.set_mesh(mesh):
        lowered = jax.jit(jax.grad(loss, (0, 1, 2))).lower(array(HEADS), array(KV_HEADS), array(KV_HEADS), segments)
        return lowered.compile().as_text()


@needs_libtpu
@pytest.mark.parametrize("mask", [{}, {"window": 128}, {"causal": True}], ids=["whole", "window", "causal"])
@pytest.mark.parametrize(
    "name, mesh",
    [
        ("v5e:2x2", {"tensor": 2}),
        ("v5p:2x2x1", {"fsdp": 2}),
        ("v6e:2x2", {"sequence": 2}),
    ],
    ids=["v5e", "v5p", "v6e"],
)
def test_splash_compiles_forward_and_backward(name, mesh, mask):
    text = compiled(name, mesh, **mask)
    assert "splash_mha_fwd_segmented" in text and "splash_mha_dkv_segmented" in text


@needs_libtpu
def test_splash_is_what_a_tpu_gets_if_nothing_is_chosen():
    assert "splash_mha_fwd_segmented" in compiled("v5e:2x2", {}, implementation="auto")


@needs_libtpu
def test_a_kernel_of_another_platform_cannot_be_chosen():
    with pytest.raises(UserError, match="cuDNN runs on GPUs, not on TPUs"):
        compiled("v5e:2x2", {}, implementation="cudnn")


@pytest.mark.parametrize("mask", [{}, {"window": 128}, {"causal": True}], ids=["whole", "window", "causal"])
def test_rows_split_along_their_length_see_what_whole_rows_see(mask):
    rng = np.random.default_rng(0)
    query, key, value = (jnp.asarray(rng.normal(size=(2, 256, 2, 64)), jnp.float32) for _ in range(3))
    segments = jnp.asarray(np.repeat([[1, 2, 3, 0], [1, 1, 2, 2]], 64, axis=1), jnp.int32)
    wanted = attention(query, key, value, segment_ids=segments, scale=1.0, implementation="reference", **mask)
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1, "sequence": 2}, jax.devices()[:2])
    options = {"window": 0, "causal": False} | mask
    with jax.set_mesh(mesh):
        found = jax.jit(lambda *args: splash(*args, **options, interpret=True))(query, key, value, segments, segments)
    real = np.asarray(segments) > 0
    np.testing.assert_allclose(np.asarray(found)[real], np.asarray(wanted)[real], atol=2e-5)
