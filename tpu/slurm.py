"""Slurm: a batch script for GPU clusters; a process a GPU, which JAX joins by Slurm's own variables.

https://slurm.schedmd.com/sbatch.html
"""

from __future__ import annotations

import shlex

from mlm_jax.common.errors import UserError
from tpu.job import UNFINISHED, Job

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
#SBATCH --signal=TERM@120
# JAX takes one GPU for each process of a node. Two minutes before the end of the job's time Slurm sends SIGTERM to the
# run, as it does before a preemption that leaves it time. A run that a signal stops saves a checkpoint and ends with exit
# code {unfinished}; the job, requeued, continues from it in the same workdir. Slurm itself requeues jobs of nodes that fail.
set -uo pipefail
cd {source} || exit 1
# A process that fails ends the others itself; after being stopped, all of them still save.
srun --kill-on-bad-exit=0 --wait=600 {train}
code=$?
if [ "$code" = {unfinished} ]; then
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
    return SCRIPT.format(name=job.name, nodes=job.hosts, gpus=job.chips_per_host, reservation=reservation, unfinished=UNFINISHED,
                         source=shlex.quote(job.source), train=job.train())  # fmt: skip
