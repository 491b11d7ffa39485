"""What is launched: a config, on a topology, with a workdir that outlives the machines."""

from __future__ import annotations

import dataclasses
import math
import re
import shlex

from mlm_jax.common.errors import UserError
from mlm_jax.parallel.topology import Topology

CLOUD = "https://docs.cloud.google.com/"


@dataclasses.dataclass(frozen=True)
class Offer:
    """What the clouds call a chip.

    Attributes:
      accelerator: prefix of Cloud TPU's accelerator type.
      cores: what the number in that type counts, for each chip.
      runtime: software version of TPU VMs.
      gke: value of the node label ``cloud.google.com/gke-tpu-accelerator``.
      source: where this is from.
    """

    accelerator: str
    cores: int
    runtime: str
    gke: str
    source: str


UNFINISHED = 75  # exit code of mlm-jax train if a signal stopped it with steps remaining (EX_TEMPFAIL of sysexits.h)
# gcsfuse refuses to rename a folder of more files, and a checkpoint is complete when its folder is renamed.
RENAME_LIMIT = 200_000
CHIPS_PER_HOST = 4  # of every slice of several hosts
OFFERS = {
    "v4": Offer("v4", 2, "tpu-ubuntu2204-base", "tpu-v4-podslice", CLOUD + "tpu/docs/v4"),
    "v5e": Offer("v5litepod", 1, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", CLOUD + "tpu/docs/v5e"),
    "v5p": Offer("v5p", 2, "v2-alpha-tpuv5", "tpu-v5p-slice", CLOUD + "tpu/docs/v5p"),
    "v6e": Offer("v6e", 1, "v2-alpha-tpuv6e", "tpu-v6e-slice", CLOUD + "tpu/docs/v6e"),
}  # runtimes: docs/runtimes; labels: kubernetes-engine/docs/concepts/plan-tpus


@dataclasses.dataclass(frozen=True)
class Job:
    """One training run to launch.

    Attributes:
      name: of the machines and of the job: small letters, digits and hyphens.
      config: path in the checkout ``source``, perhaps with ``:argument``.
      workdir: path below ``mount``; the same one after every preemption, so that the run goes on.
      topology: what it runs on.
      overrides: ``key=value`` settings.
      bucket: Google Cloud Storage bucket that is mounted; "" where the workdir is on a file system that all hosts share.
      mount: where the bucket is mounted.
      project: of Google Cloud; "" is gcloud's default.
      zone: of Google Cloud.
      spot: whether the machines may be taken back at any time, for less money.
      reservation: of machines that are booked; "" is none.
      image: container image with mlm_jax, on GKE.
      source: checkout that is copied to the machines.
    """

    name: str
    config: str
    workdir: str
    topology: Topology
    overrides: tuple[str, ...] = ()
    bucket: str = ""
    mount: str = "/mnt/runs"
    project: str = ""
    zone: str = ""
    spot: bool = False
    reservation: str = ""
    image: str = ""
    source: str = "."

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", self.name):
            raise UserError(f"{self.name!r} cannot name a job", remedy="use at most 40 small letters, digits and hyphens")
        if self.bucket and not re.fullmatch(r"[a-z0-9][-_.a-z0-9]*", self.bucket):
            raise UserError(f"{self.bucket!r} is not the name of a bucket", remedy="give --bucket NAME")
        if "://" in self.workdir or (self.bucket and self.workdir.startswith("/")):
            remedy = "give its path below the bucket" if self.bucket else "mount the bucket: --bucket NAME"
            raise UserError(f"--workdir {self.workdir} is not a path below --bucket", remedy=remedy)
        if not self.mount.startswith("/"):
            raise UserError(f"--mount {self.mount} is not an absolute path", remedy="write --mount /mnt/runs")
        chip, count = self.topology.chip, math.prod(self.topology.shape)
        if chip.platform == "cpu":
            raise UserError(f"{self.topology} cannot be launched: no target offers CPU machines",
                            remedy="run mlm-jax train on the machine itself")  # fmt: skip
        if chip.platform == "gpu" and count > chip.chips_per_host and count % chip.chips_per_host:
            whole = count // chip.chips_per_host * chip.chips_per_host
            raise UserError(f"{self.topology} is not a whole number of machines with {chip.chips_per_host} GPUs each",
                            remedy=f"write {chip.name}:{whole} or {chip.name}:{whole + chip.chips_per_host}")  # fmt: skip

    @property
    def hosts(self) -> int:
        """Return how many machines a slice has."""
        chips = math.prod(self.topology.shape)
        per_host = self.topology.chip.chips_per_host if self.topology.chip.platform != "tpu" else CHIPS_PER_HOST
        return -(-chips // per_host)

    @property
    def chips_per_host(self) -> int:
        """Return how many accelerators a machine has."""
        return math.prod(self.topology.shape) // self.hosts

    @property
    def offer(self) -> Offer:
        """Return what Cloud TPU calls the chip.

        Raises:
          UserError: it is none of Cloud TPU's that can be had by name.
        """
        if self.topology.chip.name not in OFFERS:
            raise UserError(f"{self.topology} is not a Cloud TPU", remedy=f"use {', '.join(OFFERS)}, or another --target")
        return OFFERS[self.topology.chip.name]

    @property
    def accelerator_type(self) -> str:
        """Return Cloud TPU's name of one slice, such as ``v5litepod-16`` or ``v5p-1024``."""
        return f"{self.offer.accelerator}-{math.prod(self.topology.shape) * self.offer.cores}"

    @property
    def accelerator(self) -> tuple[str, ...]:
        """Return gcloud's options for one slice; a number of chips of v4 and v5p may have several shapes."""
        if len(self.topology.shape) == 3:
            return "--type", self.offer.accelerator, "--topology", "x".join(map(str, self.topology.shape))
        return "--accelerator-type", self.accelerator_type

    def check_bucket(self) -> None:
        """Raise a UserError where nothing would outlive the machines."""
        if not self.bucket:
            raise UserError("a workdir on the machines' own disks is lost with them", remedy="give --bucket NAME to mount")

    def check_one_slice(self) -> None:
        """Raise a UserError where there are several slices."""
        if self.topology.slices > 1:
            raise UserError("several slices are launched on GKE", remedy="use --target gke, or a topology of one slice")

    @property
    def place(self) -> str:
        """Return the workdir as the machines see it."""
        return f"{self.mount}/{self.workdir}" if self.bucket else self.workdir

    @property
    def logs(self) -> str:
        """Return the folder in the workdir that keeps the machines' logs."""
        return f"{self.place}/logs"

    def train(self) -> str:
        """Return the command that every host runs."""
        settings = [part for override in self.overrides for part in ("--set", override)]
        return shlex.join(["mlm-jax", "train", "--config", self.config, "--workdir", self.place, *settings])

    def exports(self) -> str:
        """Return the shell lines that set the environment of the run."""
        return ""


def install_command(packages: str) -> str:
    """Return the shell command that makes ~/venv with ``packages`` in it; machines' own Python may be too old for JAX."""
    return ("curl -LsSf https://astral.sh/uv/install.sh | sh && ~/.local/bin/uv venv -q --clear --python 3.12 ~/venv && "
            f"~/.local/bin/uv pip install -q --python ~/venv {packages}")  # fmt: skip
