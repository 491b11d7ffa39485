"""Cloud TPU: create a slice (at once or from the queue), install, train on all workers, continue after a preemption.

Commands: https://docs.cloud.google.com/sdk/gcloud/reference/compute/tpus
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlm_jax.common.errors import UNFINISHED, UserError
from tpu import worker
from tpu.job import RENAME_LIMIT, Job, install_command
from tpu.shell import CommandFailed, Shell

TPUS = ("gcloud", "compute", "tpus")
CHECKOUT, SCRIPT, SECRETS = "checkout.tar.gz", "run.sh", "secrets"  # files that are copied to the workers
WAITING = ("ACCEPTED", "PROVISIONING", "CREATING", "WAITING_FOR_RESOURCES")  # states of a queued resource
LOST = ("PREEMPTED", "TERMINATED", "SUSPENDED", "SUSPENDING", "FAILED")
POLL_SECONDS = 30
PATIENCE = 10  # consecutive failures of reading the queue or following a log before the launcher gives up
SIGNAL_SECONDS = 30  # time from a preemption's signal to the slice's new state
SSH_FAILED = 255  # exit code of ssh itself, not of the remote command
INSTALL_GCSFUSE = (  # not all images have gcsfuse
    "command -v gcsfuse || (curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg | "
    "sudo tee /usr/share/keyrings/cloud.google.asc > /dev/null && echo deb '[signed-by=/usr/share/keyrings/cloud.google.asc]' "
    "https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -c -s) main | sudo tee /etc/apt/sources.list.d/gcsfuse.list && "
    "sudo apt-get -q update && sudo apt-get -q install -y gcsfuse)"
)
REASONS = (  # (messages of gcloud when it cannot create a slice, problem, remedy)
    (
        r"no more capacity|[Ii]nsufficient.*capacity|[Ss]tockout|ZONE_RESOURCE_POOL_EXHAUSTED",
        "{zone} has no {type} left at the moment",
        "queue for one (--target queued), or take another --zone",
    ),
    (
        r"[Qq]uota|RESOURCE_EXHAUSTED",
        "there is no quota for {type} in {zone}",
        "ask for quota in the console (IAM & Admin > Quotas), or take another --zone or --topology",
    ),
    (
        r"already exists|ALREADY_EXISTS",
        "a TPU with the name {name} already exists",
        "choose another --name, or delete it: {delete}",
    ),
    (
        r"PERMISSION_DENIED|permission|auth login",
        "gcloud may not create TPUs in this project",
        "run gcloud auth login, and check --project",
    ),
)


class CloudTpu:
    """The commands of one job on Cloud TPU VMs.

    Args:
      job: the job to launch.
      shell: runs or shows the commands.
      queued: whether to queue for the slice.
    """

    def __init__(self, job: Job, shell: Shell, *, queued: bool):
        job.check_cloud_tpu()
        if not job.zone:
            raise UserError("no zone was given", remedy="give --zone, such as --zone us-west4-a")
        job.check_bucket()
        slices = job.topology.slices
        if slices > 1 and not queued:
            raise UserError("several slices are created together by the queue", remedy="use --target queued or gke")
        self.job, self.shell, self.queued = job, shell, queued
        self.started = False  # whether the run has begun
        self.place = (*(("--project", job.project) if job.project else ()), "--zone", job.zone)
        self.nodes = [job.name] if slices == 1 else [f"{job.name}-{number}" for number in range(slices)]

    def launch(self, *, retries: int, keep: bool, sleep: Callable[[float], None] = time.sleep) -> None:
        """Run the job until it is complete, on several slices if necessary.

        A run that was stopped by a signal is continued: on the same slice if it still exists, otherwise on a new one.

        Args:
          retries: number of times to continue after a preemption or a signal.
          keep: whether to keep the slice when the job is done.
          sleep: waits between two readings of the queue.

        Raises:
          UserError: no slice is available, the run failed, its connection is lost, or it was interrupted too often.
        """
        try:
            with self.shell.scratch() as scratch:
                self.pack(scratch)
                self._launch(scratch, retries, keep, sleep)
        except KeyboardInterrupt:
            print(
                f"\nthe job goes on without this terminal\nfollow it: {shlex.join(self.following())}"
                if self.started
                else f"\n{self.job.name} may be there already, or still come, and cost money",
                flush=True,
            )
            print(f"delete it: {shlex.join(self.deleting())}", flush=True)
            raise

    def _launch(self, scratch: Path, retries: int, keep: bool, sleep: Callable[[float], None]) -> None:
        has_slice = False
        for attempt in range(retries + 1):
            self.started = False
            try:
                if not has_slice:
                    self.create(sleep)
                    self.install(scratch)
                    has_slice = True
                self.start()
                if self.follow(sleep):
                    break
                what = "was stopped by a signal"
                sleep(SIGNAL_SECONDS)  # a preemption's signal arrives before the slice's state changes
                has_slice = not self.is_lost()
            except CommandFailed as failure:
                if not self.is_lost():
                    raise self.failed(failure) from failure
                what, has_slice = "was preempted", False
            print(f"{self.job.name} {what} ({attempt + 1} of at most {retries + 1} times)", flush=True)
            if not has_slice:
                self.delete()
        else:
            left = f"; the slice is still there, delete it: {shlex.join(self.deleting())}" if has_slice else ""
            raise UserError(
                f"{self.job.name} was interrupted {retries + 1} times",
                remedy=f"run the same command again: the run continues from its last checkpoint{left}",
            )
        if not keep:
            self.delete()

    def pack(self, scratch: Path) -> None:
        """Write the files for the workers to a folder: the checkout without files that git ignores, and the script.

        Raises:
          UserError: ``source`` is not a git checkout, or a file that git tracks is missing.
        """
        source, names, archive = (
            shlex.quote(str(path)) for path in (self.job.source, scratch / "files", scratch / CHECKOUT)
        )
        try:
            self.shell.run(
                (
                    "sh",
                    "-c",
                    f"git -C {source} ls-files -coz --exclude-standard > {names} && "
                    f"tar -C {source} --null -T {names} -czf {archive}",
                )
            )
        except CommandFailed as failure:
            raise UserError(
                f"the checkout {self.job.source} cannot be packed: {failure.reason()}",
                remedy="give a git checkout as --source; git status shows missing files",
            ) from failure
        self.shell.write(scratch / SCRIPT, worker.script(self.job))
        if self.job.secrets:
            names = ", ".join(self.job.secrets)
            self.shell.write(
                scratch / SECRETS, "" if self.shell.dry_run else worker.secrets(self.job), shown=f"({names})"
            )

    def create(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Create the slice and wait until it is ready.

        Raises:
          UserError: the slice cannot be created; no part of it is left.
        """
        job = self.job
        what = (*job.accelerator, *(("--spot",) if job.spot else ()), *self.network())
        version = job.offer.runtime
        try:
            if not self.queued:
                self.shell.run(
                    (
                        *self._track(creating=True),
                        "tpu-vm",
                        "create",
                        job.name,
                        *self.place,
                        *what,
                        "--version",
                        version,
                    )
                )
                return
            several = ("--node-count", str(len(self.nodes)), "--node-prefix", job.name)
            named = several if len(self.nodes) > 1 else ("--node-id", job.name)
            self.shell.run(
                (
                    *self._track(creating=True),
                    "queued-resources",
                    "create",
                    job.name,
                    *named,
                    *self.place,
                    *what,
                    *self.booked(),
                    "--runtime-version",
                    version,
                )
            )
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

    def network(self) -> tuple[str, ...]:
        """Return gcloud's options for the service account and the network of the machines."""
        job = self.job
        named = {"--service-account": job.service_account, "--network": job.network, "--subnetwork": job.subnetwork}
        given = tuple(part for option, value in named.items() if value for part in (option, value))
        return (*given, *(("--internal-ips",) if job.internal_ips else ()))

    def booked(self) -> tuple[str, ...]:
        """Return gcloud's options that take booked machines; calendar mode needs the provisioning model as well."""
        if not self.job.reservation:
            return ()
        return (
            "--reservation",
            self.job.reservation,
            *(("--provisioning-model=reservation-bound",) if self.job.calendar else ()),
        )

    def patiently(self, look: Callable[[], Any], sleep: Callable[[float], None], code: int | None = None) -> Any:
        """Return the result of ``look``; if it fails (if ``code`` is given, with this exit code), try again."""
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
        output = self.shell.run(
            (*TPUS, "queued-resources", "describe", self.job.name, *self.place, "--format", "value(state.state)")
        )
        return output.strip().splitlines()[-1] if output.strip() else ""

    def install(self, scratch: Path) -> None:
        """Copy the checkout and the script to all workers, install there, and mount the bucket."""
        job = self.job
        mount, bucket = shlex.quote(job.mount), shlex.quote(job.bucket)
        self.copy(scratch / CHECKOUT, f"{job.name}.tar.gz")
        self.copy(scratch / SCRIPT, f"{job.name}.sh")
        if job.secrets:
            # scp keeps the permissions of a file that exists.
            self.on("all", f"install -m 600 /dev/null {job.name}.env")
            self.copy(scratch / SECRETS, f"{job.name}.env")
        self.on("all", f"rm -rf mlm_jax && mkdir mlm_jax && tar -C mlm_jax -xzf {job.name}.tar.gz")
        self.on("all", install_command(f"'./mlm_jax[{job.packages}]'"))
        self.on("all", INSTALL_GCSFUSE)
        self.on(
            "all",
            f"sudo mkdir -p {mount} && sudo chown $USER {mount} && (mountpoint -q {mount} || "
            f"gcsfuse --implicit-dirs --rename-dir-limit={RENAME_LIMIT} {bucket} {mount})",
        )

    def copy(self, file: Path, name: str) -> None:
        """Copy a file into the home folder of every worker of every slice."""
        for node in self.nodes:
            self.shell.run(
                (
                    *self._track(),
                    "tpu-vm",
                    "scp",
                    str(file),
                    f"{node}:{name}",
                    *self.place,
                    *self._tunnel(),
                    "--worker",
                    "all",
                )
            )

    def start(self) -> None:
        """Start training on all workers; it continues when this terminal is closed."""
        self.started = True
        self.on("all", worker.starting(self.job))

    def follow(self, sleep: Callable[[float], None] = time.sleep) -> bool:
        """Show worker 0's log until it ends, then read the exit code of every worker.

        If the connection breaks while the slice exists, it is made again, and the log is shown from its beginning.

        Returns:
          whether the run is complete; otherwise it was stopped by a signal and can be continued.

        Raises:
          CommandFailed: the run ended with an error.
        """
        self.patiently(lambda: self.shell.run(self.following()), sleep, SSH_FAILED)
        ended = ""
        failures = []
        for node in self.nodes:
            try:
                ended += self.shell.run(self._ssh(node, "all", worker.asking(self.job)))
            except CommandFailed as failure:
                failures.append(failure)
                ended += failure.output
        if failures and not unfinished(ended):
            raise failures[0]
        return not unfinished(ended)

    def following(self) -> tuple[str, ...]:
        """Return the command that shows worker 0's log as it grows, and ends with the run."""
        return self._ssh(self.nodes[0], "0", worker.showing(self.job))

    def logs(self) -> None:
        """Show worker 0's log until the run ends or Ctrl-C."""
        self.shell.run(self.following())

    def status(self) -> None:
        """Show the state of the slice, and of the queue if it came from there."""
        if self.queued:
            self.shell.run(
                (*TPUS, "queued-resources", "describe", self.job.name, *self.place, "--format", "value(state.state)")
            )
        for node in self.nodes:
            self.shell.run((*TPUS, "tpu-vm", "describe", node, *self.place, "--format", "value(state,health)"))

    def stop(self) -> None:
        """Let the run save a checkpoint and end, then delete the slice."""
        try:
            self.on("all", worker.stopping(self.job))
        except CommandFailed as failure:
            print(f"the run could not be stopped first: {failure}", flush=True)
        self.delete()

    def deleting(self) -> tuple[str, ...]:
        """Return the command that deletes the slice."""
        if self.queued:
            return (*TPUS, "queued-resources", "delete", self.job.name, *self.place, "--force", "--quiet")
        return (*TPUS, "tpu-vm", "delete", self.job.name, *self.place, "--quiet")

    def delete(self) -> None:
        """Delete the slice.

        Raises:
          UserError: the command failed, so the slice may go on costing money.
        """
        try:
            self.shell.run(self.deleting())
        except CommandFailed as failure:
            raise UserError(
                f"{self.job.name} could not be deleted and may go on costing money", remedy=shlex.join(self.deleting())
            ) from failure

    def is_lost(self) -> bool:
        """Return whether one of the slices was preempted."""
        for node in self.nodes:
            try:
                state = self.shell.run((*TPUS, "tpu-vm", "describe", node, *self.place, "--format", "value(state)"))
            except CommandFailed as failure:
                if "NOT_FOUND" in failure.output or "not found" in failure.output:
                    return True
                continue
            if any(lost in state for lost in LOST):
                return True
        return False

    def on(self, worker: str, command: str) -> str:
        """Run a shell command on a worker, or on all workers, of every slice, and return its output."""
        return "".join(self.shell.run(self._ssh(node, worker, command)) for node in self.nodes)

    def failed(self, failure: CommandFailed) -> UserError:
        """Return the error that names the worker on which the run failed."""
        if failure.code == SSH_FAILED:
            return UserError(
                f"the connection to {self.job.name} is lost; the run there may still continue",
                remedy=f"follow it: {shlex.join(self.following())}; delete it: {shlex.join(self.deleting())}",
            )
        found = re.search(r"worker[ :]*(\d+)", failure.output)
        where = f"worker {found[1]} of {self.job.name}" if found else self.job.name
        last = next((line.strip() for line in reversed(failure.output.splitlines()) if "error" in line.lower()), "")
        return UserError(
            f"the run failed on {where}{': ' + last if last else ''}",
            remedy=f"the slice is still there; delete it: {shlex.join(self.deleting())}",
        )

    def refused(self, output: str, failure: CommandFailed | None) -> UserError:
        """Return the error with the reason why no slice is available."""
        facts = {
            "type": self.job.accelerator_type,
            "zone": self.job.zone,
            "name": self.job.name,
            "delete": shlex.join(self.deleting()),
        }
        for pattern, problem, remedy in REASONS:
            if re.search(pattern, output):
                return UserError(problem.format(**facts), remedy=remedy.format(**facts))
        why = output if failure is None else failure.reason()
        return UserError(f"{self.job.accelerator_type} cannot be created in {self.job.zone}: {why}")

    def _ssh(self, node: str, worker: str, command: str) -> tuple[str, ...]:
        return (
            *self._track(),
            "tpu-vm",
            "ssh",
            node,
            *self.place,
            *self._tunnel(),
            "--worker",
            worker,
            "--command",
            command,
        )

    def _track(self, *, creating: bool = False) -> tuple[str, ...]:
        """Return the beginning of a command: gcloud, or gcloud alpha if it is needed.

        Only gcloud alpha supports reservations by name, shapes of v5p, and Identity-Aware Proxy (ssh, scp).
        """
        by_shape = "--type" in self.job.accelerator
        needs_alpha = bool(self.job.reservation) or by_shape if creating else self.job.iap
        return ("gcloud", "alpha", *TPUS[1:]) if needs_alpha else TPUS

    def _tunnel(self) -> tuple[str, ...]:
        return ("--tunnel-through-iap",) if self.job.iap else ()


def unfinished(output: str) -> bool:
    """Return whether the workers' exit codes, as :func:`tpu.worker.asking` prints them, show only interruptions by a signal."""
    codes = {int(code) for code in re.findall(worker.ENDED, output)}
    return UNFINISHED in codes and codes <= {0, UNFINISHED}
