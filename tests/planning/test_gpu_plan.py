"""Plans for GPUs: a small step compiled for H100s, whose memory and kernels must not grow.

The compiler is JAX's CUDA plugin, 4 GB that CI does not install; the tests are skipped without it. Run them after a change
to the step: ``pip install -e '.[test,cuda]' && pytest -m slow tests/planning/test_gpu_plan.py`` (two minutes on two idle cores).
"""

import json

import jax
import pytest

from mlm_jax import cli
from mlm_jax.parallel import chips, devices
from mlm_jax.parallel.topology import parse
from mlm_jax.planning import plan
from tests.planning.test_plan import small

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not devices.cuda_installed(), reason=f"no CUDA plugin: {devices.INSTALL_CUDA}"),
]

# Values of jax 0.10.2 and its plugin for CUDA 13; if a change lowers them, write the new ones here.
GOLDEN = {  # {topology: (bytes of temporaries, copies, dynamic-update-slices, collectives, bytes that they send)}
    "H100:1": (133_190_184, 10, 0, 0, 0),
    "H100:8": (58_428_056, 24, 0, 7, 8_987_062),
}


@pytest.fixture(scope="module", autouse=True)
def optimized():
    """conftest.py switches optimizations off for CPU; here the program is what counts."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def plans():
    made = {}
    for name in GOLDEN:
        config, topology = small(), parse(name)
        config.mesh.fsdp = topology.chips
        made[name] = plan.plan(config, topology)
    return made


@pytest.mark.parametrize("name", GOLDEN)
def test_a_step_for_h100_does_not_grow(plans, name):
    made = plans[name]
    assert made.memory.fits and not made.simulated
    collectives = made.work.collectives.values()
    found = (
        made.memory.temporaries,
        made.work.kernels["copies"],
        made.work.kernels["dynamic-update-slices"],
        sum(one.count for one in collectives),
        sum(one.sent for one in collectives),
    )
    assert all(number <= 1.05 * golden for number, golden in zip(found, GOLDEN[name], strict=True)), found


def test_the_plan_is_of_the_card_and_not_of_this_machine(plans):
    one, eight = plans.values()
    assert one.dtype == eight.dtype == "bfloat16"
    assert one.memory.capacity == 0.75 * chips.CHIPS["H100"].hbm_bytes
    assert one.work.kernels["custom kernels"] == 4 * 4, (
        "four layers' attention: RoPE, one kernel forward and two backward"
    )
    assert one.work.collectives == {} and eight.work.network == {} and one.work.unknown_loops == 0
    total, each = eight.parameters["encoder"]
    assert each == pytest.approx(total / 8, rel=0.02)
    # The state is eight times smaller on each of eight cards; the gathered weights of these small layers are not.
    assert eight.memory.arguments == pytest.approx(one.memory.arguments / 8, rel=0.05)
    assert eight.memory.temporaries < one.memory.temporaries / 2


def test_bounds_and_expectation_follow_from_the_work(plans):
    for made in plans.values():
        bounds = made.roofline
        assert bounds.matmul == made.flops.executed / (parse(made.topology).chips * chips.CHIPS["H100"].peak_flops)
        assert bounds.seconds <= bounds.expected_seconds
        assert bounds.expected_tokens_per_second == pytest.approx(made.tokens / bounds.expected_seconds)


@pytest.mark.parametrize("name", ["T4", "L4", "A100", "B200"])
def test_cards_of_every_age_are_compiled_for(name):
    config = small()
    config.mesh.fsdp, config.model.encoder = 1, ({"layers": 1, "weights": "shared"},)
    made = plan.plan(config, parse(f"{name}:1"))
    assert made.memory.fits and not made.simulated and made.roofline.expected_seconds > 0
    # A T4 is too old for flash attention.
    assert made.work.kernels["custom kernels"] == (0 if name == "T4" else 4)


def test_hosts_talk_over_the_network(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
    config = tmp_path / "config.py"
    config.write_text("from tests.planning.test_plan import small as get_config\n")
    arguments = [
        "plan",
        "--config",
        str(config),
        "--topology",
        "h100:2x2",
        "--set",
        "model.encoder=({'layers': 1},)",
        "--set",
        "mesh.fsdp=2",
        "--json",
    ]
    assert cli.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["topology"] == "H100:2x2" and not found["simulated"] and found["memory"]["fits"]
    # Weights are gathered within a host, gradients are added up between the hosts: each card sends its half.
    assert set(found["network"]) == {"all-reduce"} and "all-gather" in found["collectives"]
    gradients = sum(each for _, each in found["parameters"].values())
    assert 0.9 * gradients < sum(one["sent"] for one in found["network"].values()) < 1.3 * gradients
    assert found["roofline"]["network"] > 0
