"""The benchmarks of a GPU run on a CPU from end to end, without TensorFlow and seqio; their numbers mean nothing there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(tmp_path, *command):
    """Run a benchmark in which importing TensorFlow or seqio fails, in its own processes too, and return its result."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['tensorflow'] = sys.modules['seqio'] = None\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"PYTHONPATH": path}
    file = tmp_path / "result.json"
    subprocess.run([sys.executable, *command, "--tiny", "--json", str(file)], cwd=ROOT, env=environment, check=True)
    return json.loads(file.read_text())


@pytest.mark.slow
def test_the_step_beside_torchs(tmp_path):
    found = run(tmp_path, "benchmarks/gpu_step.py", "--steps", "2")
    assert set(found["sides"]) == {"ours at 4", "sdpa at 4", "ours at 8", "sdpa at 8"}
    assert all(side["tokens_per_second"] > 0 for side in found["sides"].values())
    assert found["ceiling"]["flops_per_second"] > 0 and max(found["ceiling"]["gradient_errors"].values()) < 1e-2
    assert set(found["times_torch"]) == {"same_rows", "best"}
    stages = found["profile"]["stages"]
    assert {"attention", "feed_forward", "cross_entropy", "optimizer"} <= set(stages) and min(stages.values()) > 0
    assert abs(sum(stages.values()) - found["profile"]["milliseconds"]) < 1e-6


@pytest.mark.slow
def test_embedding_and_translating_beside_torchs(tmp_path):
    found = run(tmp_path, "-m", "benchmarks.gpu_use", "--runs", "1")
    assert set(found) == {"embed", "translate, greedy", "translate, 4 beams"}
    assert found["embed"]["least_cosine"] > 0.9999
    assert all(side["per_second"] > 0 for what in found.values() for side in (what["ours"], what["torch"]))


@pytest.mark.slow
def test_all_in_one_call_that_keeps_what_it_measured(tmp_path):
    found = run(tmp_path, "benchmarks/gpu_all.py", "--only", "tiny-sharing,embed", "--together", "2")
    assert set(found["times_torch"]) == {"tiny-sharing, 8 rows", "embed"} and min(found["times_torch"].values()) > 0
    found = run(tmp_path, "benchmarks/gpu_all.py", "--only", "tiny", "--minutes", "0.2")
    missing = [side["failed"] for sides in found["measured"].values() for side in sides.values() if "failed" in side]
    assert missing and all(why.startswith("no time left") for why in missing)
