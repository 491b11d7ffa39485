"""A job to launch: a config on a topology, with a workdir that outlives the machines."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import shlex

from mlm_jax.common.errors import UserError
from mlm_jax.parallel.topology import Topology

CLOUD = "https://docs.cloud.google.com/"


@dataclasses.dataclass(frozen=True)
class Offer:
    """Google Cloud's names of a chip.

    Attributes:
      gke: value of the node label ``cloud.google.com/gke-tpu-accelerator``, or ``gke-accelerator`` for a GPU.
      source: the page that lists the names.
      accelerator: prefix of Cloud TPU's accelerator type; "" if the chip is offered on GKE only.
      cores: the number in that type, divided by the number of chips.
      runtime: software version of TPU VMs.
    """

    gke: str
    source: str
    accelerator: str = ""
    cores: int = 1
    runtime: str = ""


# gcsfuse refuses to rename a folder with more files than this, and a checkpoint is complete when its folder is renamed.
RENAME_LIMIT = 200_000
COORDINATOR_PORT = 8476  # port of process 0, on targets that JAX does not detect
CHIPS_PER_HOST = 4  # in every TPU slice of several hosts
OFFERS = {
    "v4": Offer("tpu-v4-podslice", CLOUD + "tpu/docs/v4", "v4", 2, "tpu-ubuntu2204-base"),
    "v5e": Offer("tpu-v5-lite-podslice", CLOUD + "tpu/docs/v5e", "v5litepod", 1, "v2-alpha-tpuv5-lite"),
    "v5p": Offer("tpu-v5p-slice", CLOUD + "tpu/docs/v5p", "v5p", 2, "v2-alpha-tpuv5"),
    "v6e": Offer("tpu-v6e-slice", CLOUD + "tpu/docs/v6e", "v6e", 1, "v2-alpha-tpuv6e"),
    "tpu7x": Offer("tpu7x", CLOUD + "tpu/docs/tpu7x"),
    "A100": Offer("nvidia-a100-80gb", CLOUD + "compute/docs/gpus"),
    "H100": Offer("nvidia-h100-80gb", CLOUD + "compute/docs/gpus"),
    "H200": Offer("nvidia-h200-141gb", CLOUD + "compute/docs/gpus"),
}  # runtimes: docs/runtimes; labels: kubernetes-engine/docs/concepts/plan-tpus and how-to/gpus


@dataclasses.dataclass(frozen=True)
class Job:
    """One training run to launch.

    Attributes:
      name: the name of the machines and of the job: small letters, digits and hyphens.
      config: path in the checkout ``source``, perhaps with ``:argument``.
      workdir: path below ``mount``; the same path after every preemption, so that the run continues.
      topology: the accelerators of the job.
      overrides: ``key=value`` settings.
      store: the token store that the run reads; "" if it makes its own.
      extras: the extras of the package, besides the one for the accelerator: "wandb", for example.
      environment: (name, value) of environment variables of the run.
      secrets: names of environment variables whose values are taken from the launcher's own environment. They go to the
        machines in files that only their owner may read, and never onto a command line or into a log.
      bucket: Google Cloud Storage bucket that is mounted; "" if the workdir is on a file system that all hosts share.
      mount: where the bucket is mounted.
      project: the project of Google Cloud; "" is gcloud's default.
      zone: the zone of Google Cloud.
      service_account: the account that the machines act as; "" is the default of the project (Cloud TPU) or namespace (GKE).
      network: VPC network of the machines; "" is the default.
      subnetwork: the subnetwork of that network.
      internal_ips: whether the machines get no external addresses.
      iap: whether connections go through Identity-Aware Proxy.
      spot: whether to use cheaper machines that may be preempted at any time.
      reservation: the name of a reservation of machines; "" is none.
      calendar: whether the reservation was booked in calendar mode.
      image: container image with mlm_jax, on GKE.
      namespace: the namespace of Kubernetes; "" is kubectl's default.
      queue: Kueue's local queue that admits the job; "" is none.
      setup: shell line that activates an environment before the run, on Slurm.
      cpus: CPU cores of each GPU, on Slurm, if a job does not take whole nodes.
      source: checkout that is copied to the machines.
    """

    name: str
    config: str
    workdir: str
    topology: Topology
    overrides: tuple[str, ...] = ()
    store: str = ""
    extras: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    secrets: tuple[str, ...] = ()
    bucket: str = ""
    mount: str = "/mnt/runs"
    project: str = ""
    zone: str = ""
    service_account: str = ""
    network: str = ""
    subnetwork: str = ""
    internal_ips: bool = False
    iap: bool = False
    spot: bool = False
    reservation: str = ""
    calendar: bool = False
    image: str = ""
    namespace: str = ""
    queue: str = ""
    setup: str = ""
    cpus: int = 8
    source: str = "."

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", self.name):
            raise UserError(
                f"{self.name!r} cannot name a job", remedy="use at most 40 small letters, digits and hyphens"
            )
        self._check_places()
        for name in (*dict(self.environment), *self.secrets):
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise UserError(
                    f"{name!r} cannot name an environment variable", remedy="write --env NAME=VALUE, --secret NAME"
                )
        if self.reservation and not re.fullmatch(r"[-\w./]+", self.reservation):
            raise UserError(f"{self.reservation!r} cannot name a reservation", remedy="give its name as --reservation")
        if self.calendar and not self.reservation:
            raise UserError("--calendar needs a reservation", remedy="name it: --reservation NAME")
        if self.topology.chip.platform == "cpu":
            raise UserError(
                f"{self.topology} cannot be launched: no target offers CPU machines",
                remedy="run mlm-jax train on the machine itself",
            )

    def _check_places(self) -> None:
        if self.bucket and not re.fullmatch(r"[a-z0-9][-_.a-z0-9]*", self.bucket):
            raise UserError(f"{self.bucket!r} is not the name of a bucket", remedy="give --bucket NAME")
        is_outside = self.workdir.startswith("/") or ".." in self.workdir.split("/")
        if "://" in self.workdir or (self.bucket and is_outside):
            remedy = "give its path below the bucket" if self.bucket else "mount the bucket: --bucket NAME"
            raise UserError(f"--workdir {self.workdir} is not a path below --bucket", remedy=remedy)
        if not self.mount.startswith("/"):
            raise UserError(f"--mount {self.mount} is not an absolute path", remedy="write --mount /mnt/runs")

    @property
    def hosts(self) -> int:
        """Return the number of machines of a slice."""
        if self.topology.chip.platform == "gpu":
            return self.topology.hosts
        return -(-math.prod(self.topology.shape) // CHIPS_PER_HOST)

    @property
    def chips_per_host(self) -> int:
        """Return the number of accelerators of a machine."""
        return math.prod(self.topology.shape) // self.hosts

    @property
    def is_gpu(self) -> bool:
        """Return whether the accelerators are GPUs."""
        return self.topology.chip.platform == "gpu"

    @property
    def offer(self) -> Offer:
        """Return Google Cloud's names of the chip.

        Raises:
          UserError: Google Cloud does not offer the chip.
        """
        if self.topology.chip.name not in OFFERS:
            raise UserError(f"{self.topology} is not offered by Google Cloud", remedy=f"use {', '.join(OFFERS)}")
        return OFFERS[self.topology.chip.name]

    def check_cloud_tpu(self) -> None:
        """Raise a UserError if the chip is not offered as Cloud TPU VMs."""
        if self.is_gpu or not self.offer.accelerator:
            what, remedy = (
                ("is not a TPU", "slurm, gke or skypilot") if self.is_gpu else ("is offered on GKE only", "gke")
            )
            raise UserError(f"{self.topology} {what}", remedy=f"use --target {remedy}")

    @property
    def accelerator_type(self) -> str:
        """Return Cloud TPU's name of one slice, such as ``v5litepod-16`` or ``v5p-1024``."""
        return f"{self.offer.accelerator}-{math.prod(self.topology.shape) * self.offer.cores}"

    @property
    def accelerator(self) -> tuple[str, ...]:
        """Return gcloud's options for one slice; for v4 and v5p they include the shape, which the number of chips leaves open."""
        if len(self.topology.shape) == 3:
            return "--type", self.offer.accelerator, "--topology", "x".join(map(str, self.topology.shape))
        return "--accelerator-type", self.accelerator_type

    def check_bucket(self) -> None:
        """Raise a UserError if the workdir would be lost with the machines."""
        if not self.bucket:
            raise UserError(
                "a workdir on the machines' own disks is lost with them", remedy="give --bucket NAME to mount"
            )

    @property
    def place(self) -> str:
        """Return the path of the workdir on the machines."""
        return f"{self.mount}/{self.workdir}" if self.bucket else self.workdir

    @property
    def logs(self) -> str:
        """Return the folder in the workdir that keeps the machines' logs."""
        return f"{self.place}/logs"

    @property
    def packages(self) -> str:
        """Return the extras that the machines install, such as "tpu,wandb"."""
        return ",".join(("cuda" if self.is_gpu else "tpu", *self.extras))

    def train(self) -> str:
        """Return the command that every host runs."""
        settings = [part for override in self.overrides for part in ("--set", override)]
        return shlex.join(["mlm-jax", "train", "--config", self.config, "--workdir", self.place, *settings])

    def exports(self) -> str:
        """Return the shell lines that set the environment of the run, without secrets."""
        return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in self.environment)

    def secret_values(self) -> dict[str, str]:
        """Return the secrets, from the launcher's own environment.

        Raises:
          UserError: a secret is not set there.
        """
        for name in self.secrets:
            if not os.environ.get(name):
                raise UserError(
                    f"the environment variable {name} is not set here", remedy=f"export {name}, or leave out --secret"
                )
        return {name: os.environ[name] for name in self.secrets}


def install_command(packages: str) -> str:
    """Return the shell command that makes ~/venv with ``packages``; the Python of the machines may be too old for JAX."""
    return (
        "curl -LsSf https://astral.sh/uv/install.sh | sh && ~/.local/bin/uv venv -q --clear --python 3.12 ~/venv && "
        f"~/.local/bin/uv pip install -q --python ~/venv {packages}"
    )
