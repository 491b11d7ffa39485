"""Joining the processes of a job: from flags, or from the environment of Cloud TPU, GKE or Slurm."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax._src import cloud_tpu_init, distributed  # the client of the coordination service has no public name
from jax.experimental import multihost_utils

from mlm_jax.common.errors import UserError, one_line
from mlm_jax.common.extras import install_command
from mlm_jax.parallel.coordinator import watching_its_end
from mlm_jax.parallel.peers import Peers

HEARTBEAT_SECONDS = 90  # JAX's own heartbeat: it ends a process that can no longer end itself
_watching: list[Peers] = []  # the watchers of the job that this process has joined
FLAGS = ("--coordinator", "--process-count", "--process-index")
# Variables for launchers without a cluster manager. JAX itself reads only the first one.
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
MEGASCALE = ("MEGASCALE_COORDINATOR_ADDRESS", "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID")


@contextmanager
def job(
    coordinator: str | None = None, process_count: int | None = None, process_index: int | None = None
) -> Iterator[None]:
    """Join the job's other processes, if it has any, for the length of a block, and end with them.

    If the block fails in one process, or a process dies, all processes end: with exit code 2 and the message of a
    UserError, or with exit code 1 and a line that names the process (:mod:`mlm_jax.parallel.peers`).

    Args:
      coordinator: "host:port" of process 0; None: from the environment.
      process_count: processes of the job.
      process_index: the index of this process.

    Raises:
      UserError: flags or environment are incomplete, or the other processes cannot be reached.
    """
    initialise(coordinator, process_count, process_index)
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        yield
        return
    peers = Peers(distributed.global_state.client, jax.process_index(), jax.process_count())
    _watching.append(peers)
    peers.start()
    try:
        yield
    except SystemExit:  # stopped by a signal, as every process is
        peers.leave()
        raise
    except BaseException as error:
        peers.fail(error)
    peers.leave()


def initialise(
    coordinator: str | None = None, process_count: int | None = None, process_index: int | None = None
) -> None:
    """Join the job's other processes, if it has any; arguments and errors as in :func:`job`."""
    arguments = from_flags(coordinator, process_count, process_index)
    if arguments is None:
        arguments = from_environment(os.environ)
    if arguments is not None:
        _join(arguments)


def same_everywhere(values: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON values of process 0 on all processes of the job; each process waits for the others.

    Args:
      values: only those of process 0 are used.
    """
    if jax.process_count() == 1:
        return values
    encoded = np.frombuffer(json.dumps(values).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.array(encoded.size)))
    mine = encoded if jax.process_index() == 0 else np.zeros(size, np.uint8)
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(mine), np.uint8).tobytes())


def from_flags(coordinator: str | None, process_count: int | None, process_index: int | None) -> dict[str, Any] | None:
    """Return the arguments of ``jax.distributed.initialize`` that the flags give, or None if there are no flags.

    Raises:
      UserError: the flags are incomplete, or a value is impossible.
    """
    given = dict(zip(FLAGS, (coordinator, process_count, process_index)))
    missing = [flag for flag, value in given.items() if value is None]
    if len(missing) == len(FLAGS):
        return None
    if missing:
        raise UserError(f"{' and '.join(FLAGS)} belong together", remedy=f"give {' and '.join(missing)} as well")
    return _explicit(given)


def from_environment(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the arguments of ``jax.distributed.initialize`` if the environment is that of a job with several processes.

    Arguments that are left out are read by JAX from the same variables, or from the metadata server of a Cloud TPU VM.

    Returns:
      the arguments; None if there is one process only.

    Raises:
      UserError: some of the variables are set and others are not; the message names them.
    """
    if any(name in environment for name in VARIABLES[1:]):
        values = dict(zip(VARIABLES, _complete(environment, VARIABLES, "export all three, or none")))
        for name in VARIABLES[1:]:
            _number(environment, name)
        return _explicit({**values, **{name: int(values[name]) for name in VARIABLES[1:]}})
    if "SLURM_NTASKS" in environment and _number(environment, "SLURM_NTASKS") > 1:
        _complete(environment, SLURM, "start every process with srun")
        return _slurm_devices(environment)
    hosts = environment.get("TPU_PROCESS_ADDRESSES", environment.get("TPU_WORKER_HOSTNAMES", ""))
    if "," in hosts or any(name in environment for name in MEGASCALE):  # GKE
        slices = MEGASCALE if any(name in environment for name in MEGASCALE) else ()
        on_gke = ("TPU_WORKER_ID",) if hosts else ()  # a Cloud TPU VM gets its hosts from the metadata server
        _complete(environment, (*on_gke, *slices), "GKE sets them in the pods of a JobSet that asks for google.com/tpu")
        for name in (*on_gke, *slices[1:]):
            _number(environment, name)
        if not cloud_tpu_init.running_in_cloud_tpu_vm:
            raise UserError(
                "the environment is that of a TPU job, but there is no TPU here, or no libtpu",
                remedy=f"{install_command('tpu')} on a TPU host, or unset TPU_WORKER_HOSTNAMES",
            )
        return {}
    if VARIABLES[0] in environment:
        _complete(environment, VARIABLES, "export all three, or none")
    platforms = environment.get("JAX_PLATFORMS", "tpu")
    is_tpu_vm = cloud_tpu_init.running_in_cloud_tpu_vm and "TPU_SKIP_MDS_QUERY" not in environment
    return {} if is_tpu_vm and "tpu" in platforms else None


def _slurm_devices(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the GPUs of this process. JAX takes one for each task, even if a node has several GPUs and only one task."""
    is_alone = re.fullmatch(r"1(\(x\d+\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", "")) is not None
    if is_alone and "SLURM_GPUS_ON_NODE" in environment and "JAX_LOCAL_DEVICE_IDS" not in environment:
        return {"local_device_ids": list(range(_number(environment, "SLURM_GPUS_ON_NODE")))}
    return {}


def _explicit(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments for coordinator, count and index, given as {name of the flag or variable: value}."""
    (address_name, address), (count_name, count), (index_name, index) = given.items()
    if not re.fullmatch(r".+:\d+", address):
        raise UserError(
            f"{address_name} {address!r} is not HOST:PORT", remedy="the host of process 0, and a free port there"
        )
    if count < 1 or not 0 <= index < count:
        raise UserError(f"{index_name} {index} is not one of {count_name} {count}, counted from 0")
    return {"coordinator_address": address, "num_processes": count, "process_id": index}


def _complete(environment: Mapping[str, str], names: tuple[str, ...], remedy: str) -> list[str]:
    missing = [name for name in names if not environment.get(name)]
    if missing:
        present = [name for name in names if name not in missing]
        raise UserError(
            f"{', '.join(missing)} is missing from the job's environment"
            + (f", which has {', '.join(present)}" if present else ""),
            remedy=remedy,
        )
    return [environment[name] for name in names]


def _number(environment: Mapping[str, str], name: str) -> int:
    if not environment[name].isdecimal():
        raise UserError(f"the environment variable {name} is {environment[name]!r}, which is not a number")
    return int(environment[name])


def _join(arguments: Mapping[str, Any]) -> None:
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        with watching_its_end(_lose_service):
            jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_SECONDS, **arguments)
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"cannot join the job's other processes: {one_line(error)}",
            remedy="check that every process has started and can reach the coordinator",
        ) from error


def _lose_service() -> None:
    """End this process because process 0 is gone; JAX calls this in a thread of its own."""
    while not _watching:  # the job is being joined at this moment
        time.sleep(0.1)
    _watching[-1].lose_service()
