"""A run that gets signals at random steps still completes on every target: fakes of their programs really run the job.

The run is a small program that saves and exits as ``mlm-jax train`` does, and, in the slow tests, ``mlm-jax train`` itself.
"""

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from mlm_jax.common.errors import UNFINISHED
from mlm_jax.parallel.topology import parse
from tests.tiny import write_store
from tpu import cloud_tpu, gke, skypilot, slurm
from tpu.cloud_tpu import CloudTpu
from tpu.job import Job
from tpu.shell import Shell

ROOT = Path(__file__).resolve().parents[2]
STEPS, INTERRUPTIONS = 40, 2

SAVES_WHEN_STOPPED = f"""
import json, os, pathlib, signal, sys, time
workdir = pathlib.Path(sys.argv[sys.argv.index("--workdir") + 1])
workdir.mkdir(parents=True, exist_ok=True)
saved, metrics, stopping = workdir / "saved", workdir / "metrics.jsonl", []
signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
for step in range(int(saved.read_text()) if saved.exists() else 0, {STEPS}):
    time.sleep(0.02)
    with metrics.open("a") as file:
        file.write(json.dumps({{"step": step + 1}}) + "\\n")
    if stopping and step + 1 < {STEPS}:
        saved.write_text(str(step + 1))
        sys.exit({UNFINISHED})
"""

CONFIG = """
import sys
sys.path.insert(0, {root!r})
from tests.tiny import tiny_config
def get_config():
    return tiny_config({store!r}, steps={steps})
"""


@pytest.fixture(
    params=[("small program", 0), ("small program", 1), pytest.param(("mlm-jax train", 0), marks=pytest.mark.slow)],
    ids=lambda param: f"{param[0]}-{param[1]}",
)
def program(request):
    """What runs, and the seed of the steps at which it is signalled."""
    return request.param


@pytest.fixture
def machine(program, tmp_path, monkeypatch):
    """A folder that stands for a machine: its home, its programs, its mount; PATH and HOME point into it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    if program[0] == "small program":
        (tmp_path / "program.py").write_text(SAVES_WHEN_STOPPED)
        command = f"exec {sys.executable} -IS {tmp_path}/program.py"
    else:
        store = write_store(tmp_path / "store")
        (tmp_path / "config.py").write_text(CONFIG.format(root=str(ROOT), store=str(store), steps=STEPS))
        command = f"exec {sys.executable} -m mlm_jax.cli"
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    for name, text in (
        ("mlm-jax", f'echo $$ > {tmp_path}/pid\n{command} "$@"'),
        ("sudo", 'exec "$@"'),
        ("mountpoint", "true"),
        ("gcsfuse", "true"),
        ("curl", "true"),
        ("uv", "true"),
        ("chown", "true"),
    ):
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    home = tmp_path / "home"
    (home / ".local").mkdir(parents=True)
    (home / ".local" / "bin").symlink_to(programs)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(ROOT)
    return tmp_path


def job_of(machine, topology, **options):
    mount = f"{machine}/a mount; touch {machine}/injected"  # nothing that goes into a shell line may be read as shell
    return Job("interrupted", str(machine / "config.py"), "run", parse(topology), mount=mount, **options)


def steps_done(workdir):
    file = workdir / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    events = [json.loads(line) for line in lines if line.endswith("\n")]  # the run may be writing the last line
    return [event["step"] for event in events if "step" in event]


class Signals(threading.Thread):
    """Signals the run at random steps; ``state`` is called after each, to change what the machine looks like."""

    def __init__(self, machine, workdir, seed):
        super().__init__(daemon=True)
        self.machine, self.workdir, self.sent = machine, workdir, []
        self.at = sorted(random.Random(seed).sample(range(2, STEPS - 10), INTERRUPTIONS))

    def run(self):
        for step in self.at:
            while max(steps_done(self.workdir), default=0) < step:
                time.sleep(0.01)
            pid = int((self.machine / "pid").read_text())
            os.kill(pid, signal.SIGTERM)
            self.sent.append(step)
            while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
                time.sleep(0.01)


@pytest.fixture
def signals(program, machine):
    def begin(job):
        thread = Signals(machine, Path(job.place), program[1])
        thread.start()
        return thread

    return begin


def check_complete(job, signals):
    steps = steps_done(Path(job.place))
    assert len(signals.sent) == INTERRUPTIONS and steps[-1] == STEPS
    assert [step for step in dict.fromkeys(steps) if step] == list(range(1, STEPS + 1))
    assert not (signals.machine / "injected").exists()


# A gcloud of one worker whose home is HOME: ssh and scp really run; a slice that is deleted loses its home's files.
GCLOUD = """
import json, os, shutil, subprocess, sys
words, machine = sys.argv[1:], os.environ["MACHINE"]
with open(f"{machine}/calls", "a") as file:
    file.write(json.dumps(words) + "\\n")
home = os.environ["HOME"]
if "describe" in words:
    print(open(f"{machine}/state").read())
elif "create" in words:
    open(f"{machine}/state", "w").write("READY")
elif "scp" in words:
    source, target = words[words.index("scp") + 1 : words.index("scp") + 3]
    shutil.copy(source, f"{home}/{target.partition(':')[2]}")
elif "ssh" in words:
    sys.exit(subprocess.run(["sh", "-c", words[words.index("--command") + 1]], cwd=home).returncode)
"""


@pytest.mark.parametrize("state", ["READY", "PREEMPTED"])
def test_cloud_tpu(machine, signals, monkeypatch, state):
    """Whether the slice is still there after the signal or not."""
    program = machine / "bin" / "gcloud"
    program.write_text(f"#!{sys.executable} -IS\n{GCLOUD}")
    program.chmod(0o755)
    monkeypatch.setenv("MACHINE", str(machine))
    job = job_of(machine, "v5e:2x2", bucket="b", zone="z", source=str(ROOT))
    begun = signals(job)

    def sleep(seconds):
        (machine / "state").write_text(state)

    monkeypatch.setattr(cloud_tpu, "install_command", lambda packages: "true")
    CloudTpu(job, Shell(), queued=False).launch(retries=INTERRUPTIONS, keep=False, sleep=sleep)
    check_complete(job, begun)
    calls = [json.loads(line) for line in (machine / "calls").read_text().splitlines()]
    creations = sum("create" in call for call in calls)
    assert creations == (1 if state == "READY" else INTERRUPTIONS + 1) and "delete" in calls[-1]
    kept = [*Path(job.logs).iterdir()]
    assert kept and all(file.name.endswith(".log") for file in kept)


def test_slurm(machine, signals):
    job = Job("interrupted", str(machine / "config.py"), str(machine / "run"), parse("H100:2"), source=str(machine))
    programs = {
        "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
        "scontrol": f"echo $* > {machine}/requeued",
    }
    for name, text in programs.items():
        (machine / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (machine / "bin" / name).chmod(0o755)
    begun, starts = signals(job), 0
    script = slurm.script([job])
    assert "#SBATCH --signal=TERM@" in script  # to the step's tasks; srun itself would turn SIGTERM into SIGKILL
    while starts == 0 or (machine / "requeued").exists():
        (machine / "requeued").unlink(missing_ok=True)
        code = subprocess.run(["bash", "-c", script], env=os.environ | {"SLURM_JOB_ID": "17"}, timeout=300).returncode
        starts += 1
        assert code == 0
    assert starts == INTERRUPTIONS + 1
    check_complete(job, begun)


@pytest.mark.parametrize("code", [1, 2])
def test_a_batch_job_that_fails_is_not_requeued(tmp_path, monkeypatch, code):
    machine = tmp_path
    (machine / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{machine}/bin:{os.environ['PATH']}")
    for name, text in (("srun", f"exit {code}"), ("scontrol", f"touch {machine}/requeued"), ("mlm-jax", "true")):
        (machine / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (machine / "bin" / name).chmod(0o755)
    script = slurm.script([Job("fails", "c.py", "run", parse("H100:2"), source=str(machine))])
    assert subprocess.run(["bash", "-c", script], env=os.environ | {"SLURM_JOB_ID": "17"}).returncode == code
    assert not (machine / "requeued").exists()


def run_job_set(manifest, run):
    """Do what the controllers of Jobs and JobSets do with one pod: returns (how often it was run, how it ended).

    https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy, https://jobset.sigs.k8s.io/docs/concepts/
    """
    job_set = yaml.safe_load(manifest)["spec"]
    job = job_set["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    counted = runs = 0
    while True:
        code, runs = run(container["command"]), runs + 1
        if code == 0:
            return runs, "Completed"
        matches = [
            rule for rule in job["podFailurePolicy"]["rules"] if code in rule.get("onExitCodes", {}).get("values", ())
        ]
        assert job["backoffLimit"] == 0
        reason = "PodFailurePolicy" if matches and matches[0]["action"] == "FailJob" else "BackoffLimitExceeded"
        rules = [rule for rule in job_set["failurePolicy"]["rules"] if reason in rule["onJobFailureReasons"]]
        action = rules[0]["action"] if rules else "RestartJobSet"
        counted += action == "RestartJobSet"
        if counted > job_set["failurePolicy"]["maxRestarts"]:
            return runs, "Failed"


def test_gke(machine, signals):
    job = job_of(machine, "v5e:2x2", bucket="b", image="i")
    begun = signals(job)
    manifest = gke.manifest(job, retries=0)  # interruptions are not counted
    assert run_job_set(manifest, lambda command: subprocess.run(command).returncode) == (INTERRUPTIONS + 1, "Completed")
    check_complete(job, begun)
    assert run_job_set(gke.manifest(job, retries=3), lambda command: 1) == (4, "Failed")


def test_skypilot(machine, signals):
    job = job_of(machine, "v5e:2x2", bucket="b")
    task = yaml.safe_load(skypilot.task(job))
    begun, code, starts = signals(job), None, 0
    while code is None or code in task["resources"]["job_recovery"]["recover_on_exit_codes"]:
        code, starts = subprocess.run(["bash", "-c", task["run"]]).returncode, starts + 1
    assert code == 0 and starts == INTERRUPTIONS + 1
    check_complete(job, begun)


@pytest.mark.parametrize(
    "codes, is_unfinished",
    [
        ((75, 75), True),
        ((75, 0), True),
        ((0, 0), False),
        ((75, 1), False),
        ((), False),
    ],
)
def test_what_all_workers_say_together(codes, is_unfinished):
    output = "".join(f"t1v-w-{worker}: the run ended with exit code {code}\n" for worker, code in enumerate(codes))
    assert cloud_tpu.unfinished(output) == is_unfinished


def test_names_and_places_are_quoted(tmp_path):
    job = Job(
        "quoted",
        "c.py",
        "run $(touch injected)",
        parse("v5e:2x2"),
        mount="/mnt/it's",
        bucket="b",
        zone="z",
        source="a b",
    )
    from tpu import worker

    for text in (worker.script(job), f"echo {shlex.quote(job.mount)}"):
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert "$(touch injected)'" in worker.script(
        job
    ) and "'/mnt/it'\"'\"'s/run $(touch injected)/logs'" in worker.script(job)
