"""Joining the processes of a job: from the environment of Cloud TPU, GKE or Slurm, or from flags."""

from __future__ import annotations

import os

import jax

from mlm_jax.errors import UserError

HEARTBEAT_SECONDS = 60  # a peer that is silent for so long is dead, and the job ends


def initialise(coordinator: str | None = None, process_count: int | None = None, process_index: int | None = None) -> None:
    """Join the job's other processes, if it has any.

    Args:
      coordinator: "host:port" of process 0; None asks the environment.
      process_count: processes of the job.
      process_index: of this process.

    Raises:
      UserError: the flags are incomplete, or the other processes cannot be reached.
    """
    flags = (coordinator, process_count, process_index)
    if any(flag is not None for flag in flags):
        if any(flag is None for flag in flags):
            raise UserError("--coordinator, --process-count and --process-index belong together")
        _join(coordinator_address=coordinator, num_processes=process_count, process_id=process_index)
    elif in_a_cluster():
        _join()


def in_a_cluster() -> bool:
    """Return whether the environment is that of one process of many."""
    environment = os.environ
    return (
        int(environment.get("SLURM_NTASKS", 1)) > 1
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or "MEGASCALE_COORDINATOR_ADDRESS" in environment
        or "JAX_COORDINATOR_ADDRESS" in environment
    )


def _join(**arguments) -> None:
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_SECONDS, **arguments)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"cannot join the job's other processes: {' '.join(str(error).split())[:300]}",
                        remedy="check that every process has started and can reach the coordinator") from error  # fmt: skip
