import dataclasses
import math
import os
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.parallel import batches, compiler_options, huge_pages
from mlm_jax.parallel.axes import mesh_shape
from mlm_jax.parallel.chips import CHIPS
from mlm_jax.parallel.mesh import device_memory, make_mesh
from mlm_jax.parallel.rules import constrain, parameter_shardings, partition_spec


def shape(**changes):
    return default_config().mesh.to_dict() | changes


def test_minus_one_takes_what_remains():
    assert mesh_shape(shape(tensor=2), 8) == {"data": 4, "fsdp": 1, "tensor": 2, "sequence": 1}
    assert make_mesh(shape(fsdp=2, sequence=2)).shape == {"data": 2, "fsdp": 2, "tensor": 1, "sequence": 2}
    assert make_mesh(shape(slices=2, data=4, fsdp=2)).shape["data"] == 4


def test_devices_of_several_tpu_slices_are_not_taken_for_one():
    class Device(NamedTuple):
        slice_index: int
        platform: str

    found = [Device(index // 4, "tpu") for index in range(8)]
    with pytest.raises(UserError, match=r"mesh.slices=1, but the devices are of 2 slices. Remedy: set mesh.slices=2"):
        make_mesh(shape(), found)
    with pytest.raises(UserError, match="the devices are of 2 slices"):
        make_mesh(shape(slices=4), found)


@pytest.mark.parametrize(
    "changes",
    [
        {"tensor": 3},
        {"data": 2, "fsdp": 2},
        {"data": -1, "fsdp": -1},
        {"data": 0},
        {"data": 16},
        {"slices": 3},
        {"slices": 0},
    ],
)
def test_impossible_meshes(changes):
    with pytest.raises(UserError, match=r"mesh\.(data|slices)="):
        mesh_shape(shape(**changes), 8)


@pytest.mark.parametrize(
    "changes, devices, advised",
    [
        ({"fsdp": 16}, 8, "--set mesh.fsdp=8"),
        ({"fsdp": 16, "tensor": 3}, 8, "--set mesh.tensor=1 --set mesh.fsdp=8"),
        ({"data": 2, "fsdp": 2}, 8, "--set mesh.data=4"),
        ({"data": 16}, 8, "--set mesh.data=8"),
    ],
)
def test_a_mesh_that_does_not_fit_is_answered_with_one_that_does(changes, devices, advised):
    with pytest.raises(UserError) as raised:
        mesh_shape(shape(**changes), devices)
    assert raised.value.remedy.endswith(f", such as {advised}")
    settings = dict(part.removeprefix("--set mesh.").split("=") for part in re.split(" (?=--set)", advised))
    made = mesh_shape(shape(**changes | {axis: int(size) for axis, size in settings.items()}), devices)
    assert math.prod(made.values()) == devices


def test_a_mesh_axis_is_used_once_and_only_where_it_divides():
    mesh = make_mesh(shape(fsdp=2, tensor=2))
    assert partition_spec(("embed", "mlp"), mesh) == P("fsdp", "tensor")
    assert partition_spec(("layers", "groups", "embed", "mlp"), mesh) == P(None, "fsdp", None, "tensor")
    assert partition_spec(("groups", "embed"), mesh, (3, 4)) == P(None, "fsdp")  # three groups do not split in two
    assert partition_spec(("rows", "length"), mesh) == P(("data", "fsdp"))
    with pytest.raises(UserError, match="did you mean 'embed'"):
        partition_spec(("embd",), mesh)
    with pytest.raises(UserError, match="do not match an array"):
        parameter_shardings({"a": ("embed",)}, {"a": jnp.zeros((2, 2))}, mesh)


def test_constrain_is_the_identity_without_a_mesh_and_shards_with_one():
    x = jnp.zeros((8, 4))
    assert constrain(x, "rows", "activation_embed") is x
    with jax.set_mesh(make_mesh(shape())):
        y = jax.jit(lambda x: constrain(x * 1, "rows", "activation_embed"))(x)
    assert y.sharding.spec == P("data")


def test_compiler_options_are_known_and_by_platform():
    """XLA refuses names that it does not know; those for several TPU slices are compiled with in tests/test_plan.py."""
    mesh = make_mesh(shape())
    assert compiler_options.compiler_options(mesh) == compiler_options.CPU
    double = jax.jit(lambda x: 2 * x).lower(1.0)
    for options in (compiler_options.CPU, compiler_options.GPU):
        assert double.compile(compiler_options=options)(1.0) == 2
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        double.compile(compiler_options={"xla_gpu_no_such_option": True})


@dataclasses.dataclass(frozen=True)
class Device:
    id: int
    process_index: int


class Layout(NamedTuple):
    """As much of a mesh as tells who reads which rows."""

    devices: np.ndarray


def layout(processes, *sizes):
    """A mesh of eight devices that belong to so many processes, in order."""
    devices = [Device(number, number * processes // 8) for number in range(8)]
    grid = np.empty(8, object)
    grid[:] = devices
    return Layout(grid.reshape(sizes))


@pytest.mark.parametrize(
    "processes, sizes, group, groups",
    [
        (1, (2, 4, 1, 1), 0, 1),
        (4, (2, 4, 1, 1), 2, 4),
        (4, (1, 2, 4, 1), 1, 2),  # tensor is larger than a host: two processes read the same rows
        (4, (1, 1, 1, 8), 0, 1),
    ],
)
def test_a_process_reads_the_rows_of_its_devices(monkeypatch, processes, sizes, group, groups):
    monkeypatch.setattr(jax, "process_index", lambda: 2 if processes > 1 else 0)
    assert batches.row_group.__wrapped__(layout(processes, *sizes)) == (group, groups)


def test_unequal_shares_of_rows_are_refused():
    with pytest.raises(UserError, match="unequal shares of the rows"):
        batches.row_group.__wrapped__(layout(3, 8, 1, 1, 1))


def test_rows_that_devices_cannot_share_are_said_or_refused(caplog):
    mesh = make_mesh(shape(data=2, fsdp=4))
    batches.check_rows({"mlm": {"rows": 16}}, mesh, 2, 1)
    assert not caplog.records
    batches.check_rows({"mlm": {"rows": 16}}, mesh, 4, 1)
    assert "task mlm: 16 rows in 4 microbatches cannot be shared by mesh.data · mesh.fsdp = 8" in caplog.text
    with pytest.raises(UserError, match="the 12 rows of task 'mlm' cannot be shared"):
        batches.check_rows({"mlm": {"rows": 12}}, mesh, 1, 2)


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are asked for on Linux only")
def test_training_starts_over_once_with_huge_pages():
    """In a process of its own: one that asked for them already, or that said something else, goes on as it is."""
    script = "from mlm_jax.parallel.huge_pages import restart_with_huge_pages as r; import os; print(os.getpid(), flush=True);"
    script += "r(); print(os.environ['GLIBC_TUNABLES'])"
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}

    def lines(**more):
        command = [sys.executable, "-c", script]
        return subprocess.run(
            command, env=environment | more, capture_output=True, text=True, check=True
        ).stdout.split()

    first, second, tunables = lines()
    assert first == second and tunables == huge_pages.TUNABLE
    assert lines(GLIBC_TUNABLES="glibc.malloc.arena_max=1")[1:] == ["glibc.malloc.arena_max=1"]


@pytest.mark.parametrize(
    "kind, stats, memory",
    [
        ("NVIDIA H100 80GB HBM3", {}, CHIPS["H100"].hbm_bytes),  # of the table, so that a plan and a run have the same
        ("NVIDIA GeForce RTX 3060", {"bytes_limit": 9e9}, 9e9),
        ("NVIDIA GeForce RTX 3060", None, math.inf),
    ],
)
def test_memory_of_a_device(monkeypatch, kind, stats, memory):
    device = SimpleNamespace(platform="gpu", device_kind=kind, memory_stats=lambda: stats)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    mesh = SimpleNamespace(devices=np.array([device], object))
    assert device_memory(mesh) == memory


def test_memory_of_cpus_and_of_a_mesh_without_devices_is_not_known():
    mesh = make_mesh(shape())
    assert device_memory(mesh) == device_memory(mesh.abstract_mesh) == math.inf
