"""Runs on Cloud TPU, with a fake gcloud that fails on demand."""

import os
import signal
import subprocess
import sys
import tarfile

import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.parallel.topology import parse
from tests.processes import wait_for
from tests.tpu.launches import COMMON, GOLDEN, LAUNCHES, ROOT, SECRET
from tpu import launch
from tpu.cloud_tpu import CloudTpu
from tpu.job import Job
from tpu.shell import Shell

pytestmark = pytest.mark.usefixtures("secret")


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
        ("ERROR: (gcloud) ALREADY_EXISTS: Resource already exists", "a TPU with the name mmbert-base already exists"),
        ("ERROR: something new", "cannot be created in us-west4-a: ERROR: something new"),
    ],
)
def test_no_slice_is_available(gcloud, capsys, printed, said):
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
    assert "cannot be created" in capsys.readouterr().err and gcloud.verbs()[-1] == "delete"


def interrupt(*arguments):
    raise KeyboardInterrupt


def test_the_terminal_may_be_closed(gcloud, capsys, monkeypatch):
    monkeypatch.setattr(CloudTpu, "follow", interrupt)
    assert launch.main([*COMMON, *LAUNCHES["tpu_vm"]]) == 130
    said = capsys.readouterr().out
    assert "the job goes on" in said and "tpu-vm delete mmbert-base" in said and "delete" not in gcloud.verbs()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_launch_that_is_ended_leaves_no_files(gcloud, tmp_path, number):
    (tmp_path / "bin" / "gcloud").write_text('#!/bin/sh\ncase "$*" in *create*) exec sleep 60;; esac\n')
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-m", "tpu.launch", *COMMON, *LAUNCHES["tpu_vm"]]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True) as run:
        wait_for(lambda: [*(tmp_path / "tmp").glob(".*/run.sh")])
        os.killpg(run.pid, number)
        said = run.stdout.read().decode()
    assert run.returncode == 130 and "delete it: gcloud" in said and not [*(tmp_path / "tmp").iterdir()]


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
        UserError, match="the connection to mmbert-base is lost; the run there may still continue. Remedy: follow it"
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
        with pytest.raises(UserError, match="v5p-1024 cannot be created in us-west4-a: ERROR: UNAVAILABLE"):
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
