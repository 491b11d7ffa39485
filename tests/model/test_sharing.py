"""Language-indexed weights that the mesh splits by group."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mlm_jax.config import default_config
from mlm_jax.model.sharing import take
from mlm_jax.parallel.mesh import make_mesh


def test_no_device_adds_up_the_gradients_of_all_groups():
    config = default_config()
    config.mesh.fsdp = 2
    mesh = make_mesh(config.mesh, jax.devices()[:4])
    groups, rows = (NamedSharding(mesh, P(axes)) for axes in ("fsdp", ("data", "fsdp")))
    weights = jax.ShapeDtypeStruct((8, 16, 24), jnp.float32, sharding=groups)
    index = jax.ShapeDtypeStruct((8,), jnp.int32, sharding=rows)
    slope = jax.ShapeDtypeStruct((8, 16, 24), jnp.float32, sharding=rows)

    def program(take):
        gradient = jax.grad(lambda weights, index, slope: (take(weights, index) * slope).sum())
        with jax.set_mesh(mesh):
            return jax.jit(gradient, out_shardings=groups).lower(weights, index, slope).compile().as_text()

    whole = "f32[8,16,24]"
    assert whole not in program(take)
    assert whole in program(lambda weights, index: weights[index])
