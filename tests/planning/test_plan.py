"""Plans: a small config compiled for TPUs, whose memory and collectives must not grow."""

import json
import math
import re
import shlex
from pathlib import Path

import pytest

from mlm_jax import cli
from mlm_jax.commands.options import config_of
from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.parallel import chips, devices, topology
from mlm_jax.planning import plan, search
from mlm_jax.planning.prepare import planned_labels
from tpu import launch

ROOT = Path(__file__).parents[2]

# The extra [test] brings libtpu wherever it exists, which is Linux on x86-64.
needs_libtpu = pytest.mark.skipif(not devices.libtpu_installed(), reason=f"no libtpu: {devices.INSTALL_TPU}")


def small():
    config = default_config()
    config.languages = ("en", "de")
    config.vocabulary.size, config.vocabulary.sentinels = 1024, 8
    config.model.update({"width": 256, "heads": 4, "mlp_width": 256, "global_every": 1})
    config.model.encoder = ({"layers": 4, "weights": "shared"},)
    config.mesh.fsdp = 4
    config.tasks = {"mlm": {"objective": "mlm", "rows": 32, "length": 128, "mask_rate": 0.3}}
    return config


@pytest.fixture(scope="module")
def made():
    return plan.plan(small(), topology.parse("v5e:4x4"))


# Values of jax 0.10.2 and libtpu 0.0.42.1; if a change lowers them, write the new ones here.
GOLDEN_PEAK, GOLDEN_FLOPS, GOLDEN_COLLECTIVES = 23_931_904, 53_993_275_392, 100


@needs_libtpu
def test_a_step_for_v5e_does_not_grow(made):
    assert made.memory.fits and not made.simulated
    assert made.memory.peak <= 1.05 * GOLDEN_PEAK
    assert made.flops.executed <= 1.05 * GOLDEN_FLOPS
    assert sum(one.count for one in made.work.collectives.values()) <= 1.05 * GOLDEN_COLLECTIVES


@pytest.mark.slow
@needs_libtpu
def test_weights_are_gathered_before_they_are_multiplied():
    config = small()
    config.model.encoder, config.mesh.fsdp = ({"layers": 1, "weights": "shared"},), 16
    config.tasks["mlm"]["rows"] = 4096  # activations beyond the 256 MiB from which XLA would multiply shard by shard
    collectives = plan.plan(config, topology.parse("v5e:4x4")).work.collectives
    assert "all-gather" in collectives and "collective-permute" not in collectives


@needs_libtpu
def test_the_plan_is_of_the_topology_and_not_of_this_machine(made):
    assert made.dtype == "bfloat16" and made.mesh == {"data": 4, "fsdp": 4, "tensor": 1, "sequence": 1}
    assert made.tokens == 32 * 128
    assert made.work.unknown_loops == 0
    total, each = made.parameters["encoder"]
    assert total == pytest.approx(4 * 4 * (4 * 256 * 256 + 3 * 256 * 256), rel=0.01)
    assert each == pytest.approx(total / 4, rel=0.01)
    assert made.optimizer["encoder"] == (2 * total, 2 * each)


@needs_libtpu
def test_bounds_follow_from_the_chip(made):
    bounds, chip = made.roofline, chips.CHIPS["v5e"]
    assert bounds.matmul == made.flops.executed / (16 * chip.peak_flops)
    assert bounds.seconds == max(bounds.matmul, bounds.hbm, bounds.links) > 0
    assert bounds.tokens_per_second == pytest.approx(made.tokens / bounds.seconds)
    assert json.loads(json.dumps(made.as_json()))["roofline"]["bound"] == bounds.bound


@pytest.fixture(scope="module")
def two_slices():
    config = small()
    config.mesh.slices = 2
    config.tasks["mlm"]["rows"] = 64
    return plan.plan(config, topology.parse("2xv5e:4x4"))


@needs_libtpu
def test_what_crosses_between_slices_is_told_apart(made, two_slices):
    assert made.work.network == {} and made.roofline.network == 0
    gradients = sum(each for _, each in two_slices.parameters.values())  # float32, sharded over fsdp within each slice
    # Each slice sends its part of the gradients once around the two, bfloat16 at the least and float32 at the most, spread
    # over the devices that hold the same part.
    sent = sum(one.sent for one in two_slices.work.network.values())
    assert 0.4 * gradients / 4 < sent < 1.1 * gradients
    assert two_slices.roofline.network == sent / chips.CHIPS["v5e"].network_bandwidth
    inside = sum(one.sent for one in made.work.collectives.values())
    assert sum(one.sent for one in two_slices.work.collectives.values()) < 1.5 * inside
    assert two_slices.mesh["data"] == 8 and two_slices.tokens == 2 * made.tokens


@needs_libtpu
def test_estimates_are_near_what_the_compiler_says(made):
    config = small()
    found = search.search(config, topology.parse("v5e:4x4"), confirm=0)
    assert not found.compiled and len(found.estimates) > 5 and found.tried > len(found.estimates)
    warned = [bool(search.warning(one.mesh, found.topology)) for one in found.estimates]
    expected = [
        one.roofline.expected_seconds for one in found.estimates if not search.warning(one.mesh, found.topology)
    ]
    assert warned == sorted(warned) and any(warned)
    assert all(one < 1.01 * other for one, other in zip(expected, expected[1:]))
    same = next(one for one in found.estimates if one.mesh == made.mesh)
    state = sum(each for tree in (made.parameters, made.optimizer) for _, each in tree.values())
    assert same.arguments == pytest.approx(state, rel=1e-3)
    assert 0.3 < same.peak / made.memory.peak < 3


@pytest.fixture
def without_cuda(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # whatever a library has set
    monkeypatch.setattr(devices, "cuda_installed", lambda: False)


def test_the_verdict_on_gpus_is_the_formulas(capsys, without_cuda, tmp_path):
    config = tmp_path / "config.py"
    config.write_text("from tests.planning.test_plan import small as get_config\n")
    arguments = ["plan", "--config", str(config), "--topology", "H100:8", "--set", "model.encoder=({'layers': 1},)"]
    assert cli.main(arguments) == 0
    said, meanwhile = capsys.readouterr()
    assert (
        "GB, fits by formula" in said
        and "simulated CPU devices" in said
        and "embedding_norm" in said
        and "<0.001" in said
    )
    peak = re.search(r"fits: ([\d.]+) of 63.707 GB on each device, by the formula", said)[1]
    assert re.search(rf"peak +│ +{peak} │", said), "one number for one thing"
    assert "collective" not in said, "what simulated CPUs send is not what GPUs send"
    assert "compiling the step for H100:8" in meanwhile and "estimated by formula" in meanwhile


def test_a_search_compiles_the_most_promising(capsys, tmp_path):
    config = tmp_path / "config.py"
    config.write_text("from tests.planning.test_plan import small as get_config\n")
    arguments = ["plan", "--config", str(config), "--topology", "cpu:8", "--set", "model.encoder=({'layers': 1},)"]
    assert cli.main([*arguments, "--search", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["plans"]) == 1 and found["plans"][0]["memory"]["fits"]
    assert found["plans"][0]["mesh"] == found["estimates"][0]["mesh"]
    assert cli.main([*arguments, "--search", "0"]) == 0
    said = capsys.readouterr().out
    assert "estimated by formula for cpu:8" in said and "checkpoint: " in said


def test_a_search_for_gpus_fits_by_formula(capsys, without_cuda, tmp_path):
    config = tmp_path / "config.py"
    config.write_text("from tests.planning.test_plan import small as get_config\n")
    arguments = ["plan", "--config", str(config), "--topology", "H100:8", "--set", "model.encoder=({'layers': 1},)"]
    assert cli.main([*arguments, "--search", "1"]) == 0
    said = capsys.readouterr().out
    assert "1 of them compiled for simulated CPU devices" in said and "microbatches" in said
    assert "take --set mesh.data=" in said and "fits: " in said and "within 1 %: the mesh that sends less" in said
    for least in ("0", "1"):
        assert cli.main([*arguments, "--search", least, "--set", "model.mlp_width=2000000000"]) == 2
        assert "no mesh, microbatches or recomputation make this step fit H100:8" in capsys.readouterr().err
    assert cli.main([*arguments, "--search", "-1"]) == 2
    assert "give 0 to estimate only" in capsys.readouterr().err


def test_meshes_split_rows_and_heads_evenly():
    config = small()
    found = list(search.meshes(config, topology.parse("v5e:4x4")))
    assert {"data": 1, "fsdp": 16, "tensor": 1, "sequence": 1} in found
    assert all(32 % (mesh["data"] * mesh["fsdp"]) == 0 and 4 % mesh["tensor"] == 0 for mesh in found)
    config.tasks["mlm"]["rows"] = 12
    meshes = list(search.meshes(config, topology.parse("H100:3x4")))
    assert meshes and all(math.prod(mesh.values()) == 12 for mesh in meshes)
    config.tasks["mlm"] |= {"rows": 2, "length": 1024}  # too few rows for 16 devices: rows are split along their length
    assert {mesh["sequence"] for mesh in search.meshes(config, topology.parse("v5e:4x4"))} >= {4, 8}
    assert all(mesh["data"] % 2 == 0 for mesh in search.meshes(small(), topology.parse("2xv5e:4x4")))


def test_every_tasks_rows_are_shared_evenly():
    config = small()
    config.tasks = {
        "mlm": {"objective": "mlm", "rows": 8, "length": 32},
        "more": {"objective": "mlm", "rows": 12, "length": 32},
    }
    found = search.search(config, topology.parse("cpu:2"), confirm=0)
    assert found.tried
    for one in found.estimates:
        assert all(rows % (one.mesh["data"] * one.mesh["fsdp"] * one.microbatches) == 0 for rows in (8, 12))


def test_rows_that_no_mesh_shares_are_told_from_a_step_that_is_too_large():
    config = small()
    config.tasks["mlm"]["rows"] = 5
    with pytest.raises(UserError, match="no mesh of the 8 devices of cpu:8 shares the rows .* multiple of the devices"):
        search.search(config, topology.parse("cpu:8"), confirm=0)


def test_simulated_devices_have_no_peak(capsys, tmp_path):
    config = tmp_path / "config.py"
    config.write_text("from tests.planning.test_plan import small as get_config\n")
    arguments = [
        "plan",
        "--config",
        str(config),
        "--topology",
        "cpu:8",
        "--set",
        "model.encoder=({'layers': 1},)",
        "--json",
    ]
    assert cli.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["simulated"] and found["roofline"] is None and found["dtype"] == "float32"
    assert found["collectives"]["all-reduce"]["count"] > 0
    assert found["answer"]["by"] == "compiler" and found["answer"]["fits"] and found["answer"]["expected"] is None


@pytest.mark.parametrize("name", ["docs/scale.md", "docs/launch.md"])
def test_commands_of_the_docs_name_meshes_that_fit(name, monkeypatch):
    """Each command is one that plans: options, config, topology and mesh are checked, and nothing is compiled."""
    monkeypatch.chdir(ROOT)
    text = re.sub(r"\\\n\s*", "", (ROOT / name).read_text())
    commands = re.findall(
        r"^ *(mlm-jax plan --config .*|python -m tpu\.launch --config .*--dry-run)", text, re.MULTILINE
    )
    assert commands
    for command in commands:
        words = shlex.split(command, comments=True)
        if words[0] == "python":
            assert launch.main(words[3:]) == 0
            continue
        options = cli.build_parser().parse_args(words[1:])
        where = topology.parse(options.topology, options.chip)
        if options.search is None:
            topology.check_mesh(config_of(options).mesh, where)


def test_the_layout_of_a_search_names_the_slices():
    found = search.search(small(), topology.parse("2xv5e:4x4"), confirm=0)
    assert "--set mesh.slices=2 " in search.settings(found.estimates[0], found.topology)
    assert "slices" not in search.settings(found.estimates[0], topology.parse("v5e:4x8"))


def test_slices_of_mesh_and_topology_must_agree():
    with pytest.raises(UserError, match="1 slice.*mesh.slices is 2"):
        config = small()
        config.mesh.slices = 2
        plan.plan(config, topology.parse("v5e:4x4"))


TWO_MACHINES = topology.parse("MI300X:2x4")  # no compiler here supports it


@pytest.mark.parametrize("where", [pytest.param(topology.parse("v5e:4x4"), marks=needs_libtpu), TWO_MACHINES], ids=str)
def test_rows_that_training_would_refuse_are_refused(where):
    """Several machines read the rows, and cannot put them together where the devices' shares are unequal."""
    config = small()
    config.tasks["mlm"]["rows"] = 6
    with pytest.raises(UserError, match="the 6 rows of task 'mlm' cannot be shared by mesh.data · mesh.fsdp = "):
        plan.plan(config, where)


def test_labels_must_be_known_without_data():
    config = small()
    config.tasks = {"topic": {"objective": "classification", "rows": 8, "length": 16}}
    with pytest.raises(UserError, match="number of labels"):
        planned_labels(config)
