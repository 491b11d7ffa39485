"""What is launched where: golden files of every command, the schemas of others, and a stand-in gcloud that fails on demand."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from mlm_jax.common.errors import UserError
from mlm_jax.parallel.topology import parse
from tpu import launch, needs
from tpu.cloud_tpu import CloudTpu
from tpu.job import Job
from tpu.shell import Shell

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"
COMMON = [
    "--config",
    "configs/mmbert_base.py",
    "--workdir",
    "mmbert",
    "--set",
    "steps=100",
    "--set",
    "data.store=/mnt/runs/store",
]
SECRET = "not to be seen"
CLOUD = ["--zone", "us-west4-a", "--project", "my-project", "--bucket", "my-runs"]
LAUNCHES = {
    "tpu_vm": [*CLOUD, "--topology", "v5e:4x4", "--spot"],
    "queued": [*CLOUD, "--topology", "v5p:8x8x8", "--target", "queued"],
    "gke": [
        "--bucket",
        "my-runs",
        "--image",
        "repository/mlm_jax:1",
        "--topology",
        "2xv6e:16x16",
        "--target",
        "gke",
        "--spot",
        "--set",
        "mesh.slices=2",
    ],
    "reserved": [*CLOUD, "--topology", "v5p:4x4x16", "--target", "queued", "--reservation", "tuesday"],
    "network": [
        *CLOUD,
        "--topology",
        "v5e:2x2",
        "--service-account",
        "me@p.iam.gserviceaccount.com",
        "--network",
        "n",
        "--set",
        "mesh.fsdp=4",
        "--subnetwork",
        "s",
        "--internal-ips",
        "--iap",
        "--env",
        "A=it's",
        "--secret",
        "WANDB_API_KEY",
    ],
    "calendar": [*CLOUD, "--topology", "v5p:4x4x16", "--target", "queued", "--reservation", "tuesday", "--calendar"],
    "slices": [*CLOUD, "--topology", "2xv5e:4x4", "--target", "queued", "--set", "mesh.slices=2"],
    "gke_tpu7x": [
        "--bucket",
        "my-runs",
        "--image",
        "us-docker.pkg.dev/p/r/mlm_jax:1",
        "--topology",
        "tpu7x:2x2x2",
        "--target",
        "gke",
        "--namespace",
        "research",
        "--queue",
        "team",
        "--service-account",
        "trainer",
        "--secret",
        "WANDB_API_KEY",
        "--env",
        "A=b",
        "--set",
        "training.wandb=project",
    ],
    "gke_gpu": ["--bucket", "my-runs", "--image", "repository/mlm_jax:1", "--topology", "H100:16", "--target", "gke"],
    "slurm_one": [
        "--topology",
        "H100:1",
        "--target",
        "slurm",
        "--setup",
        "source venv/bin/activate",
        "--set",
        "mesh.fsdp=1",
        "--env",
        "A=b",
        "--secret",
        "WANDB_API_KEY",
        "--cpus",
        "12",
    ],
    "slurm_array": ["--config", "configs/sweeps/alpha.py", "--sweep", "--topology", "H100:1", "--target", "slurm"],
    "slurm": ["--topology", "H100:16", "--target", "slurm"],
    "skypilot_tpu": ["--bucket", "my-runs", "--topology", "v5e:4x4", "--target", "skypilot", "--spot"],
    "skypilot_gpu": ["--bucket", "my-runs", "--topology", "H100:16", "--target", "skypilot"],
}

PYTHON = f"#!{sys.executable} -IS"  # a stand-in starts in a fraction of the time where no packages are looked for

# A gcloud that writes down its arguments, answers as the real one does, and fails where FAIL says: {words: [exit code,
# what it prints, how many times]}.
GCLOUD = """
import json, os, sys
folder = os.environ["GCLOUD_FOLDER"]
words = " ".join(sys.argv[1:])
with open(f"{folder}/calls", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
with open(f"{folder}/fail.json") as file:
    failures = json.load(file)
for fragment, failure in failures.items():
    if fragment in words and failure[2] > 0:
        failure[2] -= 1
        with open(f"{folder}/fail.json", "w") as file:
            json.dump(failures, file)
        print(failure[1], file=sys.stderr)
        sys.exit(failure[0])
if "describe" in words:
    print(open(f"{folder}/state").read())
"""


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)


@pytest.fixture
def gcloud(tmp_path, monkeypatch):
    """Put the stand-in on PATH; returns (fail, calls, set the state)."""
    program = tmp_path / "bin" / "gcloud"
    program.parent.mkdir()
    program.write_text(PYTHON + GCLOUD)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("GCLOUD_FOLDER", str(tmp_path))
    monkeypatch.chdir(ROOT)
    (tmp_path / "fail.json").write_text("{}")
    (tmp_path / "state").write_text("READY")

    class Stand:
        def fail(self, fragment, code, text, times=1):
            (tmp_path / "fail.json").write_text(json.dumps({fragment: [code, text, times]}))

        def state(self, state):
            (tmp_path / "state").write_text(state)

        def calls(self):
            lines = (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []
            return [" ".join(json.loads(line)) for line in lines]

        def verbs(self):
            known = ("create", "scp", "ssh", "describe", "delete")
            found = (next((word for word in call.split() if word in known), "") for call in self.calls())
            return [verb for verb in found if verb]

    return Stand()


@pytest.mark.parametrize("name", LAUNCHES)
def test_every_command_and_file(name, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert launch.main([*COMMON, *LAUNCHES[name], "--dry-run"]) == 0
    shown, golden = capsys.readouterr().out, GOLDEN / f"{name}.txt"
    if "REWRITE_GOLDEN" in os.environ:
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(shown)
    assert shown == golden.read_text(), "if this is meant, run REWRITE_GOLDEN=1 pytest tests/tpu"


@pytest.mark.parametrize("name, replicas, pods", [("gke", 2, 64), ("gke_tpu7x", 1, 2), ("gke_gpu", 1, 2)])
def test_jobsets_are_what_kubernetes_takes(name, replicas, pods):
    text = (GOLDEN / f"{name}.txt").read_text()
    jobset = yaml.safe_load(text[text.index("apiVersion: jobset") : text.rindex("\n$ kubectl")])
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert set(jobset["spec"]) == {"failurePolicy", "replicatedJobs"}
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert replicated["replicas"] == replicas and set(replicated) == {"name", "replicas", "template"}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "slice"}, **replicated["template"]}
    kubernetes_validate.validate(job, "1.33", strict=True)
    assert job["spec"]["parallelism"] == job["spec"]["completions"] == pods
    (container,) = job["spec"]["template"]["spec"]["containers"]
    subprocess.run(["bash", "-n", "-c", container["command"][-1]], check=True)
    job["spec"]["paralelism"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.33", strict=True)


def test_the_image_is_linted():
    subprocess.run([Path(sys.executable).with_name("hadolint"), ROOT / "Dockerfile"], check=True)


@pytest.mark.parametrize("name", ["slurm", "slurm_one", "slurm_array"])
def test_batch_scripts_are_shell(name):
    script = (GOLDEN / f"{name}.txt").read_text().partition("\n")[2].rpartition("\n$ sbatch")[0]
    assert script.startswith("#!/bin/bash\n#SBATCH")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_neither_jax_nor_tensorflow_is_needed():
    code = (
        "import sys; from tpu import launch; "
        f"code = launch.main({[*COMMON, *LAUNCHES['tpu_vm'], '--dry-run']!r}); "
        "assert not {'jax', 'tensorflow', 'seqio'} & {*sys.modules}, 'imported'; sys.exit(code)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def test_a_bucket_may_be_given_as_an_address(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert launch.main([*COMMON, *LAUNCHES["tpu_vm"], "--bucket", "gs://my-runs/", "--dry-run"]) == 0
    assert capsys.readouterr().out == (GOLDEN / "tpu_vm.txt").read_text()


def test_a_run_from_beginning_to_end(gcloud):
    assert launch.main([*COMMON, *LAUNCHES["tpu_vm"]]) == 0
    golden = [line for line in (GOLDEN / "tpu_vm.txt").read_text().splitlines() if line.startswith("$ gcloud")]
    assert len(gcloud.calls()) == len(golden)  # a dry run shows what a run does
    assert gcloud.verbs()[0] == "create" and gcloud.verbs()[-1] == "delete"


def test_a_slice_that_is_kept(gcloud):
    assert launch.main([*COMMON, *LAUNCHES["tpu_vm"], "--keep"]) == 0
    assert "delete" not in gcloud.verbs()


@pytest.mark.parametrize(
    "printed, said",
    [
        (
            "ERROR: Quota limit 'TPUV5sLitepodPerProjectPerZone' has been exceeded.",
            "no quota for v5litepod-16 in us-west4-a",
        ),
        ("ERROR: RESOURCE_EXHAUSTED: There is no more capacity in the zone", "has no v5litepod-16 left"),
        ("ERROR: Insufficient reserved capacity.", "has no v5litepod-16 left"),
        ("ERROR: (gcloud) ALREADY_EXISTS: Resource already exists", "of the name mmbert-base already"),
        ("ERROR: something new", "cannot be had in us-west4-a: ERROR: something new"),
    ],
)
def test_no_slice_can_be_had(gcloud, capsys, printed, said):
    gcloud.fail("tpu-vm create", 1, printed)
    assert launch.main([*COMMON, *LAUNCHES["tpu_vm"]]) == 2
    assert said in capsys.readouterr().err
    assert gcloud.verbs() == ["create"]  # nothing was created, so nothing is left


def test_preemption_begins_again_with_the_same_workdir(gcloud, capsys):
    gcloud.fail("tail -n +1", 255, "Connection closed by remote host", times=2)
    gcloud.state("PREEMPTED")
    assert launch.main([*COMMON, *LAUNCHES["tpu_vm"]]) == 0
    assert gcloud.verbs().count("create") == 3 and gcloud.verbs().count("delete") == 3
    started = [call for call in gcloud.calls() if "nohup bash ~/mmbert-base.sh" in call]
    assert len(started) == 3 and len(set(started)) == 1
    assert "preempted (2 of at most 11 times)" in capsys.readouterr().out


def test_preempted_too_often(gcloud, capsys):
    gcloud.fail("tail -n +1", 255, "Connection closed by remote host", times=9)
    gcloud.state("PREEMPTED")
    assert launch.main([*COMMON, *LAUNCHES["tpu_vm"], "--retries", "1"]) == 2
    assert "was interrupted 2 times" in capsys.readouterr().err
    assert gcloud.verbs()[-1] == "delete" and gcloud.verbs().count("create") == 2


def test_one_worker_down_is_named_and_the_slice_is_left(gcloud, capsys):
    gcloud.fail("timeout 120", 1, "##### Command execution on worker 3 failed with exit status 2. Continuing.")
    assert launch.main([*COMMON, *LAUNCHES["tpu_vm"]]) == 2
    said = capsys.readouterr().err
    assert "failed on worker 3 of mmbert-base" in said and "tpu-vm delete mmbert-base" in said
    assert "delete" not in gcloud.verbs()


def test_queued_until_there_is_a_slice(gcloud):
    waits = []
    gcloud.state("WAITING_FOR_RESOURCES")

    def sleep(seconds):
        waits.append(seconds)
        gcloud.state("ACTIVE" if len(waits) == 2 else "PROVISIONING")

    (job,) = launch.jobs(launch.parser().parse_args([*COMMON, *LAUNCHES["queued"]]))
    CloudTpu(job, Shell(), queued=True).launch(retries=0, keep=False, sleep=sleep)
    assert len(waits) == 2 and gcloud.verbs()[:4] == ["create", "describe", "describe", "describe"]
    assert gcloud.calls()[-1].startswith("compute tpus queued-resources delete mmbert-base")


def test_a_queue_that_gives_nothing_is_left(gcloud, capsys):
    gcloud.state("FAILED")
    assert launch.main([*COMMON, *LAUNCHES["queued"]]) == 2
    assert "cannot be had" in capsys.readouterr().err and gcloud.verbs()[-1] == "delete"


def interrupt(*arguments):
    raise KeyboardInterrupt


def test_the_terminal_may_be_closed(gcloud, capsys, monkeypatch):
    monkeypatch.setattr(CloudTpu, "follow", interrupt)
    assert launch.main([*COMMON, *LAUNCHES["tpu_vm"]]) == 130
    said = capsys.readouterr().out
    assert "the job goes on" in said and "tpu-vm delete mmbert-base" in said and "delete" not in gcloud.verbs()


def test_an_interrupt_in_the_queue_says_what_may_still_come(gcloud, capsys, monkeypatch):
    monkeypatch.setattr(CloudTpu, "queue_state", interrupt)
    assert launch.main([*COMMON, *LAUNCHES["queued"]]) == 130
    said = capsys.readouterr().out
    assert "mmbert-base may be there already, or still come, and cost money" in said and "follow it" not in said
    assert "queued-resources delete mmbert-base" in said and gcloud.verbs() == ["create"]


def cloud(gcloud, name, **options):
    """Launch with a clock that does not wait; returns how often it was asked to."""
    waits = []
    (job,) = launch.jobs(launch.parser().parse_args([*COMMON, *LAUNCHES[name]]))
    CloudTpu(job, Shell(), queued=name == "queued").launch(retries=0, keep=False, sleep=waits.append, **options)
    return len(waits)


def test_a_connection_that_breaks_is_made_anew(gcloud):
    gcloud.fail("tail -n +1", 255, "Connection closed by remote host", times=3)
    assert cloud(gcloud, "tpu_vm") == 3
    assert gcloud.verbs().count("create") == 1 and gcloud.verbs()[-1] == "delete"


def test_a_lost_connection_is_no_failed_run(gcloud):
    gcloud.fail("tail -n +1", 255, "Connection closed by remote host", times=99)
    with pytest.raises(
        UserError, match="the connection to mmbert-base is lost; what was begun there may go on. Remedy: follow it"
    ):
        cloud(gcloud, "tpu_vm")
    assert "delete" not in gcloud.verbs()


@pytest.mark.parametrize("times, verb", [(3, "ssh"), (99, "delete")])
def test_a_queue_that_cannot_be_looked_at_is_asked_again_and_left_in_the_end(gcloud, times, verb):
    gcloud.state("ACTIVE")
    gcloud.fail("queued-resources describe", 1, "ERROR: UNAVAILABLE", times=times)
    if times == 3:
        assert cloud(gcloud, "queued") == 3
    else:
        with pytest.raises(UserError, match="v5p-1024 cannot be had in us-west4-a: ERROR: UNAVAILABLE"):
            cloud(gcloud, "queued")
    assert verb in gcloud.verbs() and gcloud.verbs()[-1] == "delete"


def test_the_checkout_is_packed_without_what_git_ignores(tmp_path, monkeypatch):
    source = tmp_path / "checkout"
    source.mkdir()
    for name, text in ((".gitignore", "runs/\n"), ("kept.py", ""), ("runs/large", ""), ("a b/new.py", "")):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(text)
    subprocess.run("git init -q . && git add kept.py", shell=True, cwd=source, check=True)
    job = Job("packed", "c.py", "runs", parse("v5e:4x4"), bucket="b", zone="z", source=str(source))
    one = CloudTpu(job, Shell(), queued=False)
    one.pack(tmp_path)
    with tarfile.open(tmp_path / "checkout.tar.gz") as archive:
        assert sorted(archive.getnames()) == [".gitignore", "a b/new.py", "kept.py"]
    (source / "kept.py").unlink()
    with pytest.raises(UserError, match="cannot be packed: .*Remedy: give a git checkout as --source"):
        one.pack(tmp_path)


def test_a_sweep_on_slurm_is_an_array_with_a_task_a_trial(tmp_path):
    script = (GOLDEN / "slurm_array.txt").read_text().partition("\n")[2].rpartition("\n$ sbatch")[0]
    assert "#SBATCH --array=0-4\n" in script
    for name, text in (("srun", 'printf "%s\\n" "$@"'), ("nvidia-smi", "echo 580.1"), ("mlm-jax", "exit 9")):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    shown = [
        subprocess.run(
            ["bash", "-c", script],
            env=environment | {"SLURM_ARRAY_TASK_ID": str(task)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for task in range(5)
    ]
    alphas = [line for words in shown for line in words if line.startswith("mixing.alpha=")]
    assert alphas == [f"mixing.alpha={alpha}" for alpha in (1.0, 0.7, 0.5, 0.3, 0.0)]


def test_secrets_are_neither_shown_nor_on_a_command_line(gcloud, tmp_path, capsys, monkeypatch):
    kept = []
    copy = CloudTpu.copy
    monkeypatch.setattr(
        CloudTpu,
        "copy",
        lambda self, file, name: (kept.append((name, file, file.read_text(), file.stat())), copy(self, file, name)),
    )
    monkeypatch.setattr(
        CloudTpu, "pack", lambda self, scratch: ((scratch / "checkout.tar.gz").touch(), PACK(self, scratch))
    )
    monkeypatch.setattr(Shell, "run", lambda self, command: "" if command[0] == "sh" else RUN(self, command))
    assert launch.main([*COMMON, *LAUNCHES["network"]]) == 0
    (secrets,) = (entry for entry in kept if entry[0] == "mmbert-base.env")
    assert secrets[2] == f"export WANDB_API_KEY='{SECRET}'\n" and secrets[3].st_mode & 0o077 == 0
    assert not secrets[1].exists() and not secrets[1].parent.exists()
    shown = capsys.readouterr()
    assert SECRET not in shown.out + shown.err + "".join(gcloud.calls())
    assert all(SECRET not in text for name, _, text, _ in kept if name != "mmbert-base.env")
    for name in LAUNCHES:
        assert SECRET not in (GOLDEN / f"{name}.txt").read_text()


PACK, RUN = CloudTpu.pack, Shell.run


def test_a_secret_that_is_not_set_is_named_first(gcloud, capsys, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    assert launch.main([*COMMON, *LAUNCHES["network"]]) == 2
    assert "WANDB_API_KEY is not set here" in capsys.readouterr().err and gcloud.calls() == []


@pytest.mark.parametrize("name", ["tpu_vm", "gke"])
def test_a_store_that_is_not_there_is_noticed_before_anything_is_paid_for(gcloud, capsys, name):
    gcloud.fail(
        "storage ls", 1, "ERROR: One or more URLs matched no objects.\nTo find out more, run:\n\n  $ gcloud help"
    )
    assert launch.main([*COMMON, *LAUNCHES[name]]) == 2
    said = capsys.readouterr().err
    assert (
        "no token store at gs://my-runs/store, or it cannot be read: ERROR: One or more URLs matched no objects. Remedy"
        in said
    )
    assert len(gcloud.calls()) == 1


@pytest.mark.parametrize(
    "settings, said",
    [
        (("data.store=",), "data.corpora.af names 'text/af/*.jsonl.zst', which the machines would not have"),
        (("data.store=runs/store",), "data.store names 'runs/store', which the machines would not have"),
        (("checkpoint.init={'from': 'runs/before'}",), 'checkpoint.init["from"] names'),
        (
            ("data.store=", "vocabulary.path=v.model", "data.corpora={'de': '/mnt/runs/text/*.txt'}"),
            "vocabulary.path names 'v.model'",
        ),
        (("data.store=", "data.corpora={'de': '/mnt/runs/text/*.txt', 'en': 'mlm_jax.data.bible:text'}"), ""),
        (("data.store=", "data.corpora={'de': 'README.md'}"), ""),
        (
            ("data.store=", "data.corpora={'de': {'web': '/mnt/runs/a.txt', 'wiki': {'files': 'b.txt', 'epochs': 2}}}"),
            "data.corpora.de:wiki names 'b.txt'",
        ),
        (("data.store=", "data.corpora={'de': {'files': '/mnt/runs/a.txt', 'epochs': 2}}"), ""),
        (
            ("data.store=", "data.corpora={'de': 'README.md'}", "data.validation={'de': 'no.txt'}"),
            "data.validation.de names",
        ),
        (("data.store=s3://other/store",), ""),
    ],
)
def test_what_the_machines_would_not_have(capsys, monkeypatch, settings, said):
    monkeypatch.chdir(ROOT)
    arguments = [
        *COMMON,
        *LAUNCHES["tpu_vm"],
        *(part for setting in settings for part in ("--set", setting)),
        "--dry-run",
    ]
    assert launch.main(arguments) == (2 if said else 0)
    assert said in capsys.readouterr().err


def test_a_folder_that_is_no_checkout_is_copied_whole(tmp_path, monkeypatch):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "de.txt").touch()
    assert needs.copied_files(str(tmp_path)) == ["text/de.txt"]
    monkeypatch.setenv("PATH", str(tmp_path))  # without git
    assert needs.copied_files(str(tmp_path)) == ["text/de.txt"]
    monkeypatch.undo()
    assert "tpu/needs.py" in needs.copied_files(str(ROOT))


def test_text_that_a_cluster_does_not_have(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert launch.main([*COMMON, *LAUNCHES["slurm"]]) == 2
    assert "data.store names '/mnt/runs/store', which is not there" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, verb, commands",
    [
        (
            "tpu_vm",
            "status",
            ["gcloud compute tpus tpu-vm describe mmbert-base --project my-project --zone us-west4-a"],
        ),
        ("queued", "status", ["queued-resources describe mmbert-base", "tpu-vm describe mmbert-base"]),
        (
            "slices",
            "logs",
            ["tpu-vm ssh mmbert-base-0 --project my-project --zone us-west4-a --worker 0 --command 'tail"],
        ),
        ("tpu_vm", "stop", ["kill -TERM $(cat ~/mmbert-base.pid)", "tpu-vm delete mmbert-base"]),
        (
            "gke_tpu7x",
            "status",
            ["kubectl get jobsets,pods -l app.kubernetes.io/name=mmbert-base --namespace research"],
        ),
        ("gke", "logs", ["kubectl logs --follow --tail=-1 -c train -l app.kubernetes.io/name=mmbert-base,batch"]),
        ("gke", "stop", ["kubectl delete jobset mmbert-base"]),
        ("slurm", "status", ["squeue --me --name mmbert-base"]),
        ("slurm", "logs", ["sh -c 'tail -n +1 -F ./mmbert-base.*.log'"]),
        ("slurm_array", "stop", ["scancel --me --name alpha"]),
        ("skypilot_gpu", "status", ["sky jobs queue"]),
        ("skypilot_gpu", "logs", ["sky jobs logs --name mmbert-base"]),
        ("skypilot_gpu", "stop", ["sky jobs cancel --yes --name mmbert-base"]),
    ],
)
def test_what_was_launched_can_be_looked_at_and_stopped(name, verb, commands, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert launch.main([verb, *COMMON, *LAUNCHES[name], "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(commands) and all(command in line for command, line in zip(commands, lines))


@pytest.mark.parametrize(
    "options, extras",
    [
        (["training.wandb=project", "--extra", "beam"], "tpu,wandb,beam"),
        (["data.store=", "data.corpora={'de': 'mlm_jax.data.bible:text'}"], "tpu,demo"),
        (["data.corpora={'de': 'mlm_jax.data.bible:text'}"], "tpu"),  # there is a store
        (["data.store=", "data.corpora={'de': {'web': 'datasets:README.md'}}"], "tpu,datasets"),
        (
            ["data.store=", "data.corpora={'de': 'README.md'}", "data.filters=('length', {'filter': 'language'})"],
            "tpu,filters",
        ),
        (["tasks.ner={'objective': 'token_classification', 'rows': 32, 'length': 64}"], "tpu,metrics"),
    ],
)
def test_extras_follow_from_the_config(capsys, monkeypatch, options, extras):
    monkeypatch.chdir(ROOT)
    given = [part for option in options for part in (("--set", option) if "=" in option else (option,))]
    assert launch.main([*COMMON, *LAUNCHES["tpu_vm"], *given, "--dry-run"]) == 0
    assert f"./mlm_jax[{extras}]" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--topology", "v9:4x4", *CLOUD], "no chip 'v9'"),
        (["--topology", "v5e:4x4", "--bucket", "b"], "no zone was given"),
        (["--topology", "tpu7x:2x2x2", *CLOUD], "tpu7x:2x2x2 is offered on GKE only. Remedy: use --target gke"),
        (
            ["--topology", "v5e:4x4", "--bucket", "b", "--iap", "--target", "skypilot"],
            "--iap means nothing to --target skypilot",
        ),
        (["--topology", "v5e:4x4", *CLOUD, "--target", "queued", "--calendar"], "--calendar needs a reservation"),
        (
            ["--topology", "v5e:4x4", *CLOUD, "--target", "queued", "--reservation", "a\n#SBATCH"],
            "cannot name a reservation",
        ),
        (["--topology", "v5e:4x4", *CLOUD, "--env", "A"], "--env A has no value"),
        (["--topology", "v5e:4x4", *CLOUD, "--env", "A b=c"], "'A b' cannot name an environment variable"),
        (["--topology", "v5e:4x4", "--zone", "z"], "lost with them"),
        (
            ["--topology", "v5e:4x4", *CLOUD, "--bucket", "gs://my-runs/there"],
            "not the name of a bucket. Remedy: give --bucket",
        ),
        (["--topology", "v5e:4x4", *CLOUD, "--workdir", "gs://my-runs/w"], "give its path below the bucket"),
        (["--topology", "v5e:4x4", *CLOUD, "--workdir", "/mnt/runs/w"], "give its path below the bucket"),
        (["--topology", "v5e:4x4", *CLOUD, "--mount", "runs"], "--mount runs is not an absolute path"),
        (
            ["--topology", "2xv5e:4x4", *CLOUD, "--set", "mesh.slices=2"],
            "several slices are created together by the queue",
        ),
        (["--topology", "2xv5e:4x4", *CLOUD], "mesh.slices is 1. Remedy: add --set mesh.slices=2"),
        (["--topology", "v5e:2x4", *CLOUD], "mesh.fsdp=16 × mesh.tensor=1 × mesh.sequence=1 does not fit 8 devices"),
        (["--topology", "H100:16", *CLOUD], "H100:16 is not a TPU. Remedy: use --target slurm"),
        (
            ["--topology", "H100:20", "--target", "slurm", "--set", "mesh.fsdp=4"],
            "whole number of machines with 8 GPUs each. Remedy",
        ),
        (["--topology", "cpu:16", "--target", "slurm"], "cpu:16 cannot be launched: no target offers CPU machines"),
        (["--topology", "v5p-512", *CLOUD], "v5p-512 has 256 chips"),
        (["--topology", "v5e:3x5", *CLOUD], "Cloud TPU has no v5e slice of this shape. Remedy: write v5e:4x4"),
        (["--topology", "H100:16", "--target", "slurm", "--image", "i"], "--image means nothing to --target slurm"),
        (["--topology", "v5e:4x4", *CLOUD, "--reservation", "r"], "or use --target queued or gke or slurm"),
        (
            ["--topology", "v5e:4x4", *CLOUD, "--source", "tests"],
            "configs/mmbert_base.py: the machines would not have this config",
        ),
        (["--topology", "v5e:4x4", "--target", "slurm"], "is not a GPU topology"),
        (["--topology", "v5e:4x4", "--target", "gke", "--bucket", "b"], "no container image was given"),
        (["--topology", "v5e:4x4", "--name", "No_Name", *CLOUD, "--set", "stpes=1"], "did you mean 'steps'"),
    ],
)
def test_what_cannot_be_launched(arguments, said, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert launch.main([*COMMON, *arguments]) == 2
    assert said in capsys.readouterr().err
