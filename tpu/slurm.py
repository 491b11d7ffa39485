"""Slurm: a batch script for GPU clusters; a process a GPU, which JAX joins by Slurm's own variables.

https://slurm.schedmd.com/sbatch.html
"""

from __future__ import annotations

import shlex

from mlm_jax.common.errors import UserError
from tpu.job import Job

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={gpus}
#SBATCH --gpus-per-node={gpus}
#SBATCH --exclusive{reservation}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={name}.%j.log
#SBATCH --signal=B:USR1@120
# JAX takes one GPU for each process of a node. Two minutes before the end of the job's time this script gets SIGUSR1 and
# passes SIGTERM on: a checkpoint is saved, and the job, requeued, continues from it in the same workdir. Preempted jobs
# and those of nodes that fail Slurm requeues itself.
set -euo pipefail
cd {source}
requeue=
trap 'requeue=1; kill -TERM "$run"' USR1
srun --kill-on-bad-exit=1 {train} &
run=$! code=0
wait "$run" || code=$?
if [ -n "$requeue" ]; then
  wait "$run" || true
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def script(job: Job) -> str:
    """Return the batch script.

    Raises:
      UserError: the topology is not of GPUs, or there is a bucket, which nothing here would mount.
    """
    if job.topology.chip.platform != "gpu":
        raise UserError(f"{job.topology} is not a GPU topology", remedy="write --topology H100:16 for two nodes of eight")
    if job.bucket:
        raise UserError("a Slurm cluster has file systems that all nodes share", remedy="leave --bucket out")
    reservation = f"\n#SBATCH --reservation={job.reservation}" if job.reservation else ""
    return SCRIPT.format(name=job.name, nodes=job.hosts, gpus=job.chips_per_host, reservation=reservation,
                         source=shlex.quote(job.source), train=job.train())  # fmt: skip
