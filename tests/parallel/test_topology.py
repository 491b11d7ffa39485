"""Topologies and chips by name: which exist, and the errors about others."""

import math

import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.parallel import chips, devices, gpu_targets
from mlm_jax.parallel.topology import CUBE, SQUARE, parse

needs_libtpu = pytest.mark.skipif(not devices.libtpu_installed(), reason=f"no libtpu: {devices.INSTALL_TPU}")
needs_cuda = pytest.mark.skipif(not devices.cuda_installed(), reason=f"no CUDA plugin: {devices.INSTALL_CUDA}")

WRONG = [
    ("v5x:4x4", "no chip 'v5x'; did you mean"),
    ("v5e", "no shape"),
    ("v5e:4", "2 dimension"),
    ("v5e:3x5", "write v5e:4x4"),
    ("v5e:4x2", "write v5e:2x4"),
    ("v5p:8x8x9", "write v5p:4x12x12"),
    ("v5p:16x16x32", "no v5p slice"),
    ("v4:4x2x2", "write v4:2x2x4"),
    ("v5p-512", "write v5p:4x8x8"),
    ("V5LitePod-16", "write v5e:4x4"),
    ("2xtpu7x:2x2x1", "several slices"),
    ("2xH100:8", "write H100:2x8"),
    ("H100:12", "number of machines with 8.*H100:8 or H100:16"),
    ("H100:2x16", "write H100:4x8"),
    ("H100:2x2x2", "2 dimension"),
    ("cpu:2x4", "write cpu:8"),
    ("RTX4090:2x4", "network between hosts of RTX4090 is not known"),
    ("gpu:8", "name the chip, such as H100"),
    ("TPU:8", "name the chip, such as v5e"),
    ("MI325X:8", "give your own: --chip"),
    ("H100:0", "no shape"),
    ("H100:8x", "no shape"),
]


@pytest.mark.parametrize("text, problem", WRONG)
def test_wrong_topologies_are_named(text, problem):
    with pytest.raises(UserError, match=problem):
        parse(text)


@pytest.mark.parametrize("name", chips.CHIPS)
def test_names_are_the_same_in_any_case(name):
    shape = "2x2x1" if name in ("v4", "v5p", "tpu7x") else "2x2" if name in ("v5e", "v6e") else "4"
    assert parse(f"{name.upper()}:{shape.upper()}") == parse(f"{name.lower()}:{shape}")
    assert str(parse(f"{name.lower()}:{shape}")) == f"{name}:{shape}"


def test_every_chip_cites_its_source():
    assert all(chip.source.startswith("https://") for chip in chips.CHIPS.values() if chip.peak_flops)


def test_a_cuda_plugin_that_does_not_load_is_a_line(monkeypatch):
    monkeypatch.setattr(devices, "cuda_installed", lambda: True)

    def no_plugin(**options):  # what JAX 0.10 raises
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr(devices.topologies, "get_topology_desc", no_plugin)
    with pytest.raises(
        UserError, match="does not load, so nothing can be compiled for H100:8.*which library is missing"
    ):
        devices.devices(parse("H100:8"))


def test_devices_and_hosts_are_counted():
    assert parse("v5p:8x8x8").device_count == 512 and parse("tpu7x:2x2x1").device_count == 8
    assert str(parse("2xv5e:4x4")) == "2xv5e:4x4" and parse("2xv5e:4x4").device_count == 32
    for text, numbers in {
        "H100:8": (8, 1, 8),
        "h100:4x8": (32, 4, 8),
        "H100:16": (16, 2, 8),
        "H100:3x4": (12, 3, 4),
        "GB200:4x4": (16, 4, 16),
        "GB200:36x4": (144, 36, 72),
    }.items():
        found = parse(text)
        assert (found.chips, found.hosts, found.linked) == numbers


def test_jax_takes_a_share_of_a_gpu(monkeypatch):
    assert parse("H100:1").capacity == 0.75 * chips.CHIPS["H100"].hbm_bytes
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    assert parse("H100:1").capacity == 0.9 * chips.CHIPS["H100"].hbm_bytes
    assert parse("tpu7x:2x2x1").capacity == chips.CHIPS["tpu7x"].hbm_bytes / 2


def test_a_chip_of_ones_own():
    found = parse("Mine:2x4", "hbm=24e9, flops=165e12,bandwidth=1e12,network=1e9,per_host=4")
    assert (found.chip.name, found.chip.hbm_bytes, found.chip.network_bandwidth, found.chips) == ("Mine", 24e9, 1e9, 8)
    assert parse("RTX4090:2x4", "network=1e9").chip.hbm_bytes == chips.CHIPS["RTX4090"].hbm_bytes
    for wrong, problem in {
        "hbm=24e9": "lacks flops, bandwidth",
        "hbn=1": "no field 'hbn'; did you mean 'hbm'",
        "hbm=much": "positive number, not 'much'",
        "hbm=-1": "positive number",
        "hbm": "positive number",
    }.items():
        with pytest.raises(UserError, match=problem):
            parse("Mine:8", wrong)


def test_no_card_is_taken_for_another():
    class Device:
        device_kind = "NVIDIA L4"

    assert chips.chip_of(Device()) is chips.CHIPS["L4"]
    for kind in ("NVIDIA L40S", "NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "cpu"):
        Device.device_kind = kind
        assert chips.chip_of(Device()) is None


@needs_libtpu
@pytest.mark.parametrize("name", ["v5e:1x1", "v6e:1x1"])
def test_one_chip_is_a_topology(name):
    (device,) = devices.devices(parse(name))
    assert chips.chip_of(device) is chips.CHIPS[name[:3]]


@needs_libtpu
@pytest.mark.slow
def test_libtpu_knows_the_shapes():
    for name, shapes in {"v5e": SQUARE, "v6e": SQUARE, "v4": CUBE, "v5p": (*CUBE, (4, 8, 8)), "tpu7x": CUBE}.items():
        for shape in shapes:
            assert len(devices.devices(parse(f"{name}:{'x'.join(map(str, shape))}"))) % math.prod(shape) == 0


@needs_cuda
@pytest.mark.parametrize("name", gpu_targets.TARGETS)
def test_gpus_that_are_not_here_are_devices(name):
    found = devices.devices(parse(f"{name}:2x4", "network=1e9"))
    assert [device.process_index for device in found] == [0] * 4 + [1] * 4
    assert chips.chip_of(found[0]) is chips.CHIPS[name]
