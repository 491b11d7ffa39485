r"""Launch a training run where the accelerators are, or print how.

    python -m tpu.launch --config configs/mmbert_base.py --topology v5e:4x4 --target tpu-vm \
        --zone us-west4-a --bucket my-runs --workdir mmbert --dry-run

Targets: ``tpu-vm`` (Cloud TPU, at once), ``queued`` (Cloud TPU, when there is one), ``gke`` (a JobSet), ``slurm`` (GPU
clusters), ``skypilot``. With ``--dry-run`` every command and file is shown and nothing is done. Neither JAX nor
TensorFlow is needed here.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlm_jax.common.errors import UserError
from mlm_jax.config import file_and_argument, load_config
from mlm_jax.parallel.axes import mesh_shape
from mlm_jax.parallel.topology import Topology, parse
from tpu import gke, skypilot, slurm
from tpu.cloud_tpu import CloudTpu
from tpu.job import Job
from tpu.shell import CommandFailed, Shell

TARGETS = ("tpu-vm", "queued", "gke", "slurm", "skypilot")
NEEDED_BY = {  # {option: targets that it means something to}
    "project": ("tpu-vm", "queued"),
    "zone": ("tpu-vm", "queued", "skypilot"),
    "image": ("gke",),
    "spot": ("tpu-vm", "queued", "gke", "skypilot"),
    "reservation": ("queued", "gke", "slurm"),
    "retries": ("tpu-vm", "queued", "gke"),
    "keep": ("tpu-vm", "queued"),
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    one, _, rest = (__doc__ or "").partition("\n\n")
    found = argparse.ArgumentParser(
        prog="python -m tpu.launch", description=one, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--config", required=True, help="FILE.py or FILE.py:argument, in the checkout that --source names")
    found.add_argument("--topology", required=True, help="v5e:4x4, v5p:8x8x8, 2xv5e:16x16 (two slices), H100:16")
    found.add_argument("--workdir", required=True, help="of the run, below the bucket if there is one; the same to go on")
    found.add_argument("--target", choices=TARGETS, default="tpu-vm", help="where it runs (tpu-vm); see below")
    found.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key; repeatable")
    found.add_argument("--sweep", action="store_true", help="launch each trial of the config's sweep(), below WORKDIR")
    found.add_argument("--name", default="", help="of machines and job; made of the config's name if not given")
    found.add_argument("--bucket", default="", help="Google Cloud Storage bucket for workdirs and stores, mounted at --mount")
    found.add_argument("--mount", default="/mnt/runs", help="folder of the machines that the bucket is mounted at (/mnt/runs)")
    found.add_argument("--project", default="", help="of Google Cloud; gcloud's default if not given")
    found.add_argument("--zone", default="", help="of Google Cloud")
    found.add_argument("--image", default="", help="container with mlm_jax[tpu] and configs/ (gke)")
    found.add_argument("--source", default=".", help="checkout to copy to the machines, or where they find it (slurm, gke)")
    found.add_argument("--spot", action="store_true", help="cheaper machines that may be taken back")
    found.add_argument("--reservation", default="", help="of booked machines to take (queued, gke, slurm)")
    found.add_argument("--retries", type=int, default=10, help="how often to begin again after a preemption (10)")
    found.add_argument("--keep", action="store_true", help="leave the slice when the run is done (tpu-vm, queued)")
    found.add_argument("--dry-run", action="store_true", help="show commands and files only")
    return found


def jobs(options: argparse.Namespace) -> list[Job]:
    """Return the runs to launch: one, or one for each trial of a sweep.

    Raises:
      UserError: there is no such config or topology, a setting does not exist, the mesh does not fit the topology, or an
        option means nothing to the target.
    """
    for option, targets in NEEDED_BY.items():
        if getattr(options, option) != parser().get_default(option) and options.target not in targets:
            raise UserError(f"--{option} means nothing to --target {options.target}",
                            remedy=f"leave it out, or use --target {' or '.join(targets)}")  # fmt: skip
    topology = parse(options.topology)
    settings: dict[str, tuple[str, ...]] = {"": tuple(options.set)}
    if options.sweep:
        from mlm_jax.run.sweep import read_trials, trial_name, trial_settings

        settings = {trial_name(trial): trial_settings(trial, options.set) for trial in read_trials(options.config)}
    base = options.name or Path(options.config.partition(".py")[0]).name
    bucket = options.bucket.removeprefix("gs://").rstrip("/")
    found = []
    for number, (trial, overrides) in enumerate(settings.items()):
        check(load_config(options.config, overrides).mesh, topology)  # a mistake is cheaper here than on a pod
        found.append(Job(
            name=re.sub(r"[^a-z0-9]+", "-", base.lower()).strip("-") + (f"-{number}" if trial else ""),
            config=in_checkout(options.config, options.source),
            workdir=f"{options.workdir}/{trial}" if trial else options.workdir, topology=topology,
            overrides=overrides, bucket=bucket, mount=options.mount, project=options.project, zone=options.zone,
            spot=options.spot, reservation=options.reservation, image=options.image, source=options.source,
        ))  # fmt: skip
    return found


def check(mesh: Mapping[str, int], topology: Topology) -> None:
    """Check that a config's mesh fits a topology.

    Raises:
      UserError: it does not.
    """
    if mesh["slices"] != topology.slices:
        raise UserError(f"{topology} has {topology.slices} slice(s), and mesh.slices is {mesh['slices']}",
                        remedy=f"add --set mesh.slices={topology.slices}")  # fmt: skip
    mesh_shape(mesh, topology.device_count)


def in_checkout(config: str, source: str) -> str:
    """Return the path of a config, with its argument, from the root of the checkout that machines get.

    Raises:
      UserError: it does not lie in there.
    """
    file, argument = file_and_argument(config)
    root = Path(source).resolve()
    if not file.resolve().is_relative_to(root):
        raise UserError("the machines would not have this config: it lies outside of --source", file=file,
                        remedy=f"put it below {root}, or name the checkout that holds it")  # fmt: skip
    return str(file.resolve().relative_to(root)) + (f":{argument}" if argument else "")


def launch(job: Job, shell: Shell, options: argparse.Namespace) -> None:
    """Launch one job on the target that the options name.

    Raises:
      UserError: the target cannot do it, or it failed; the message says what is left and how to delete it.
    """
    if options.target in ("tpu-vm", "queued"):
        cloud = CloudTpu(job, shell, queued=options.target == "queued")
        return cloud.launch(retries=options.retries, keep=options.keep)
    file, text, command = {
        "gke": lambda: (f"{job.name}.yaml", gke.manifest(job, retries=options.retries), ("kubectl", "apply", "-f")),
        "slurm": lambda: (f"{job.name}.sbatch", slurm.script(job), ("sbatch",)),
        "skypilot": lambda: (f"{job.name}.sky.yaml", skypilot.task(job), ("sky", "jobs", "launch", "--yes", "--detach-run")),
    }[options.target]()
    shell.write(file, text)
    try:
        shell.run((*command, file))
    except CommandFailed as failure:
        last = failure.output.strip().splitlines()[-1:] or [str(failure)]
        raise UserError(f"{command[0]} refused the job: {last[0]}", file=file) from failure


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = parser().parse_args(arguments)
    try:
        for job in jobs(options):
            launch(job, Shell(options.dry_run), options)
    except UserError as error:
        print(f"tpu.launch: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # as of "| head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
