"""Cloud TPU: create a slice (at once, or queued until there is one), install, train on all workers, begin again if preempted.

Commands: https://docs.cloud.google.com/sdk/gcloud/reference/compute/tpus
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlm_jax.common.errors import UserError
from tpu.job import Job, install_command
from tpu.shell import CommandFailed, Shell

TPUS = ("gcloud", "compute", "tpus")
WAITING = ("ACCEPTED", "PROVISIONING", "CREATING", "WAITING_FOR_RESOURCES")  # of a queued resource
LOST = ("PREEMPTED", "TERMINATED", "SUSPENDED", "SUSPENDING", "FAILED")
POLL_SECONDS = 30
PATIENCE = 10  # times in a row that looking at the queue or following a log may fail before it is given up
SSH_FAILED = 255  # exit code of ssh itself, not of what runs there
INSTALL_GCSFUSE = (  # which not all images have
    "command -v gcsfuse || (curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg | "
    "sudo tee /usr/share/keyrings/cloud.google.asc > /dev/null && echo deb '[signed-by=/usr/share/keyrings/cloud.google.asc]' "
    "https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -c -s) main | sudo tee /etc/apt/sources.list.d/gcsfuse.list && "
    "sudo apt-get -q update && sudo apt-get -q install -y gcsfuse)"
)
REASONS = (  # what gcloud prints when it cannot create a slice; what to do
    (r"no more capacity|[Ii]nsufficient.*capacity|[Ss]tockout|ZONE_RESOURCE_POOL_EXHAUSTED",
     "{zone} has no {type} left at the moment",
     "queue for one (--target queued), or take another --zone"),
    (r"[Qq]uota|RESOURCE_EXHAUSTED", "there is no quota for {type} in {zone}",
     "ask for quota in the console (IAM & Admin > Quotas), or take another --zone or --topology"),
    (r"already exists|ALREADY_EXISTS", "there is a TPU of the name {name} already",
     "choose another --name, or delete it: {delete}"),
    (r"PERMISSION_DENIED|permission|auth login", "gcloud may not create TPUs in this project",
     "run gcloud auth login, and check --project"),
)  # fmt: skip


class CloudTpu:
    """The commands of one job on Cloud TPU VMs.

    Args:
      job: what to launch.
      shell: runs or shows the commands.
      queued: whether to queue for the slice.
    """

    def __init__(self, job: Job, shell: Shell, *, queued: bool):
        job.check_one_slice()
        if not job.zone:
            raise UserError("in which zone?", remedy="give --zone, such as --zone us-west4-a")
        job.check_bucket()
        self.job, self.shell, self.queued = job, shell, queued
        self.archive = f"/tmp/{job.name}.tar.gz"
        self.started = False  # whether the run has begun
        self.place = (*(("--project", job.project) if job.project else ()), "--zone", job.zone)

    def launch(self, *, retries: int, keep: bool, sleep: Callable[[float], None] = time.sleep) -> None:
        """Bring the job to its end, on as many slices as are taken away meanwhile.

        Args:
          retries: how often to begin again after a preemption.
          keep: whether to leave the slice when the job is done.
          sleep: waits between two looks at the queue.

        Raises:
          UserError: no slice can be had, the run failed, its connection is lost, or it was preempted too often.
        """
        self.pack()
        for attempt in range(retries + 1):
            self.started = False
            try:
                self.create(sleep)
                self.install()
                self.start()
                self.follow(sleep)
            except CommandFailed as failure:
                if not self.is_lost():
                    raise self.failed(failure) from failure
                print(f"{self.job.name} was preempted ({attempt + 1} of at most {retries + 1} times)", flush=True)
                self.delete()
                continue
            except KeyboardInterrupt:
                print(f"\nthe job goes on without this terminal\nfollow it: {shlex.join(self.following())}" if self.started else
                      f"\n{self.job.name} may be there already, or still come, and cost money", flush=True)  # fmt: skip
                print(f"delete it: {shlex.join(self.deleting())}", flush=True)
                raise
            if not keep:
                self.delete()
            return
        raise UserError(
            f"{self.job.name} was preempted {retries + 1} times",
            remedy="run the same command again: the run continues from its last checkpoint",
        )

    def pack(self) -> None:
        """Pack the checkout as it is, without what git ignores: neither runs nor virtual environments.

        Raises:
          UserError: ``source`` is no git checkout, or it lacks a file that git knows.
        """
        source, names = shlex.quote(self.job.source), f"/tmp/{self.job.name}.files"
        try:
            self.shell.run(("sh", "-c", f"git -C {source} ls-files -coz --exclude-standard > {names} && "
                                        f"tar -C {source} --null -T {names} -czf {self.archive}"))  # fmt: skip
        except CommandFailed as failure:
            last = failure.output.strip().splitlines()[-1:] or [str(failure)]
            raise UserError(f"the checkout {self.job.source} cannot be packed: {last[0]}",
                            remedy="give a git checkout as --source; git status says what it lacks") from failure  # fmt: skip

    def create(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Create the slice and wait until it is there.

        Raises:
          UserError: it cannot be had; nothing is left behind.
        """
        job = self.job
        what = (*job.accelerator, *(("--spot",) if job.spot else ()))
        version = job.offer.runtime
        alpha = ("gcloud", "alpha", *TPUS[1:]) if job.reservation else TPUS  # which knows of reservations by name
        booked = ("--reservation", job.reservation) if job.reservation else ()
        try:
            if not self.queued:
                self.shell.run((*TPUS, "tpu-vm", "create", job.name, *self.place, *what, "--version", version))
                return
            self.shell.run((*alpha, "queued-resources", "create", job.name, "--node-id", job.name, *self.place, *what, *booked,
                            "--runtime-version", version))  # fmt: skip
        except CommandFailed as failure:
            raise self.refused(failure.output, failure) from failure
        try:
            while (state := self.patiently(self.queue_state, sleep)) in WAITING:
                sleep(POLL_SECONDS)
        except CommandFailed as failure:
            self.delete()
            raise self.refused(failure.output, failure) from failure
        if not self.shell.dry_run and state != "ACTIVE":
            self.delete()
            raise self.refused(state, None)

    def patiently(self, look: Callable[[], Any], sleep: Callable[[float], None], code: int | None = None) -> Any:
        """Return what a look gives; one that fails, perhaps with this exit code only, is tried again some times."""
        for _ in range(PATIENCE):
            try:
                return look()
            except CommandFailed as failure:
                if code not in (None, failure.code) or self.is_lost():
                    raise
                sleep(POLL_SECONDS)
        return look()

    def queue_state(self) -> str:
        """Return the state of the queued resource; "" in a dry run."""
        said = self.shell.run((*TPUS, "queued-resources", "describe", self.job.name, *self.place, "--format", "value(state.state)"))
        return said.strip().splitlines()[-1] if said.strip() else ""

    def install(self) -> None:
        """Copy the checkout to all workers, install it there, and mount the bucket."""
        job, bucket = self.job, shlex.quote(self.job.bucket)
        self.shell.run((*TPUS, "tpu-vm", "scp", self.archive, f"{job.name}:", *self.place, "--worker", "all"))
        self.on("all", f"rm -rf mlm_jax && mkdir mlm_jax && tar -C mlm_jax -xzf {Path(self.archive).name}")
        self.on("all", install_command("'./mlm_jax[tpu]'"))
        self.on("all", INSTALL_GCSFUSE)
        self.on("all", f"sudo mkdir -p {job.mount} && sudo chown $USER {job.mount} && "
                       f"(mountpoint -q {job.mount} || gcsfuse --implicit-dirs {bucket} {job.mount})")  # fmt: skip

    def start(self) -> None:
        """Begin to train on all workers; they go on when this terminal is closed."""
        name = self.job.name
        body = shlex.quote(f"{self.job.train()}; echo $? > ~/{name}.exit")
        self.started = True
        self.on("all", f"rm -f ~/{name}.exit; cd mlm_jax && (PATH=~/venv/bin:$PATH nohup sh -c {body} > ~/{name}.log 2>&1 &)")

    def follow(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Show worker 0's log until it ends, then ask every worker how it ended.

        A connection that breaks while the slice is there is made anew, and shows the log from its beginning.
        """
        self.patiently(lambda: self.shell.run(self.following()), sleep, SSH_FAILED)
        name = self.job.name
        self.on("all", f"timeout 120 sh -c 'until [ -f ~/{name}.exit ]; do sleep 1; done'; exit $(cat ~/{name}.exit || echo 1)")

    def following(self) -> tuple[str, ...]:
        """Return the command that shows worker 0's log as it grows, and ends with the run."""
        name = self.job.name
        shown = f"tail -n +1 -F ~/{name}.log & until [ -f ~/{name}.exit ]; do sleep 1; done; sleep 1; kill $!"
        return self._ssh("0", shown)

    def deleting(self) -> tuple[str, ...]:
        """Return the command that gives the slice back."""
        if self.queued:
            return (*TPUS, "queued-resources", "delete", self.job.name, *self.place, "--force", "--quiet")
        return (*TPUS, "tpu-vm", "delete", self.job.name, *self.place, "--quiet")

    def delete(self) -> None:
        """Give the slice back.

        Raises:
          UserError: that failed, and it goes on costing money.
        """
        try:
            self.shell.run(self.deleting())
        except CommandFailed as failure:
            raise UserError(f"{self.job.name} could not be deleted and may go on costing money",
                            remedy=shlex.join(self.deleting())) from failure  # fmt: skip

    def is_lost(self) -> bool:
        """Return whether the slice was taken back."""
        try:
            state = self.shell.run((*TPUS, "tpu-vm", "describe", self.job.name, *self.place, "--format", "value(state)"))
        except CommandFailed as failure:
            return "NOT_FOUND" in failure.output or "not found" in failure.output
        return any(lost in state for lost in LOST)

    def on(self, worker: str, command: str) -> None:
        """Run a shell command on a worker, or on all."""
        self.shell.run(self._ssh(worker, command))

    def failed(self, failure: CommandFailed) -> UserError:
        """Return the error that names the worker on which the run failed."""
        if failure.code == SSH_FAILED:
            return UserError(f"the connection to {self.job.name} is lost; what was begun there may go on",
                             remedy=f"follow it: {shlex.join(self.following())}; "
                                    f"delete it: {shlex.join(self.deleting())}")  # fmt: skip
        found = re.search(r"worker[ :]*(\d+)", failure.output)
        where = f"worker {found[1]} of {self.job.name}" if found else self.job.name
        last = next((line.strip() for line in reversed(failure.output.splitlines()) if "error" in line.lower()), "")
        return UserError(f"the run failed on {where}{': ' + last if last else ''}",
                         remedy=f"the slice is still there; delete it: {shlex.join(self.deleting())}")  # fmt: skip

    def refused(self, output: str, failure: CommandFailed | None) -> UserError:
        """Return the error that says why no slice can be had."""
        facts = {"type": self.job.accelerator_type, "zone": self.job.zone, "name": self.job.name,
                 "delete": shlex.join(self.deleting())}  # fmt: skip
        for pattern, problem, remedy in REASONS:
            if re.search(pattern, output):
                return UserError(problem.format(**facts), remedy=remedy.format(**facts))
        last = output.strip().splitlines()[-1] if output.strip() else str(failure)
        return UserError(f"{self.job.accelerator_type} cannot be had in {self.job.zone}: {last}")

    def _ssh(self, worker: str, command: str) -> tuple[str, ...]:
        return (*TPUS, "tpu-vm", "ssh", self.job.name, *self.place, "--worker", worker, "--command", command)
