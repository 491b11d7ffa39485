"""Joining the processes of a job, from flags or from the environment of Cloud TPU, GKE or Slurm."""

import http.server
import os
import threading

import jax
import pytest
from jax._src import cloud_tpu_init, clusters
from jax._src.clusters import cloud_tpu_cluster

from mlm_jax.cli import main
from mlm_jax.common.errors import UserError
from mlm_jax.parallel import multihost

SLURM = {
    "SLURM_JOB_ID": "4242",
    "SLURM_STEP_NODELIST": "localhost,node[2-4]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
GKE = {"TPU_WORKER_HOSTNAMES": "localhost,job-1,job-2,job-3", "TPU_WORKER_ID": "3", "TPU_SKIP_MDS_QUERY": "true"}
SLICES = {"MEGASCALE_COORDINATOR_ADDRESS": "localhost", "MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"}
VARIABLES = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234", "JAX_NUM_PROCESSES": "8", "JAX_PROCESS_ID": "5"}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """An environment without a trace of a cluster, and what JAX makes of the one that a test sets."""
    for name in os.environ:
        if name.startswith(
            ("SLURM_", "TPU_", "MEGASCALE_", "JAX_COORDINATOR", "JAX_NUM_PROC", "JAX_PROCESS", "KUBERNETES_")
        ):
            monkeypatch.delenv(name)
    joined = []

    def initialize(coordinator_address=None, num_processes=None, process_id=None, local_device_ids=None, **rest):
        address = coordinator_address or os.environ.get("JAX_COORDINATOR_ADDRESS")
        joined.append(
            clusters.ClusterEnv.auto_detect_unset_distributed_params(
                address, num_processes, process_id, local_device_ids, None, 10
            )
        )

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(jax.config, "update", lambda *change: None)  # gloo would be meant for this whole test process
    return joined


def on_a_tpu(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "tpu,cpu")
    for module in (cloud_tpu_init, cloud_tpu_cluster):
        monkeypatch.setattr(module, "running_in_cloud_tpu_vm", True)


def set_all(monkeypatch, values):
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_alone(environment):
    multihost.initialise()
    assert environment == []


def test_flags(environment):
    multihost.initialise("10.0.0.1:1234", 8, 5)
    assert environment[0][:3] == ("10.0.0.1:1234", 8, 5)


def test_variables_of_plain_launchers(environment, monkeypatch):
    set_all(monkeypatch, VARIABLES)
    multihost.initialise()
    assert environment[0][:3] == ("10.0.0.1:1234", 8, 5)


def test_slurm(environment, monkeypatch):
    set_all(monkeypatch, SLURM)
    multihost.initialise()
    ((address, count, index, devices),) = environment
    assert address.startswith("localhost:") and (count, index, devices) == (4, 2, [0])  # a GPU each


def test_slurm_with_one_task_a_node_gets_all_gpus_of_the_node(environment, monkeypatch):
    set_all(monkeypatch, SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "SLURM_GPUS_ON_NODE": "8"})
    multihost.initialise()
    assert environment[0][3] == list(range(8))


def test_one_slurm_task_is_alone(environment, monkeypatch):
    set_all(monkeypatch, {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "1"})
    multihost.initialise()
    assert environment == []


class Metadata(http.server.BaseHTTPRequestHandler):
    """The metadata server of the second of four hosts of a Cloud TPU VM; on GKE, JAX asks it for slices only."""

    attributes = {
        "agent-worker-number": "1",
        "worker-network-endpoints": "localhost,10.0.0.2,10.0.0.3,10.0.0.4",
        "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'\nWORKER_ID: '1'",
    }

    def do_GET(self):
        value = self.attributes.get(self.path.rsplit("/", 1)[1])
        self.send_response(404 if value is None else 200)
        self.end_headers()
        self.wfile.write((value or "").encode())

    def log_message(self, *arguments):
        """Say nothing."""


@pytest.fixture
def metadata(monkeypatch):
    pytest.importorskip("requests")  # JAX asks the metadata server with it
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield
    server.shutdown()
    server.server_close()


def test_gke(environment, monkeypatch, metadata):
    on_a_tpu(monkeypatch)
    set_all(monkeypatch, GKE)
    multihost.initialise()
    assert environment[0][:3] == ("localhost:8482", 4, 3)


def test_slices_on_gke(environment, monkeypatch, metadata):
    on_a_tpu(monkeypatch)
    set_all(monkeypatch, GKE | SLICES)
    multihost.initialise()
    assert environment[0][:3] == ("localhost:8482", 8, 7)


def test_cloud_tpu_vm(environment, monkeypatch, metadata):
    on_a_tpu(monkeypatch)
    multihost.initialise()
    assert environment[0][:3] == ("localhost:8482", 4, 1)


def test_a_cpu_run_on_a_tpu_host_is_alone(environment, monkeypatch):
    on_a_tpu(monkeypatch)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    multihost.initialise()
    assert environment == []


def without(values, name):
    return {key: value for key, value in values.items() if key != name}


@pytest.mark.parametrize(
    "values, told",
    [
        *[(without(VARIABLES, name), f"{name} is missing") for name in VARIABLES],
        *[(without(SLURM, name), f"{name} is missing") for name in SLURM if name != "SLURM_NTASKS"],
        (without(GKE, "TPU_WORKER_ID"), "TPU_WORKER_ID is missing"),
        *[(without(GKE | SLICES, name), f"{name} is missing") for name in SLICES],
        (VARIABLES | {"JAX_PROCESS_ID": "8"}, "JAX_PROCESS_ID 8 is not one of JAX_NUM_PROCESSES 8"),
        (VARIABLES | {"JAX_PROCESS_ID": "two"}, "JAX_PROCESS_ID is 'two', which is not a number"),
        (VARIABLES | {"JAX_COORDINATOR_ADDRESS": "10.0.0.1"}, "'10.0.0.1' is not HOST:PORT"),
        (GKE, "there is no TPU here"),
    ],
)
def test_an_environment_set_by_half_is_told(environment, monkeypatch, values, told):
    set_all(monkeypatch, values)
    with pytest.raises(UserError, match=told):
        multihost.initialise()
    assert environment == []


@pytest.mark.parametrize(
    "flags, told",
    [
        (("--coordinator", "10.0.0.1:1234"), "give --process-count and --process-index as well"),
        (("--process-count", "2", "--process-index", "0"), "give --coordinator as well"),
        (
            ("--coordinator", "10.0.0.1:1234", "--process-count", "2", "--process-index", "2"),
            "--process-index 2 is not one of",
        ),
        (("--coordinator", "10.0.0.1", "--process-count", "2", "--process-index", "0"), "'10.0.0.1' is not HOST:PORT"),
    ],
)
def test_flags_given_by_half_are_told_with_exit_code_2(environment, tmp_path, capsys, flags, told):
    (tmp_path / "config.py").write_text("from mlm_jax.config import default_config as get_config\n")
    assert main(["train", "--config", str(tmp_path / "config.py"), "--workdir", str(tmp_path / "run"), *flags]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists() and environment == []
