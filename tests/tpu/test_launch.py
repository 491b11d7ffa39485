"""The commands and files of each target: golden files, schemas, and jobs that cannot be launched."""

import os
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.tpu.launches import CLOUD, COMMON, GOLDEN, LAUNCHES, ROOT
from tpu import launch, needs

pytestmark = pytest.mark.usefixtures("secret")


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


@pytest.mark.parametrize(
    "wrong, said",
    [
        (["stauts"], "there is no verb 'stauts'; did you mean 'status'?"),
        (["--servce-account", "a"], "--servce-account; did you mean '--service-account'?"),
    ],
)
def test_misspelt_words_are_answered_with_the_nearest(wrong, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        launch.main(["--config", "c.py", "--topology", "v5e:4x4", "--workdir", "w", *wrong])
    assert said in capsys.readouterr().err


def test_a_bucket_may_be_given_as_an_address(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert launch.main([*COMMON, *LAUNCHES["tpu_vm"], "--bucket", "gs://my-runs/", "--dry-run"]) == 0
    assert capsys.readouterr().out == (GOLDEN / "tpu_vm.txt").read_text()


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
def test_files_that_the_machines_would_lack_are_named(capsys, monkeypatch, settings, said):
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
    assert "data.store names '/mnt/runs/store', which does not exist" in capsys.readouterr().err


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
            "--iap has no effect with --target skypilot",
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
        (["--topology", "v5e:4x4", *CLOUD, "--workdir", "../w"], "give its path below the bucket"),
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
        (["--topology", "H100:16", "--target", "slurm", "--image", "i"], "--image has no effect with --target slurm"),
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
def test_jobs_that_cannot_be_launched_are_refused(arguments, said, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert launch.main([*COMMON, *arguments]) == 2
    assert said in capsys.readouterr().err
