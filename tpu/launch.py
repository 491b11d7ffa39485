r"""Launch a training run where the accelerators are, or print how.

    python -m tpu.launch --config configs/mmbert_base.py --topology v5e:4x4 --target tpu-vm \
        --zone us-west4-a --bucket my-runs --workdir mmbert --dry-run

Targets: ``tpu-vm`` (Cloud TPU, at once), ``queued`` (Cloud TPU, when there is one), ``gke`` (a JobSet), ``slurm`` (GPU
clusters), ``skypilot``. With ``--dry-run`` every command and file is shown and nothing is done. Neither JAX nor
TensorFlow is needed here.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from mlm_jax.errors import UserError
from mlm_jax.parallel.topology import parse
from tpu import gke, skypilot, slurm
from tpu.cloud_tpu import CloudTpu
from tpu.job import Job
from tpu.shell import CommandFailed, Shell

TARGETS = ("tpu-vm", "queued", "gke", "slurm", "skypilot")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    one, _, rest = (__doc__ or "").partition("\n\n")
    found = argparse.ArgumentParser(
        prog="python -m tpu.launch", description=one, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--config", required=True, help="FILE.py or FILE.py:argument, in the checkout")
    found.add_argument("--topology", required=True, help="v5e:4x4, v5p:8x8x8, 2xv5e:16x16 (two slices), H100:16")
    found.add_argument("--workdir", required=True, help="of the run, below the bucket if there is one; the same to go on")
    found.add_argument("--target", choices=TARGETS, default="tpu-vm")
    found.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key; repeatable")
    found.add_argument("--sweep", action="store_true", help="launch each trial of the config's sweep(), below WORKDIR")
    found.add_argument("--name", default="", help="of machines and job; made of the config's name if not given")
    found.add_argument("--bucket", default="", help="Google Cloud Storage bucket for workdirs and stores, mounted at --mount")
    found.add_argument("--mount", default="/mnt/runs")
    found.add_argument("--project", default="", help="of Google Cloud; gcloud's default if not given")
    found.add_argument("--zone", default="", help="of Google Cloud")
    found.add_argument("--image", default="", help="container with mlm_jax[tpu] and configs/ (gke)")
    found.add_argument("--source", default=".", help="checkout to copy to the machines (tpu-vm, queued, slurm, skypilot)")
    found.add_argument("--spot", action="store_true", help="cheaper machines that may be taken back")
    found.add_argument("--retries", type=int, default=10, help="how often to begin again after a preemption")
    found.add_argument("--keep", action="store_true", help="leave the slice when the run is done (tpu-vm, queued)")
    found.add_argument("--dry-run", action="store_true", help="show commands and files only")
    return found


def jobs(options: argparse.Namespace) -> list[Job]:
    """Return the runs to launch: one, or one for each trial of a sweep.

    Raises:
      UserError: there is no such config or topology, or a setting does not exist.
    """
    from mlm_jax.config import load_config

    topology = parse(options.topology)
    settings: dict[str, tuple[str, ...]] = {"": tuple(options.set)}
    if options.sweep:
        from mlm_jax.sweep import read_trials, trial_name

        settings = {
            trial_name(trial): (*options.set, *(f"{key}={value!r}" for key, value in trial.items()))
            for trial in read_trials(options.config)
        }
    base = options.name or Path(options.config.partition(".py")[0]).name
    found = []
    for number, (trial, overrides) in enumerate(settings.items()):
        load_config(options.config, overrides)  # a mistake is cheaper here than on a pod
        found.append(Job(
            name=re.sub(r"[^a-z0-9]+", "-", base.lower()).strip("-") + (f"-{number}" if trial else ""),
            config=options.config, workdir=f"{options.workdir}/{trial}" if trial else options.workdir, topology=topology,
            overrides=overrides, bucket=options.bucket, mount=options.mount, project=options.project, zone=options.zone,
            spot=options.spot, image=options.image, source=options.source,
        ))  # fmt: skip
    return found


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
    return 0


if __name__ == "__main__":
    sys.exit(main())
