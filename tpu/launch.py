r"""Launch a training run on machines with accelerators, or print the commands that would.

    python -m tpu.launch --config configs/mmbert_base.py --topology v5e:4x4 --target tpu-vm \
        --zone us-west4-a --bucket my-runs --workdir mmbert --dry-run

Targets: ``tpu-vm`` (Cloud TPU, at once), ``queued`` (Cloud TPU, from the queue), ``gke`` (a JobSet), ``slurm`` (GPU
clusters), ``skypilot``. With ``--dry-run`` every command and file is shown and nothing is done. The same command with
``status``, ``logs`` or ``stop`` after ``tpu.launch`` shows the state or the log of the launched job, or stops it. The launcher
needs neither JAX nor TensorFlow.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from mlm_jax.common.arguments import unrecognized
from mlm_jax.common.errors import UserError, nearest
from mlm_jax.config import file_and_argument, load_config
from mlm_jax.config.module import EXAMPLES
from mlm_jax.parallel.topology import check_mesh, parse
from tpu import gke, needs, skypilot, slurm
from tpu.cloud_tpu import CloudTpu
from tpu.job import Job
from tpu.shell import CommandFailed, Shell

TARGETS = ("tpu-vm", "queued", "gke", "slurm", "skypilot")
VERBS = ("run", "status", "logs", "stop")
CLOUD_TPU = ("tpu-vm", "queued")
NEEDED_BY = {  # {option: targets that use it}
    "project": CLOUD_TPU,
    "zone": (*CLOUD_TPU, "skypilot"),
    "service_account": (*CLOUD_TPU, "gke"),
    "network": CLOUD_TPU,
    "subnetwork": CLOUD_TPU,
    "internal_ips": CLOUD_TPU,
    "iap": CLOUD_TPU,
    "image": ("gke",),
    "namespace": ("gke",),
    "queue": ("gke",),
    "setup": ("slurm",),
    "cpus": ("slurm",),
    "spot": (*CLOUD_TPU, "gke", "skypilot"),
    "reservation": ("queued", "gke", "slurm"),
    "calendar": ("queued",),
    "retries": (*CLOUD_TPU, "gke"),
    "keep": CLOUD_TPU,
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    one, _, rest = (__doc__ or "").partition("\n\n")
    found = argparse.ArgumentParser(
        prog="python -m tpu.launch", description=one, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = found.add_argument
    add(
        "verb",
        nargs="?",
        metavar="{" + ",".join(VERBS) + "}",
        default="run",
        help="run (default); or status, logs or stop for a job that was launched with the same options",
    )
    add("--config", required=True, help="FILE.py or FILE.py:argument, in the checkout that --source names")
    add("--topology", required=True, help="v5e:4x4, v5p:8x8x8, 2xv5e:16x16 (two slices), H100:16")
    add(
        "--workdir",
        required=True,
        help="workdir of the run, below the bucket if there is one; the same workdir continues the run",
    )
    add("--target", choices=TARGETS, default="tpu-vm", help="target platform (tpu-vm); see below")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key; repeatable")
    add(
        "--sweep",
        action="store_true",
        help="launch each trial of the config's sweep(), below WORKDIR; slurm: a job array",
    )
    add("--name", default="", help="name of machines and job; made from the config's name if not given")
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="environment variable of the run; repeatable")
    add(
        "--secret",
        action="append",
        default=[],
        metavar="NAME",
        help="environment variable of the run, such as WANDB_API_KEY, whose value is "
        "taken from the launcher's own environment and never shown; repeatable",
    )
    add(
        "--extra", action="append", default=[], help="extra of the package to install as well, such as demo; repeatable"
    )
    add("--bucket", default="", help="Google Cloud Storage bucket for workdirs and stores, mounted at --mount")
    add("--mount", default="/mnt/runs", help="folder on the machines where the bucket is mounted (/mnt/runs)")
    add("--project", default="", help="project of Google Cloud; gcloud's default if not given")
    add("--zone", default="", help="zone of Google Cloud")
    add(
        "--service-account", default="", help="account that the machines act as; it must be able to write to the bucket"
    )
    add("--network", default="", help="VPC network of the machines (tpu-vm, queued)")
    add("--subnetwork", default="", help="subnetwork of that network (tpu-vm, queued)")
    add("--internal-ips", action="store_true", help="no external addresses (tpu-vm, queued)")
    add("--iap", action="store_true", help="connect through Identity-Aware Proxy (tpu-vm, queued)")
    add("--image", default="", help="container made by the Dockerfile of this checkout (gke)")
    add("--namespace", default="", help="namespace of Kubernetes (gke)")
    add("--queue", default="", help="Kueue's local queue that admits the job (gke)")
    add("--setup", default="", help="shell line that activates an environment before the run (slurm)")
    add("--cpus", type=int, default=8, help="CPU cores of each GPU if a job does not take whole nodes (8, slurm)")
    add(
        "--source",
        default=".",
        help="checkout to copy to the machines; on slurm and gke, the folder where the machines find it",
    )
    add("--spot", action="store_true", help="cheaper machines that may be preempted")
    add("--reservation", default="", help="name of a reservation of machines (queued, gke, slurm)")
    add("--calendar", action="store_true", help="the reservation was booked in calendar mode (queued)")
    add(
        "--retries",
        type=int,
        default=10,
        help="largest number of restarts after a preemption, or on gke after an error (10)",
    )
    add("--keep", action="store_true", help="keep the slice when the run is done (tpu-vm, queued)")
    add("--dry-run", action="store_true", help="show commands and files only")
    return found


def jobs(options: argparse.Namespace) -> list[Job]:
    """Return the runs to launch: one, or one for each trial of a sweep.

    Raises:
      UserError: there is no such config or topology, a setting does not exist, the mesh does not fit the topology, the
        machines would not have a file that the config names, or the target does not use a given option.
    """
    for option, targets in NEEDED_BY.items():
        if getattr(options, option) != parser().get_default(option) and options.target not in targets:
            raise UserError(
                f"--{option.replace('_', '-')} has no effect with --target {options.target}",
                remedy=f"leave it out, or use --target {' or '.join(targets)}",
            )
    topology = parse(options.topology)
    settings: dict[str, tuple[str, ...]] = {"": tuple(options.set)}
    if options.sweep:
        from mlm_jax.run.sweep import read_trials, trial_name, trial_settings

        settings = {trial_name(trial): trial_settings(trial, options.set) for trial in read_trials(options.config)}
    base = options.name or Path(options.config.partition(".py")[0]).name
    name = re.sub(r"[^a-z0-9]+", "-", base.lower()).strip("-")
    is_array = options.sweep and options.target == "slurm"
    same = {
        "topology": topology,
        "config": in_checkout(options.config, options.source),
        "bucket": options.bucket.removeprefix("gs://").rstrip("/"),
        "environment": environment(options.env),
        "secrets": tuple(options.secret),
        **{field: getattr(options, field) for field in OPTIONS},
    }
    found = []
    for number, (trial, overrides) in enumerate(settings.items()):
        config = load_config(options.config, overrides)
        check_mesh(config.mesh, topology)  # a mistake is cheaper here than on a pod
        job = Job(
            name=name if is_array or not trial else f"{name}-{number}",
            workdir=f"{options.workdir}/{trial}" if trial else options.workdir,
            overrides=overrides,
            store=config.data.store,
            extras=tuple(dict.fromkeys((*needs.extras_of(config), *options.extra))),
            **same,
        )
        if options.verb == "run":
            check_needs(config, job, options)
        found.append(job)
    return found


OPTIONS = (  # options that are fields of a job with the same name
    "mount",
    "project",
    "zone",
    "service_account",
    "network",
    "subnetwork",
    "internal_ips",
    "iap",
    "spot",
    "reservation",
    "calendar",
    "image",
    "namespace",
    "queue",
    "setup",
    "cpus",
    "source",
)


def environment(given: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return (name, value) of ``NAME=VALUE`` options.

    Raises:
      UserError: an option has no value.
    """
    for text in given:
        if "=" not in text:
            raise UserError(f"--env {text} has no value", remedy="write --env NAME=VALUE, or --secret NAME")
    return tuple((name, value) for name, _, value in (text.partition("=") for text in given))


def check_needs(config: ConfigDict, job: Job, options: argparse.Namespace) -> None:
    """Check from this machine that the machines of the job will have everything that the run needs.

    Raises:
      UserError: something would be missing.
    """
    job.secret_values()
    if options.target == "slurm":
        slurm.script([job])
        if not options.dry_run:
            needs.check_here(config, job)
        return
    job.check_bucket()
    needs.check_files(config, job)


def in_checkout(config: str, source: str) -> str:
    """Return the path of a config, with its argument, relative to the root of the checkout that machines get.

    Raises:
      UserError: the config lies outside of the checkout.
    """
    file, argument = file_and_argument(config)
    if EXAMPLES in file.parents:  # a config of the installed package, which the machines have as well
        return config
    root = Path(source).resolve()
    if not file.resolve().is_relative_to(root):
        raise UserError(
            "the machines would not have this config: it lies outside of --source",
            file=file,
            remedy=f"put it below {root}, or name the checkout that holds it",
        )
    return str(file.resolve().relative_to(root)) + (f":{argument}" if argument else "")


def launch(launched: Sequence[Job], shell: Shell, options: argparse.Namespace) -> None:
    """Launch jobs on the target that the options name, one after the other, or as one array on Slurm.

    Raises:
      UserError: the target does not support the job, or a job failed; the message names machines that still exist, and the
        command that deletes them.
    """
    if options.target == "slurm":
        return submit(f"{launched[0].name}.sbatch", slurm.script(launched), ("sbatch",), shell)
    for job in launched:
        if options.target == "skypilot":
            task = skypilot.task(job)
            needs.check_store(job, shell)
            submit(f"{job.name}.sky.yaml", task, skypilot.launching(job), shell)
        elif options.target == "gke":
            manifest = gke.manifest(job, retries=options.retries)
            needs.check_store(job, shell)
            needs.check_image(job, shell)
            if job.secrets:
                apply_secret(job, shell)
            submit(f"{job.name}.yaml", manifest, ("kubectl", "apply", "-f"), shell)
        else:
            cloud = CloudTpu(job, shell, queued=options.target == "queued")
            needs.check_store(job, shell)
            cloud.launch(retries=options.retries, keep=options.keep)


def submit(file: str, text: str, command: Sequence[str], shell: Shell) -> None:
    """Write a file, and pass it to a command.

    Raises:
      UserError: the command refuses the file.
    """
    shell.write(file, text)
    try:
        shell.run((*command, file))
    except CommandFailed as failure:
        raise UserError(f"{command[0]} refused the job: {failure.reason()}", file=file) from failure


def apply_secret(job: Job, shell: Shell) -> None:
    """Make the Kubernetes Secret of a job, with a temporary file that only its owner may read."""
    with shell.scratch() as folder:
        file = folder / "secret.yaml"
        shell.write(file, gke.secret(job), shown=f"({', '.join(job.secrets)})\n")
        try:
            shell.run(("kubectl", "apply", "-f", str(file)))
        except CommandFailed as failure:
            raise UserError("kubectl refused the secret", remedy="see its message above") from failure


def look(verb: str, job: Job, shell: Shell, options: argparse.Namespace) -> None:
    """Show the status or the log of a job, or stop it.

    Raises:
      UserError: the target's program fails.
    """
    try:
        if options.target in CLOUD_TPU:
            getattr(CloudTpu(job, shell, queued=options.target == "queued"), verb)()
        else:
            target = {"gke": gke, "slurm": slurm, "skypilot": skypilot}[options.target]
            shell.run(getattr(target, verb)(job))
    except CommandFailed as failure:
        remedy = "check --name, --target and --zone"
        raise UserError(f"{verb} of {job.name}: {failure.reason()}", remedy=remedy) from failure


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    own = parser()
    options, rest = own.parse_known_args(arguments)
    if rest:
        own.error(unrecognized(rest, own))
    if options.verb not in VERBS:
        own.error(
            f"there is no verb {options.verb!r}{nearest(options.verb, VERBS) or '.'} The verbs are {', '.join(VERBS)}"
        )
    if arguments is None:
        # A process of its own: a closed terminal ends it like Ctrl-C, so that temporary files are removed.
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.default_int_handler)
    try:
        launched, shell = jobs(options), Shell(options.dry_run)
        if options.verb == "run":
            launch(launched, shell, options)
        else:
            for job in {job.name: job for job in launched}.values():
                look(options.verb, job, shell, options)
    except UserError as error:
        print(f"tpu.launch: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of the output has closed the pipe, as "| head" does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
